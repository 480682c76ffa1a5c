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

from results import curves, plots, plots_cost, plots_scaling, report_text, tables
from results import report_view as view
from results.analysis import NO_SKILL_ABOVE, main_rows
from results.errors import ResultError
from results.pictures import find_panels, load_panels, render_svg
from results.record import Status
from results.rows import Row, value
from results.runfolder import RunFolder
from results.store import write_text
from results.svg import DARK, LIGHT

#: Figures that the template asks for by name.
_PLACES = ("fit", "engines", "speed-up", "efficiency", "training", "planned", "published")


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
        "facts": view.facts(index, rows, analysis),
        "cards": [view.card(claim) for claim in analysis["claims"]],
        "no_skill": f"{rule.get('above', NO_SKILL_ABOVE):.0%}",
        "reference": tables.heading(rule["reference"], index) if rule else "the reference",
        "figures": {name: marked.get(name) for name in (*marked, *_PLACES)},
        "front_names": [name for name in drawn if name.startswith("front-")],
        "beside": max((entry["runs_beside_others"] for entry in analysis["fronts"]), default=0),
        "colours": {name: f"s{place % 8}" for place, name in enumerate(index.get("variants", {}))},
        "fits": [view.fit_line(fit, index) for fit in analysis["fits"]],
        "statuses": sorted({row["status"] for row in rows}),
        "table": view.table_of_runs(index, rows),
        "equality": view.equality_table(analysis["equality"]),
        "scaling": view.scaling_table(analysis.get("scaling")),
        "pictures": chosen,
        "failures": analysis["failures"],
        "planner": view.planner_table(analysis["planner"]),
        "published": [view.published_line(row) for row in analysis["published"]],
        "hardware": [view.machine_lines(entry) for entry in analysis["hardware"]],
        "commands": view.commands(index),
        "glossary": report_text.GLOSSARY,
        "written": report_text.moment(written.isoformat()) if written else "",
    }
    context["sections"] = view.sections(context)
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
    if analysis.get("scaling"):
        what = "throughput" if analysis["scaling"]["mode"] == "weak" else "the step"
        caption = f"Speed-up of {what} over the smallest number of ranks; whiskers are 95 % intervals over repeats."
        made.append(("speed-up", plots_scaling.speed_ups(analysis["scaling"], index), caption))
        caption = "Speed-up over the ratio of rank counts; hollow where ranks share cores."
        made.append(("efficiency", plots_scaling.efficiencies(analysis["scaling"], index), caption))
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
        for path in curves.find_curves(RunFolder(runs_root / row["run"]).artifacts):
            try:
                svg, drawn = curves.render_svg(path), curves.load_curves(path)
            except ResultError:
                continue
            heading = f"{index.get('variants', {}).get(row['variant'], row['variant'])}, {row['size']}: {drawn.title}"
            caption = f"Run {row['run']}, seed {row['seed']}."
            found.append({"variant": row["variant"], "heading": heading, "svg": svg, "caption": caption})
    return found
