"""The papers' own numbers: ``results/published/<system>.csv``, each value with its source. Shown beside ours, never mixed."""

from __future__ import annotations

import csv
import importlib.resources
import io
from collections.abc import Iterable, Mapping
from typing import Any

from results.errors import ResultError

COLUMNS = ("system", "experiment", "variant", "published_as", "budget", "params", "metric", "value", "unit", "note", "source")


def load_published(system: str) -> list[dict[str, Any]]:
    """All published rows of a system, in file order; empty for a system without a file.

    ``params`` and ``value`` are numbers or None (not run, or not printed); everything else is text.

    Raises:
        ResultError: a column is missing, or a number is not one; the message names file and line.
    """
    file = importlib.resources.files("results") / "published" / f"{system}.csv"
    if not file.is_file():
        return []
    return parse(file.read_text(encoding="utf-8"), where=f"results/published/{system}.csv")


def published_costs(system: str) -> dict[tuple[str, str], dict[str, float]]:
    """Published cost by (variant, budget): ``gpu_memory_mb`` and ``epoch_s``, of the first experiment that has them."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in load_published(system):
        if row["metric"] in ("gpu_memory_mb", "epoch_s") and row["value"] is not None:
            found.setdefault((row["variant"], row["budget"]), {}).setdefault(row["metric"], float(row["value"]))
    return found


def parse(text: str, *, where: str = "") -> list[dict[str, Any]]:
    """Rows of one file's text; see :func:`load_published`."""
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ResultError(f"published rows lack the column '{missing[0]}'", where=where)
    rows = []
    for plain in reader:
        row: dict[str, Any] = {name: (plain[name] or "").strip() for name in COLUMNS}
        for name in ("params", "value"):
            try:
                row[name] = float(row[name]) if row[name] else None
            except ValueError as error:
                raise ResultError(f"'{row[name]}' is not a number", where=f"{where}:{reader.line_num} ({name})") from error
        rows.append(row)
    return rows


def of_metric(rows: Iterable[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The rows that have a value for a metric."""
    return [dict(row) for row in rows if row["metric"] == metric and row["value"] is not None]


def published_size(row: Mapping[str, Any]) -> float | None:
    """Parameters of a published row: the counted ones, else the budget it is listed under (``500k``, ``2M``)."""
    if row["params"]:
        return float(row["params"])
    number, unit = row["budget"][:-1], {"k": 1e3, "M": 1e6, "B": 1e9}.get(row["budget"][-1:])
    return float(number) * unit if unit and number.replace(".", "", 1).isdigit() else None
