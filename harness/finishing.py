"""What follows the runs of a study: verdicts, collected data set, tables, analysis, report, W&B runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.projecting import project
from harness.schedulers import scheduler_words
from models import registry
from results import scaling_tables
from results.claims import judge
from results.rows import collect_rows, load_samples
from results.runfolder import RunFolder
from results.store import dumps, write_text
from results.tables import render

if TYPE_CHECKING:
    from harness.display import Display
    from harness.schema import TrackerConfig
    from harness.study import Study

Row = dict[str, Any]
TABLES = {"text": "table.txt", "md": "table.md", "csv": "table.csv", "json": "table.json", "tex": "table.tex"}
SCALING_TABLES = {kind: name.replace("table", "scaling") for kind, name in TABLES.items()}


def rows_with_samples(rows: Sequence[Row], runs: Path) -> list[Row]:
    """Rows with ``samples``: per test sample values by name, as claims want them."""
    return [{**row, "samples": load_samples(row, runs) if row["status"] == "completed" else {}} for row in rows]


def claims_of(rows: Sequence[Row], runs: Path) -> list[dict[str, Any]]:
    """Verdicts on the claims of every system among the rows."""
    found = []
    full = rows_with_samples(rows, runs)
    for system in sorted({row["system"] for row in rows}):
        module = registry.claims(system)
        if module is not None:
            verdicts = judge(module.CLAIMS, [row for row in full if row["system"] == system])
            found += [{"system": system, **verdict} for verdict in verdicts]
    return found


def write_outputs(index: Mapping[str, Any], runs: Path, folder: Path) -> dict[str, Any]:
    """Write everything that is a view of the records into the study's folder; the paths, and the verdicts.

    Raises:
        ResultError: the folder cannot be written.
    """
    from results.analysis import analyse
    from results.collect import collect_dataset, write_dataset
    from results.published import load_published
    from results.report import write_report

    rows = collect_rows(runs, None, index, scheduler_words(runs))
    claims = claims_of(rows, runs)
    analysis = analyse(index, rows, runs, claims, load_published(index["system"]))
    for kind, name in TABLES.items():
        write_text(folder / name, render(rows, kind, index=index) + "\n")
    write_text(folder / "summary.md", render(rows, "md", summary=True, index=index) + "\n")
    if analysis["scaling"]:
        for kind, name in SCALING_TABLES.items():
            write_text(folder / name, scaling_tables.render(analysis["scaling"], kind) + "\n")
    write_text(folder / "claims.json", dumps(claims) + "\n")
    write_text(folder / "analysis.json", dumps(analysis) + "\n")
    completed = [row for row in rows if row["status"] == "completed"]
    if completed:
        specs = registry.catalogue(index["system"]).metric_specs
        write_dataset(collect_dataset(completed, runs, specs=specs), folder / "results.zarr")
    # The report shows what a reader of analysis.json would: it is made from the same plain text.
    report = write_report(index, rows, json.loads(dumps(analysis)), runs, folder)
    found = {"report": str(report), "folder": str(folder), "claims": claims}
    return {**found, "scaling": analysis["scaling"]} if analysis["scaling"] else found


def finish_index(index: Mapping[str, Any], runs: Path, folder: Path) -> dict[str, Any]:
    """All that follows a study's runs, from its index alone: for runs that somebody else has looked after (``tenfold watch``)."""
    from harness.experiment import Experiment

    outputs = write_outputs(index, runs, folder)
    folders = [RunFolder(runs / name) for name in dict.fromkeys(entry["run"] for entry in index["runs"])]
    started = [found for found in folders if found.attempts()]
    if started:
        tracker = Experiment.load(started[0].path).config.tracker
        _project(started, index["study"], tracker, _say)
    return outputs


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _project(folders: Sequence[RunFolder], group: str, tracker: TrackerConfig, say: Callable[[str], None]) -> None:
    project(folders, group=group, mode=tracker.name, say=say, project_name=tracker.project, entity=tracker.entity)
    if tracker.name == "offline":
        say(f"W&B: offline runs lie in the run folders; tenfold sync study={group} --upload uploads them")


def finish_study(study: Study, display: Display) -> dict[str, Any]:
    """All of it, after a sweep."""
    config = study.points[0].experiment.config
    runs = Path(config.paths.runs)
    display.say("collecting, judging, drawing ...")
    outputs = write_outputs(study.index(), runs, study.folder())
    folders = [RunFolder(runs / name) for name in dict.fromkeys(point.experiment.name for point in study.points)]
    # What could not be projected when it ended, or has changed since.
    _project(folders, study.name, config.tracker, display.say)
    return outputs
