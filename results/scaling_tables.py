"""The scaling table in every format, and what a curve says in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from results.errors import ConfigError
from results.store import dumps
from results.tables import FORMATS, Column, lay_out, number

Line = Mapping[str, Any]

#: What a curve says of itself.
_FACTS = ("system", "variant", "size", "scale", "engine", "site", "data", "machine")
#: Key of a point, heading, and whether the table for readers shows the interval beside it.
_MEASURED = (
    ("step_s", "step [s]", True),
    ("samples_per_s", "samples [1/s]", False),
    ("speed_up", "speed-up", True),
    ("efficiency", "efficiency", True),
    ("communicate_share", "communication", False),
)


def render(found: Mapping[str, Any], fmt: str = "text") -> str:
    """The table of :func:`results.scaling.scaling`, a line per curve and rank count.

    Args:
        fmt: ``text``, ``md``, ``csv`` (full precision, bounds in columns of their own), ``json`` (all of it) or ``tex``.

    Returns:
        Text without a final newline; text and Markdown end with a sentence per curve.

    Raises:
        ConfigError: there is no such format.
    """
    if fmt not in FORMATS:
        raise ConfigError(f"there is no table format '{fmt}'; known: {', '.join(FORMATS)}", where="format")
    if fmt == "json":
        return dumps(found)
    lines = lines_of(found)
    table = lay_out(_csv_columns() if fmt == "csv" else columns(found), lines, fmt)
    if fmt in ("csv", "tex"):
        return table
    mark = "- " if fmt == "md" else ""
    return "\n".join([table, "", *(mark + text for text in sentences(found))])


def lines_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points, each with its curve's own facts."""
    return [
        {**{name: curve[name] for name in _FACTS}, "mode": found["mode"], "base_ranks": curve["base_ranks"], **point}
        for curve in found["curves"]
        for point in curve["points"]
    ]


def columns(found: Mapping[str, Any]) -> list[Column]:
    """Columns for readers; what is the same in all curves stays out."""
    lines = lines_of(found)
    several = {name for name in ("variant", "size", "machine", "site") if len({line[name] for line in lines}) > 1}
    parts = ("variant", "size", "engine", "site", "machine")
    made = [Column(name, _field(name), str) for name in parts if name in several | {"engine"}]
    made.append(Column("ranks", _field("ranks"), str, right=True))
    if any(line["nodes"] > 1 for line in lines):
        made.append(Column("nodes", _field("nodes"), str, right=True))
    made.append(Column("repeats", _field("repeats"), str, right=True))
    for key, heading, interval in _MEASURED:
        made.append(Column(heading, _part(key, "effect"), number, right=True))
        if interval:
            made.append(Column("95 %", _range(key), str, right=True))
    if any(line["against_reference"] for line in lines):
        made.append(Column(f"against {found['reference']}", _part("against_reference", "effect"), number, right=True))
    return [*made, Column("note", _field("reason"), str)]


def _csv_columns() -> list[Column]:
    names = ("mode", *_FACTS, "base_ranks", "ranks", "nodes", "repeats", "oversubscribed")
    made = [Column(name, _field(name), str) for name in names]
    for key in (*(key for key, _, _ in _MEASURED), "against_reference"):
        made += [Column(key, _part(key, "effect"), str)]
        made += [Column(f"{key}_{part}", _part(key, part), str) for part in ("low", "high")]
    return [*made, Column("note", _field("reason"), str), Column("runs", lambda line: " ".join(line["runs"]), str)]


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What each curve says: its law and where it falls below the floor; then what was left out, and how it was done."""
    texts = []
    for curve in found["curves"]:
        name = f"{curve['variant']} {curve['size']} {curve['engine']} on {curve['machine']}"
        texts.append(f"{name}: {law_words(curve['law'])}; {floor_words(curve['floor'])}.")
    reasons: dict[str, int] = {}
    for row in found["left_out"]:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    texts += [f"Left out: {count} run{'' if count == 1 else 's'} ({reason})." for reason, count in reasons.items()]
    return [*texts, found["method"]]


def law_words(law: Mapping[str, Any]) -> str:
    """``serial fraction 0.031 (0.024 to 0.038) by Amdahl's law``, or why there is none."""
    if law["serial"] is None:
        return f"{law['name']}'s law: {law['reason']}"
    reason = f" [{law['reason']}]" if law["reason"] else ""
    return f"serial fraction {number(law['serial']['effect'])}{_bounds(law['serial'])} by {law['name']}'s law{reason}"


def floor_words(floor: Mapping[str, Any]) -> str:
    """``efficiency below 0.7 from 5.2 ranks on (4.1 to 6.6)``, or that it does not fall so low."""
    what = f"efficiency below {number(floor['efficiency'])}"
    low, high = floor["low"], floor["high"]
    if floor["ranks"] is None:
        return f"{what}: {floor['reason']}" + ("" if low is None else f", by the lower bounds from {number(low)} ranks on")
    bounds = "" if low is None else f" ({number(low)} to {'beyond what was measured' if high is None else number(high)})"
    return f"{what} from {number(floor['ranks'])} ranks on{bounds}"


def _bounds(interval: Mapping[str, Any]) -> str:
    return "" if interval["low"] is None else f" ({number(interval['low'])} to {number(interval['high'])})"


def _field(name: str) -> Callable[[Line], Any]:
    return lambda line: line[name]


def _part(key: str, part: str) -> Callable[[Line], Any]:
    return lambda line: line[key][part] if line[key] else None


def _range(key: str) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        interval = line[key]
        base = line["ranks"] == line["base_ranks"] and key in ("speed_up", "efficiency")  # 1 by definition
        if not interval or interval["low"] is None or base:
            return ""
        return f"{number(interval['low'])} to {number(interval['high'])}"

    return text
