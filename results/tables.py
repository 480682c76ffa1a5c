"""Tables of rows: aligned text, Markdown, CSV, JSON and LaTeX; as they are, or summarised over seeds and repeats."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.errors import ConfigError
from results.metrics import COMMON, spec_of
from results.record import Status
from results.store import dumps

Row = Mapping[str, Any]

FORMATS = ("text", "md", "csv", "json", "tex")

#: What a system calls its error divided by that of doing nothing; shown where it declares it.
_SKILL = ("skill", "skill_ratio")
_SHORT = {"step_s": "step", "peak_gib": "peak", "plan_peak_ratio": "plan/peak", "skill_ratio": "skill"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: heading with unit, what it takes from a row, how a cell is written."""

    heading: str
    get: Callable[[Row], Any]
    text: Callable[[Any], str]
    right: bool = False


def render(
    rows: Sequence[Row],
    fmt: str = "text",
    *,
    metrics: Sequence[str] | None = None,
    summary: bool = False,
    index: Mapping[str, Any] | None = None,
) -> str:
    """Write a table.

    Args:
        fmt: ``text``, ``md``, ``csv`` (full precision), ``json`` (exactly the array of rows) or ``tex`` (booktabs).
        metrics: metric columns; the sensible ones by default.
        summary: one line per experiment, mean and 95 % interval over seeds and repeats (:func:`summarise`).
        index: the study's index, for its metrics' units, its primary metric and its variants' titles.

    Returns:
        The table without a final newline.

    Raises:
        ConfigError: there is no such format.
    """
    if fmt not in FORMATS:
        raise ConfigError(
            f"there is no table format '{fmt}'; known: {', '.join(FORMATS)}", where="format", next_step="tenfold table --help"
        )
    groups = summarise(rows) if summary else []
    if fmt == "json":
        return dumps(groups if summary else list(rows))
    columns = _summary_columns(groups, metrics, index) if summary else row_columns(rows, metrics, index)
    return lay_out(columns, groups if summary else rows, fmt)


def lay_out(columns: Sequence[Column], lines: Sequence[Row], fmt: str) -> str:
    """Any table of columns over lines as ``text``, ``md``, ``csv`` or ``tex``, without a final newline."""
    if fmt == "csv":
        return _csv(columns, lines).rstrip("\n")
    cells = [[column.text(column.get(line)) for column in columns] for line in lines]
    return {"text": _text, "md": _markdown, "tex": _latex}[fmt](columns, cells).rstrip("\n")


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Group rows that differ in seed and repeat only; completed ones count.

    Returns:
        Groups in order of appearance: ``system, variant, size, scale, engine, ranks, stage, runs`` (all), ``completed``, and
        ``metrics``: name -> ``mean, low, high, n``, with Student's 95 % interval (null for a single value).
    """
    keys = ("system", "variant", "size", "scale", "engine", "ranks", "stage", "recipe")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    found = []
    for key, members in groups.items():
        done = [row for row in members if row["status"] == Status.COMPLETED]
        values: dict[str, list[float]] = {}
        for row in done:
            for name, number in row["metrics"].items():
                if number is not None:
                    values.setdefault(name, []).append(float(number))
        group = {**dict(zip(keys, key, strict=True)), "runs": len(members), "completed": len(done)}
        group["metrics"] = {name: _mean(numbers) for name, numbers in values.items()}
        found.append(group)
    return found


def _mean(numbers: Sequence[float]) -> dict[str, Any]:
    if len(numbers) == 1:
        return {"mean": numbers[0], "low": None, "high": None, "n": 1}
    from results.stats import mean_interval

    interval = mean_interval(numbers)
    return {"mean": interval.effect, "low": interval.low, "high": interval.high, "n": interval.count}


def number(value: float | None, digits: int = 3) -> str:
    """A number for readers: about three significant digits, whole numbers in full with thin groups, a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == int(value) and 1 <= abs(value) < 1e9:
        return f"{int(value):,}"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def heading(name: str, index: Mapping[str, Any] | None = None) -> str:
    """A metric's heading: its name, with the unit where the name does not carry it."""
    declared = (index or {}).get("metrics", {}).get(name)
    unit = declared["unit"] if declared else spec_of(name).unit
    short = _SHORT.get(name, name)
    return short if unit in ("1", "") else f"{short} [{unit}]"


def primary_metric(rows: Iterable[Row], index: Mapping[str, Any] | None = None) -> str | None:
    """The study's primary metric; without an index the first that the harness does not itself measure."""
    if index and index.get("primary_metric"):
        return str(index["primary_metric"])
    return next((name for row in rows for name in row["metrics"] if name not in COMMON), None)


def row_columns(rows: Sequence[Row], metrics: Sequence[str] | None, index: Mapping[str, Any] | None) -> list[Column]:
    """Columns of single rows; those that say the same of every row by default (no retries, one site) stay out."""
    titles = (index or {}).get("variants", {})
    columns = [
        *([Column("system", _field("system"), _plain)] if len({row["system"] for row in rows}) > 1 else []),
        Column("variant", lambda row: titles.get(row["variant"], row["variant"]), _plain),
        Column("size", _field("size"), _plain, right=True),
        *([Column("stage", _field("stage"), _plain)] if len({row.get("stage") for row in rows}) > 1 else []),
        Column("seed", _field("seed"), _plain, right=True),
        *([Column("repeat", _field("repeat"), _plain, right=True)] if any(row["repeat"] for row in rows) else []),
        Column("engine", _field("engine"), _plain),
        Column("ranks", _field("ranks"), _plain, right=True),
        Column("status", _status, _plain),
    ]
    if metrics is not None:
        return [*columns, *(_metric(name, index) for name in metrics)]
    primary = primary_metric(rows, index)
    columns += [_metric(primary, index)] if primary else []
    skill = next((name for name in _SKILL if any(name in row["metrics"] for row in rows)), None)
    columns += [_metric(skill, index)] if skill else []
    columns += [
        _metric("peak_gib", index),
        _metric("step_s", index),
        Column("p5-p95 [s]", _spread, _plain, right=True),
        _metric("params", index),
        _metric("plan_peak_ratio", index),
    ]
    for name, word in (("attempts", "tries"), ("shared_with", "shared")):
        if any((row[name] or 0) > (1 if name == "attempts" else 0) for row in rows):
            columns.append(Column(word, _field(name), _plain, right=True))
    return columns


def _summary_columns(groups: Sequence[Row], metrics: Sequence[str] | None, index: Mapping[str, Any] | None) -> list[Column]:
    titles = (index or {}).get("variants", {})
    names = list(metrics) if metrics is not None else ["peak_gib", "step_s", "params"]
    if metrics is None and (primary := primary_metric(groups, index)):
        names.insert(0, primary)
    columns = [
        Column("variant", lambda row: titles.get(row["variant"], row["variant"]), _plain),
        Column("size", _field("size"), _plain, right=True),
        Column("engine", _field("engine"), _plain),
        Column("ranks", _field("ranks"), _plain, right=True),
        Column("runs", lambda row: f"{row['completed']}/{row['runs']}", _plain, right=True),
    ]
    for name in names:
        columns.append(Column(heading(name, index), _part(name, "mean"), number, right=True))
        if name != "params":
            columns.append(Column("95 %", _range(name), _plain, right=True))
    return columns


def _field(name: str) -> Callable[[Row], Any]:
    return lambda row: row.get(name)


def _metric(name: str, index: Mapping[str, Any] | None) -> Column:
    return Column(heading(name, index), lambda row: row["metrics"].get(name), number, right=True)


def _part(name: str, part: str) -> Callable[[Row], Any]:
    return lambda group: group["metrics"].get(name, {}).get(part)


def _range(name: str) -> Callable[[Row], str]:
    def text(group: Row) -> str:
        found = group["metrics"].get(name, {})
        return "" if found.get("low") is None else f"{number(found['low'])} to {number(found['high'])}"

    return text


def _spread(row: Row) -> str | None:
    low, high = (row["metrics"].get(name) for name in ("step_s_p5", "step_s_p95"))
    return None if low is None or high is None else f"{number(low)}-{number(high)}"


def _status(row: Row) -> str:
    return f"{row['status']} ({row['failure']['class']})" if row["failure"] else str(row["status"])


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)


def _csv(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.heading for column in columns])
    for row in rows:
        values = [column.get(row) for column in columns]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def _text(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(column.heading), *(len(line[i]) for line in cells), 0) for i, column in enumerate(columns)]

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(texts, widths, columns, strict=True)
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line([column.heading for column in columns]), rule, *(line(row) for row in cells)]) + "\n"


def _markdown(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"

    rule = "|" + "|".join("---:" if column.right else "---" for column in columns) + "|"
    return "\n".join([line(column.heading for column in columns), rule, *(line(row) for row in cells)]) + "\n"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def _latex(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    def line(texts: Iterable[str]) -> str:
        return "  " + " & ".join(text.translate(_LATEX) for text in texts) + r" \\"

    kinds = "".join("r" if column.right else "l" for column in columns)
    head = [f"\\begin{{tabular}}{{{kinds}}}", r"  \toprule", line(column.heading for column in columns), r"  \midrule"]
    return "\n".join([*head, *(line(row) for row in cells), r"  \bottomrule", r"\end{tabular}"]) + "\n"
