"""Strong and weak scaling: from a study's rows to curves over rank counts, with intervals, a fitted law and a floor.

Repeats are paired: of every repeat (and seed) the time at N ranks is divided by the time at the smallest count of the same
repeat, and the geometric mean of these ratios carries Student's 95 % interval on their logarithms. What drifts between repeats
cancels; one repeat has no interval. Only rows whose timing is sound enter, and only rows that differ in nothing but the rank
count share a curve: same system, model, data, training, engine and options, site, and the same processor or GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from results.errors import ConfigError, ResultError, near_matches
from results.merge import build_record
from results.record import Status
from results.rows import Row, value
from results.runfolder import RunFolder
from results.scaling_laws import LAW, MINIMUM_COUNTS, Mode, crossing, fit
from results.stats import Interval, mean_interval, paired_ratio

FLOOR = 0.7
#: A law that misses the times by more than this does not describe them.
MISFIT = 0.1
#: Runs of a pair that started further apart than this are said to: another study may have left one of them.
APART_S = 3600.0

METHOD = (
    "Ratios are paired: each repeat against the smallest rank count of the same repeat; geometric mean with Student's 95 % "
    "interval on the logarithms. The serial fraction is fitted to each repeat and averaged, with Student's 95 % interval. "
    "Counts that share cores or GPUs are shown and stay out of fits and floor."
)

_SAME = ("system", "variant", "size", "scale", "engine", "site", "data")
Repeat = tuple[int, int]


def scaling(rows: Sequence[Row], wanted: Mapping[str, Any], runs_root: Path) -> dict[str, Any]:
    """Curves of a scaling study.

    Args:
        rows: the study's rows, with ``stage``.
        wanted: the index's ``analysis.scaling``: ``mode`` (strong or weak), and optionally ``floor`` (efficiency, 0.7)``,
            stage, reference`` (an engine that runs on one rank; times are also given against it).
        runs_root: where the records are; rows do not carry the placement.

    Returns:
        ``mode, floor, reference, method, curves, left_out`` (``run, reason``). A curve has ``variant, size, engine, site, data,
        machine, base_ranks, repeats, points, law, floor``; a point ``ranks, nodes, repeats, runs, oversubscribed, step_s,
        samples_per_s, speed_up, efficiency, communicate_share, against_reference`` (each null, or ``effect, low, high,
        count``) and ``reason``. Strong: speed-up is a ratio of step times; weak: of throughputs. Efficiency is the speed-up over
        the ratio of rank counts.

    Raises:
        ConfigError: ``wanted`` names another mode, another key, or a floor outside (0, 1).
    """
    mode, floor = _checked(wanted)
    stage, reference = wanted.get("stage"), wanted.get("reference")
    left_out: list[dict[str, str]] = []
    members: dict[tuple[Any, ...], list[Row]] = {}
    serial: dict[tuple[Any, ...], dict[Repeat, Row]] = {}
    for row in {row["run"]: row for row in rows if not stage or row.get("stage") == stage}.values():
        placement = placement_of_row(row, runs_root)
        reason = _unusable(row, placement)
        if reason:
            left_out.append({"run": row["run"], "reason": reason})
            continue
        row = {**row, "placement": placement}
        if row["engine"] == reference and row["ranks"] == 1:
            serial.setdefault(_key(row, mode, of_engine=False), {})[(row["seed"], row["repeat"])] = row
        else:
            members.setdefault(_key(row, mode), []).append(row)
    curves = [
        _curve(group, mode, floor, serial.get(_key(group[0], mode, of_engine=False), {}), left_out) for group in members.values()
    ]
    return {
        "mode": str(mode),
        "floor": floor,
        "reference": reference,
        "method": METHOD,
        "curves": curves,
        "left_out": left_out,
    }


def placement_of_row(row: Row, runs_root: Path) -> dict[str, Any]:
    """A run's :mod:`results.placement` from its record, or from its files where the record is older; empty if unknown."""
    if "placement" in row:
        return dict(row["placement"])
    folder = RunFolder(runs_root / row["run"])
    try:
        record = folder.read_record() or {}
        return dict(record.get("placement") or build_record(folder).placement)
    except (ResultError, KeyError, TypeError, ValueError):
        return {}


def _checked(wanted: Mapping[str, Any]) -> tuple[Mode, float]:
    known = ("mode", "floor", "stage", "reference")
    for key in wanted:
        if key not in known:
            raise ConfigError(f"there is no key 'scaling.{key}'{near_matches(str(key), known)}", where=f"analysis.scaling.{key}")
    mode, floor = wanted.get("mode"), wanted.get("floor", FLOOR)
    if mode not in set(Mode):
        raise ConfigError(f"scaling is {' or '.join(Mode)}, not '{mode}'", where="analysis.scaling.mode")
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 < floor < 1:
        raise ConfigError(f"the floor of efficiency is {floor}; it lies between 0 and 1", where="analysis.scaling.floor")
    return Mode(mode), float(floor)


def _unusable(row: Row, placement: Mapping[str, Any]) -> str:
    """Why a row's time says nothing; empty where it does."""
    if row["status"] != Status.COMPLETED:
        return f"status {row['status']}"
    if not value(row, "step_s"):
        return "no step was timed"
    if row["shared_with"]:
        return f"timed beside {row['shared_with']} other run{'s' if row['shared_with'] > 1 else ''}"
    if not row.get("timing_valid", True):
        return "its layout changed on the way, or it is not known who shared the machine"
    if not placement.get("machine"):
        return "it is not recorded on what it ran"
    return ""


def _key(row: Row, mode: Mode, *, of_engine: bool = True) -> tuple[Any, ...]:
    """What the rows of a curve have in common."""
    placement = row["placement"]
    same = [row[name] for name in _SAME if of_engine or name != "engine"]
    engine = [placement.get("engine_options")] if of_engine else []
    return (*same, *engine, placement.get(str(mode)), placement["machine"], placement.get("threads"))


def _curve(
    rows: Sequence[Row], mode: Mode, floor: float, serial: Mapping[Repeat, Row], left_out: list[dict[str, str]]
) -> dict[str, Any]:
    by_count: dict[int, dict[Repeat, Row]] = {}
    for row in sorted(rows, key=lambda row: row["run"]):
        place = by_count.setdefault(row["ranks"], {})
        repeat = (row["seed"], row["repeat"])
        if repeat in place:  # they differ in something that is hashed and is not the curve's (the micro-batch)
            left_out.append({"run": row["run"], "reason": f"the same repeat and rank count as {place[repeat]['run']}"})
        else:
            place[repeat] = row
    counts = sorted(by_count)
    alone = [count for count in counts if not any(_shares_cores(row) for row in by_count[count].values())]
    base = (alone or counts)[0]
    points = [_point(count, base, by_count, mode, serial, count not in alone) for count in counts]
    first = rows[0]
    return {
        **{name: first[name] for name in _SAME},
        "machine": first["placement"]["machine"],
        "threads": first["placement"].get("threads"),
        "base_ranks": base,
        "repeats": len({repeat for place in by_count.values() for repeat in place}),
        "points": points,
        "law": _law(mode, {count: by_count[count] for count in alone}),
        "floor": _floor([point for point in points if not point["oversubscribed"]], floor),
    }


def _shares_cores(row: Row) -> bool:
    """Whether ranks shared cores or GPUs, or may have done."""
    return row["placement"].get("oversubscribed") is not False


def _point(
    count: int, base: int, by_count: Mapping[int, Mapping[Repeat, Row]], mode: Mode, serial: Mapping[Repeat, Row], shared: bool
) -> dict[str, Any]:
    rows = by_count[count]
    gain = count / base if mode is Mode.WEAK else 1.0  # a step of a weak study is that many more samples
    ratio = _ratio(by_count[base], rows, gain) if count != base else Interval(1.0, 1.0, 1.0, len(rows))
    reasons = [] if ratio else [f"no repeat has both {base} and {count} ranks"]
    if shared:
        known = all(row["placement"].get("oversubscribed") for row in rows.values())
        reasons.append("ranks share cores" if known else "it is not recorded whether ranks share cores")
    if ratio and ratio.count == 1 and count != base:
        reasons.append("one repeat: no interval")
    apart_s = _apart_s(by_count[base], rows)
    if apart_s > APART_S:
        reasons.append(f"pairs lie up to {apart_s / 3600:.1f} h apart")
    placements = [row["placement"] for row in rows.values()]
    return {
        "ranks": count,
        "nodes": max((placement.get("nodes") or 1 for placement in placements), default=1),
        "repeats": len(rows),
        "runs": [row["run"] for row in rows.values()],
        "oversubscribed": shared,
        **{name: _mean(rows, name) for name in ("step_s", "samples_per_s", "communicate_share")},
        "speed_up": ratio and ratio.as_dict(),
        "efficiency": ratio and _times(ratio, base / count).as_dict(),
        "against_reference": (against := _ratio(serial, rows, count if mode is Mode.WEAK else 1.0)) and against.as_dict(),
        "reason": "; ".join(reasons),
    }


def _apart_s(before: Mapping[Repeat, Row], after: Mapping[Repeat, Row]) -> float:
    """Longest time between the starts of the two runs of a pair."""
    longest = 0.0
    for repeat in before:
        starts = [place[repeat]["placement"].get("started") for place in (before, after) if repeat in place]
        if len(starts) == 2 and None not in starts:
            first, second = (datetime.fromisoformat(start) for start in starts)
            longest = max(longest, abs((first - second).total_seconds()))
    return longest


def _ratio(before: Mapping[Repeat, Row], after: Mapping[Repeat, Row], gain: float) -> Interval | None:
    """Step time before over after, of the repeats that have both, times ``gain``."""
    both = [repeat for repeat in before if repeat in after]
    if not both:
        return None
    found = paired_ratio([before[r]["metrics"]["step_s"] for r in both], [after[r]["metrics"]["step_s"] for r in both])
    if len(both) == 1:  # the logarithm of a bound of -inf comes back as 0, which would pass for a number
        return Interval(found.ratio.effect * gain, -math.inf, math.inf, 1)
    return _times(found.ratio, gain)


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(interval.effect * factor, interval.low * factor, interval.high * factor, interval.count)


def _mean(rows: Mapping[Repeat, Row], metric: str) -> dict[str, Any] | None:
    found = [number for row in rows.values() if (number := value(row, metric)) is not None]
    return mean_interval(found).as_dict() if found else None


def _law(mode: Mode, by_count: Mapping[int, Mapping[Repeat, Row]]) -> dict[str, Any]:
    """Serial fraction: fitted within each repeat, averaged over repeats."""
    nothing = {"name": LAW[mode], "serial": None, "misfit": None, "counts": len(by_count)}
    if len(by_count) < MINIMUM_COUNTS:
        plural = "" if len(by_count) == 1 else "s"
        return {**nothing, "reason": f"cannot tell: {len(by_count)} rank count{plural}, a fit takes {MINIMUM_COUNTS}"}
    laws = []
    for repeat in sorted({repeat for place in by_count.values() for repeat in place}):
        mine = [(count, place[repeat]["metrics"]["step_s"]) for count, place in by_count.items() if repeat in place]
        if len(mine) >= MINIMUM_COUNTS:
            laws.append(fit(mode, *zip(*mine, strict=True)))
    if not laws:
        return {**nothing, "reason": f"cannot tell: no repeat has {MINIMUM_COUNTS} rank counts"}
    serial, misfit = mean_interval([law.serial for law in laws]), max(law.misfit for law in laws)
    reasons = []
    if serial.effect < 0:
        reasons.append("below 0: ranks gain more than their number, which the law has no place for")
    elif serial.effect > 1:
        reasons.append("above 1: more ranks take longer, which the law has no place for")
    if misfit > MISFIT:
        reasons.append(f"the law misses the times by {misfit:.0%}: read the points, not the law")
    if len(laws) == 1:
        reasons.append("one repeat: no interval")
    return {**nothing, "serial": serial.as_dict(), "misfit": misfit, "reason": "; ".join(reasons)}


def _floor(points: Sequence[Mapping[str, Any]], floor: float) -> dict[str, Any]:
    """Where efficiency falls below the floor; ``low`` and ``high`` from the curve's lower and upper bounds."""
    known = [point for point in points if point["efficiency"]]
    counts = [point["ranks"] for point in known]
    if len(counts) < 2:
        found = f"cannot tell: {len(counts)} rank count{'' if len(counts) == 1 else 's'}"
        return {"efficiency": floor, "ranks": None, "low": None, "high": None, "reason": found}
    effects, lows, highs = ([point["efficiency"][name] for point in known] for name in ("effect", "low", "high"))
    at = crossing(counts, effects, floor)
    low = crossing(counts, lows, floor) if None not in lows else None
    high = crossing(counts, highs, floor) if None not in highs else None
    reason = "" if at is not None else f"not reached within what was measured (up to {counts[-1]} ranks)"
    return {"efficiency": floor, "ranks": at, "low": low, "high": high, "reason": reason}
