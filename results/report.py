"""The report: one HTML file that needs nothing but itself, readable by someone who was not there.

Templates lie in ``results/templates``; everything that comes from a run is escaped there. Figures are SVG that follow the
page's light or dark theme.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results import plots, plots_cost, report_text, tables
from results.analysis import NO_SKILL_ABOVE, main_rows
from results.errors import ResultError
from results.pictures import find_panels, load_panels, render_svg
from results.record import Status
from results.rows import Row, value
from results.runfolder import RunFolder
from results.store import write_text
from results.svg import DARK, LIGHT


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the report; ``results.svg.standalone`` makes a file of it."""

    name: str
    svg: str
    caption: str


def write_report(index: Mapping[str, Any], rows: Sequence[Row], analysis: Mapping[str, Any], runs_root: Path, out: Path) -> Path:
    """Write the report.

    Args:
        index: the study's index (``study.json``).
        rows: its rows.
        analysis: of :func:`results.analysis.analyse`.
        runs_root: where pictures and loss curves are.
        out: the file, or a folder in which it is called ``report.html``.

    Raises:
        ResultError: it cannot be written.
    """
    path = out if out.suffix == ".html" else out / "report.html"
    write_text(path, render(index, rows, analysis, runs_root, written=datetime.now(UTC)))
    return path


def render(
    index: Mapping[str, Any],
    rows: Sequence[Row],
    analysis: Mapping[str, Any],
    runs_root: Path,
    *,
    written: datetime | None = None,
) -> str:
    """The report's HTML."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(importlib.resources.files("results") / "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    drawn = {figure.name: figure for figure in figures(index, rows, analysis, runs_root)}
    # our own SVG; matplotlib escapes the texts in it
    marked = {name: {"svg": Markup(figure.svg), "caption": figure.caption} for name, figure in drawn.items()}
    chosen = [{**picture, "svg": Markup(picture["svg"])} for picture in pictures(index, rows, runs_root)]
    rule = (index.get("analysis") or {}).get("no_skill") or {}
    context: dict[str, Any] = {
        "index": index,
        "paper": index.get("paper") or "the paper",
        "light": LIGHT,
        "dark": DARK,
        "lede": report_text.lede(index, rows, analysis),
        "data_note": report_text.data_note(analysis["data"], index["scale"]),
        "facts": _facts(index, rows, analysis),
        "cards": [_card(claim) for claim in analysis["claims"]],
        "no_skill": f"{rule.get('above', NO_SKILL_ABOVE):.0%}",
        "reference": tables.heading(rule["reference"], index) if rule else "the reference",
        "figures": {name: marked.get(name) for name in (*marked, "fit", "engines", "training", "planned", "published")},
        "front_names": [name for name in drawn if name.startswith("front-")],
        "beside": max((entry["runs_beside_others"] for entry in analysis["fronts"]), default=0),
        "colours": {name: f"s{place % 8}" for place, name in enumerate(index.get("variants", {}))},
        "fits": [_fit(fit, index) for fit in analysis["fits"]],
        "statuses": sorted({row["status"] for row in rows}),
        "table": _table(index, rows),
        "equality": _equality(analysis["equality"]),
        "pictures": chosen,
        "failures": analysis["failures"],
        "planner": _planner(analysis["planner"]),
        "published": [_published(row) for row in analysis["published"]],
        "hardware": [_machine(entry) for entry in analysis["hardware"]],
        "commands": _commands(index),
        "glossary": report_text.GLOSSARY,
        "written": report_text.moment(written.isoformat()) if written else "",
    }
    context["sections"] = _sections(context)
    return environment.get_template("report.html.j2").render(context)


def figures(index: Mapping[str, Any], rows: Sequence[Row], analysis: Mapping[str, Any], runs_root: Path) -> list[Figure]:
    """All figures that the study has numbers for, with their captions."""
    made: list[tuple[str, str | None, str]] = []
    if any(fit["points"] for fit in analysis["fits"]):
        first = analysis["fits"][0]
        same = [fit for fit in analysis["fits"] if (fit["x"], fit["y"]) == (first["x"], first["y"])]
        made.append(
            (
                "fit",
                plots.error_against_parameters(same, index),
                f"{plots.label(first['y'], index)} of every run; lower is better.",
            )
        )
    for entry in analysis["fronts"]:
        if entry["points"]:
            caption = f"{plots.label(entry['y'], index)} against {plots.label(entry['x'], index)}."
            made.append((f"front-{entry['x']}-{entry['y']}", plots.front(entry, index), caption))
    curves = plots.training_curves(main_rows(rows, index), runs_root, index)
    made.append(("training", curves, "Training loss by optimisation step, a panel per size and a line per run."))
    if analysis["equality"]:
        made.append(
            (
                "engines",
                plots_cost.engine_bars(analysis["equality"]),
                "Step time and peak memory of each engine and number of ranks.",
            )
        )
    made.append(("planned", plots_cost.planned_against_measured(analysis["planner"], index), "Peak memory, a point per run."))
    metric = index["primary_metric"]
    made.append(
        (
            "published",
            plots.published_curves(analysis["published"], metric, index),
            "As printed in the paper, a panel per experiment.",
        )
    )
    return [Figure(name, svg, caption) for name, svg, caption in made if svg]


def pictures(index: Mapping[str, Any], rows: Sequence[Row], runs_root: Path) -> list[dict[str, Any]]:
    """Pictures of the best run of each variant at its largest size, the best of all first."""
    metric = index["primary_metric"]
    sign = -1.0 if index.get("metrics", {}).get(metric, {}).get("direction") == "max" else 1.0
    best: dict[str, Row] = {}
    rank: dict[str, tuple[float, float]] = {}
    for row in main_rows(rows, index):
        score = value(row, metric)
        if row["status"] != Status.COMPLETED or score is None or not find_panels(runs_root / row["run"] / "artifacts"):
            continue
        place = (-(value(row, "params") or 0.0), sign * score)
        if row["variant"] not in best or place < rank[row["variant"]]:
            best[row["variant"]], rank[row["variant"]] = row, place
    found = []
    for row in sorted(best.values(), key=lambda row: sign * row["metrics"][metric]):
        for path in find_panels(RunFolder(runs_root / row["run"]).artifacts):
            try:
                svg, panels = render_svg(path), load_panels(path)
            except ResultError:  # a damaged picture is one picture less, not a report less
                continue
            heading = (
                f"{index.get('variants', {}).get(row['variant'], row['variant'])}, {row['size']}: "
                f"{tables.heading(metric, index)} {tables.number(row['metrics'][metric])}"
            )
            caption = f"{panels.title}. Run {row['run']}, seed {row['seed']}."
            found.append({"variant": row["variant"], "heading": heading, "svg": svg, "caption": caption})
    return found


def _facts(index: Mapping[str, Any], rows: Sequence[Row], analysis: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    counts, span = analysis["counts"], analysis["span"]
    metric = index["primary_metric"]
    scored = [row for row in main_rows(rows, index) if row["status"] == Status.COMPLETED and value(row, metric) is not None]
    facts = [("completed", f"{counts['completed']} of {counts['runs']}", "runs")]
    if scored:
        choose = max if index.get("metrics", {}).get(metric, {}).get("direction") == "max" else min
        best = choose(scored, key=lambda row: row["metrics"][metric])
        name = index.get("variants", {}).get(best["variant"], best["variant"])
        facts.append((f"best {tables.heading(metric, index)}", tables.number(value(best, metric)), f"{name}, {best['size']}"))
    facts.append(("took", report_text.duration(span["wall_s"]), f"{report_text.duration(span['runs_s'])} of runs"))
    if analysis["equality"]:
        arms = [arm for arm in analysis["equality"]["arms"] if not arm["reference"]]
        passed = sum(bool(arm["gate"] and arm["gate"]["passed"]) for arm in arms)
        facts.append(("engines equal to the reference", f"{passed} of {len(arms)}", "loss curves within tolerance"))
    if "peak" in analysis["planner"]:
        peak = analysis["planner"]["peak"]
        facts.append(
            (
                "planned / measured peak",
                tables.number(peak["median"]),
                f"median; {tables.number(peak['min'])} to {tables.number(peak['max'])}",
            )
        )
    return facts


_WORDS = {"holds": ("✓", "holds"), "fails": ("✕", "fails"), "cannot_tell": ("?", "cannot tell")}


def _card(claim: Mapping[str, Any]) -> dict[str, Any]:
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


def _fit(fit: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any]:
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


def _table(index: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
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


def _equality(equality: Mapping[str, Any] | None) -> dict[str, Any] | None:
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


def _planner(planner: Mapping[str, Any]) -> list[dict[str, str]]:
    titles = {"peak": "peak memory", "above_base": "memory above the base", "step": "step time"}
    return [
        {
            "title": title,
            "count": str(planner[name]["count"]),
            "median": tables.number(planner[name]["median"]),
            "range": f"{tables.number(planner[name]['min'])} to {tables.number(planner[name]['max'])}",
            "within": f"{planner[name]['within_15_percent']:.0%}",
        }
        for name, title in titles.items()
        if name in planner
    ]


def _published(row: Mapping[str, Any]) -> dict[str, Any]:
    text = tables.number(row["value"]) + (f" {row['unit']}" if row["unit"] not in {"", "1"} else "")
    return {**row, "name": row["published_as"] or row["variant"], "text": text}


def _machine(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
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


def _commands(index: Mapping[str, Any]) -> list[str]:
    study = index["study"]
    return [
        index["command"],
        f"tenfold table study={study}",
        f"tenfold claims study={study}",
        f"tenfold report study={study}",
        "tenfold run --from runs/RUN     # one run of the table again, by its name",
    ]


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    wanted = [
        ("verdicts", "Verdicts", True),
        ("accuracy", "Accuracy", True),
        ("cost", "Cost", True),
        ("runs", "All runs", True),
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
