"""What the report's template shows: verdict cards, facts and tables, as plain values made from rows and analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results import plots, report_text, scaling_tables, tables
from results.analysis import main_rows
from results.record import Status
from results.rows import Row, value


def facts(index: Mapping[str, Any], rows: Sequence[Row], analysis: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures under the opening paragraph: title, number, and a line on what it is of."""
    counts, span = analysis["counts"], analysis["span"]
    metric = index["primary_metric"]
    scored = [row for row in main_rows(rows, index) if row["status"] == Status.COMPLETED and value(row, metric) is not None]
    found = [("completed", f"{counts['completed']} of {counts['runs']}", "runs")]
    if scored:
        choose = max if index.get("metrics", {}).get(metric, {}).get("direction") == "max" else min
        best = choose(scored, key=lambda row: row["metrics"][metric])
        name = index.get("variants", {}).get(best["variant"], best["variant"])
        found.append((f"best {tables.heading(metric, index)}", tables.number(value(best, metric)), f"{name}, {best['size']}"))
    found.append(("took", report_text.duration(span["wall_s"]), f"{report_text.duration(span['runs_s'])} of runs"))
    if analysis["equality"]:
        arms = [arm for arm in analysis["equality"]["arms"] if not arm["reference"]]
        passed = sum(bool(arm["gate"] and arm["gate"]["passed"]) for arm in arms)
        found.append(("engines equal to the reference", f"{passed} of {len(arms)}", "loss curves within tolerance"))
    if "peak" in analysis["planner"]:
        peak = analysis["planner"]["peak"]
        found.append(
            (
                "planned / measured peak",
                tables.number(peak["median"]),
                f"median; {tables.number(peak['min'])} to {tables.number(peak['max'])}",
            )
        )
    return found


_WORDS = {"holds": ("✓", "holds"), "fails": ("✕", "fails"), "cannot_tell": ("?", "cannot tell")}


def card(claim: Mapping[str, Any]) -> dict[str, Any]:
    """One claim's card: sign and word of the verdict, effect with interval, and the places of the gauge."""
    sign, word = _WORDS[claim["verdict"]]
    effect, low, high, bound = (claim.get(key) for key in ("effect", "low", "high", "bound"))
    return {
        "claim": claim["claim"],
        "verdict": claim["verdict"],
        "sign": sign,
        "word": word,
        "statement": claim.get("statement") or claim["claim"],
        "source": claim.get("source", ""),
        "detail": claim.get("detail", ""),
        "effect": None if effect is None else tables.number(effect),
        "interval": "" if low is None or high is None else f"{tables.number(low)} to {tables.number(high)}",
        "bound": "" if bound is None else f"bound {tables.number(bound)}",
        "gauge": _gauge(effect, low, high, bound),
    }


def _gauge(effect: float | None, low: float | None, high: float | None, bound: float | None) -> dict[str, Any] | None:
    """Places, in per cent of the card's width, of interval, effect and bound."""
    if effect is None or low is None or high is None:
        return None
    marks = [effect, low, high, *([] if bound is None else [bound])]
    first, span = min(marks), (max(marks) - min(marks)) or 1.0

    def place(number: float) -> float:
        return round(10 + 80 * (number - first) / span, 2)

    return {
        "low": place(low),
        "width": round(place(high) - place(low), 2),
        "effect": place(effect),
        "bound": None if bound is None else place(bound),
    }


def fit_line(fit: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the saturation table; numbers with their intervals where the variant has sizes enough for a fit."""
    judged = fit["aicc_gain"] is not None  # below five sizes the numbers are those of an interpolation
    law = fit["robust"] if judged else None

    def with_interval(name: str) -> tuple[str, str]:
        if not law:
            return "-", ""
        low, high = fit["intervals"].get(name, (None, None))
        return tables.number(law[name]), "" if low is None or high is None else f"{tables.number(low)} to {tables.number(high)}"

    largest = max((point["x"] for point in fit["points"]), default=0)
    n_sat = fit["n_sat"] if judged else None
    beyond = "beyond the sizes run" if n_sat and n_sat > largest else ""
    return {
        "group": fit["group"],
        "title": index.get("variants", {}).get(fit["group"], fit["group"]),
        "verdict": fit["verdict"],
        "sizes": fit["sizes"],
        "e": with_interval("e"),
        "alpha": with_interval("alpha"),
        "slope": "-" if fit["slope3"] is None else f"{fit['slope3']:+.3f}",
        "n_sat": ("-" if n_sat is None else plots.short(float(f"{n_sat:.2g}")), beyond),
        "reason": fit["reason"],
    }


def table_of_runs(index: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Head and cells of the table of all runs; ``value`` is what a column is sorted by."""
    columns = tables.row_columns(rows, None, index)
    primary = tables.heading(index["primary_metric"], index)
    lines = []
    for row in rows:
        cells = []
        for place, column in enumerate(columns):
            content = column.get(row)
            key = value(row, "params") if column.heading == "size" else content
            classes = ["right"] if column.right else []
            classes += [f"status-{row['status']}"] if column.heading == "status" else []
            text = column.text(content)
            cells.append(
                {"tag": "td" if place else "th", "text": text, "value": "" if key is None else key, "classes": " ".join(classes)}
            )
        words = [row["run"], row.get("stage", ""), row.get("arm", ""), *(cell["text"] for cell in cells)]
        lines.append(
            {"status": row["status"], "variant": row["variant"], "text": " ".join(map(str, words)).lower(), "cells": cells}
        )
    sort = next((place for place, column in enumerate(columns) if column.heading == primary), None)
    return {"head": [(column.heading, column.right) for column in columns], "rows": lines, "sort": sort}


def equality_table(equality: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The engine comparison: gate and numbers of each arm as text; None where the study has none."""
    if not equality:
        return None
    arms = []
    for arm in equality["arms"]:
        gate = arm["gate"]
        kind, word = "cannot_tell", "not compared"
        if arm["reference"]:
            kind, word = "holds", "reference"
        elif gate:
            kind, word = ("holds", "equal") if gate["passed"] else ("fails", gate["detail"])
        difference = gate["largest_relative_difference"] if gate else None
        arms.append(
            {
                **arm,
                "kind": kind,
                "gate": word,
                "difference": "-" if difference is None else f"{difference:.1e}",
                "step": tables.number(arm["step_s"]),
                "peak": tables.number(arm["peak_gib"]),
            }
        )
    return {**equality, "tolerance": f"{equality['tolerance']:.0e}", "arms": arms}


_INTERVAL = "95 %"


def scaling_table(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The scaling section: head and cells of its table, and its sentences; None where the study asks for none."""
    if not found:
        return None
    columns = scaling_tables.columns(found)
    shown = [column for column in columns if column.heading != _INTERVAL]
    rows = []
    for line in scaling_tables.lines_of(found):
        cells: list[dict[str, Any]] = []
        for column in columns:
            text = column.text(column.get(line))
            if column.heading == _INTERVAL:  # under the number that it is of: the page is narrower than a terminal
                cells[-1]["small"] = text
            else:
                cells.append({"text": text, "small": "", "right": column.right})
        rows.append(cells)
    return {
        "mode": found["mode"],
        "fixed": "the batch of one rank" if found["mode"] == "weak" else "the global batch",
        "head": [(column.heading, column.right) for column in shown],
        "rows": rows,
        "sentences": scaling_tables.sentences(found),
    }


def planner_table(planner: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lines of the table planned / measured, each with its lines by variant and engine."""
    titles = {
        "peak": "peak memory",
        "above_base": "memory above the base, where it exceeds 256 MiB",
        "step": "step time of runs alone",
        "step_beside": "step time of runs beside others, which a plan does not foresee",
    }
    return [
        {
            "title": title,
            **_planner_line(planner[name]),
            "worst": "{variant} {size} {engine} on {ranks}".format(**planner[name]["worst"]),
            "worst_run": planner[name]["worst"]["run"],
            "worst_ratio": tables.number(planner[name]["worst"]["ratio"]),
            "groups": [
                {"title": f"{group['variant']} {group['engine']} on {group['ranks']}", **_planner_line(group)}
                for group in planner[name]["groups"]
            ],
        }
        for name, title in titles.items()
        if name in planner
    ]


def _planner_line(spread: Mapping[str, Any]) -> dict[str, str]:
    return {
        "count": str(spread["count"]),
        "median": tables.number(spread["median"]),
        "range": f"{tables.number(spread['min'])} to {tables.number(spread['max'])}",
        "within": f"{spread['within']:.0%} within {spread['tolerance']:.0%}",
    }


def published_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """One published value as text, with its unit."""
    text = tables.number(row["value"]) + (f" {row['unit']}" if row["unit"] not in {"", "1"} else "")
    return {**row, "name": row["published_as"] or row["variant"], "text": text}


def machine_lines(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One machine and its software, a line per fact that is known."""
    environment = entry["environment"]
    lines = [
        ("host", f"{environment.get('host', 'unknown')} ({entry['runs']} runs)"),
        ("machine", report_text.machine(environment)),
        ("kernel", environment.get("kernel", "")),
        ("Python", environment.get("python", "")),
        ("packages", ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())),
        ("variables", ", ".join(f"{name}={text}" for name, text in entry["variables"].items())),
    ]
    if environment.get("commit"):
        lines.append(("commit", environment["commit"] + (" with uncommitted changes" if environment.get("dirty") else "")))
    return [(title, text) for title, text in lines if text]


def commands(index: Mapping[str, Any]) -> list[str]:
    """What to type to get all of this again."""
    study = index["study"]
    return [
        index["command"],
        f"tenfold table study={study}",
        f"tenfold claims study={study}",
        f"tenfold report study={study}",
        "tenfold run --from runs/RUN     # one run of the table again, by its name",
    ]


def sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchors and titles of the sections that this report has, in order."""
    wanted = [
        ("verdicts", "Verdicts", True),
        ("accuracy", "Accuracy", context["fits"] or not context["scaling"]),  # a scaling study trains too little to be read
        ("cost", "Cost", context["front_names"] or not context["scaling"]),
        ("runs", "All runs", True),
        ("scaling", "Scaling", context["scaling"]),
        ("engines", "Engines", context["equality"]),
        ("pictures", "Predictions", context["pictures"]),
        ("training", "Training", context["figures"].get("training")),
        ("failures", "Failures", True),
        ("planner", "Plan", True),
        ("published", "Published", context["published"]),
        ("hardware", "Hardware", True),
        ("reproduce", "Reproduce", True),
        ("glossary", "Words", True),
    ]
    return [(anchor, title) for anchor, title, there in wanted if there]
