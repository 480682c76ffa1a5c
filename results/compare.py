"""Paired comparison of two sets of runs: the same experiments under two engines, sites, commits or days."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.metrics import MetricSpec, spec_of
from results.record import Status
from results.rows import value
from results.stats import Change, mean_interval, paired_ratio

Row = Mapping[str, Any]

PAIR_KEYS = ("system", "variant", "size", "scale", "seed", "repeat", "engine", "ranks", "site", "data", "recipe")

#: Metrics that another run on the machine spoils although their unit is not one of time.
_TIMED = frozenset({"mfu", "plan_step_ratio", "communicate_share", "data_wait_share", "step_skew", "energy_j"})


def is_timing(metric: str) -> bool:
    """Whether a metric is only good from a run that was alone on its machine."""
    return spec_of(metric).unit in {"s", "1/s"} or metric in _TIMED


def compare(
    rows_a: Sequence[Row], rows_b: Sequence[Row], metric: str, *, specs: Mapping[str, MetricSpec] | None = None
) -> dict[str, Any]:
    """Compare a metric of ``a`` with that of ``b``, experiment by experiment.

    Rows are paired by their identity. A part of the identity in which each set has a single value and the two differ (the
    engine, the number of ranks, the site) is what is compared, and does not take part in the pairing.

    Args:
        specs: units and directions of the system's own metrics.

    Returns:
        ``metric, unit, differs`` (key -> [a, b])``, pairs`` (keys of the pair, ``run_a, run_b, a, b``)``, ratio, low, high,
        count`` (geometric mean of a/b with its 95 % interval; null where there is no pair or a value is not positive)``,
        difference`` (mean of a - b, likewise)``, verdict, reason, dropped`` (``run, reason``).
        Verdicts on ``a``: ``faster, slower`` for times and throughputs, ``better, worse`` for other metrics with a direction,
        ``lower, higher`` without, or ``cannot tell``.
    """
    spec = spec_of(metric, dict(specs or {}))
    dropped: list[dict[str, str]] = []
    usable_a, usable_b = (_usable(rows, metric, dropped) for rows in (rows_a, rows_b))
    differs = _differences(rows_a, rows_b)
    keys = [key for key in PAIR_KEYS if key not in differs]
    by_key_a, by_key_b = (_by_key(rows, keys) for rows in (usable_a, usable_b))
    pairs: list[dict[str, Any]] = []
    for key, rows in by_key_a.items():
        others = by_key_b.get(key, [])
        for first, second in zip(rows, others, strict=False):
            named = {name: first.get(name, "") for name in keys}
            pairs.append(
                {**named, "run_a": first["run"], "run_b": second["run"], "a": value(first, metric), "b": value(second, metric)}
            )
        dropped += [{"run": row["run"], "reason": "no partner in b"} for row in rows[len(others) :]]
    for key, rows in by_key_b.items():
        dropped += [{"run": row["run"], "reason": "no partner in a"} for row in rows[len(by_key_a.get(key, [])) :]]
    found: dict[str, Any] = {"metric": metric, "unit": spec.unit, "differs": differs, "pairs": pairs, "dropped": dropped}
    return {**found, **_verdict(pairs, spec)}


def _usable(rows: Sequence[Row], metric: str, dropped: list[dict[str, str]]) -> list[Row]:
    """Completed rows with the metric and, for a timing, alone and valid; the others are named with the reason."""
    kept = []
    for row in rows:
        reason = ""
        if row["status"] != Status.COMPLETED:
            reason = f"status {row['status']}"
        elif value(row, metric) is None:
            reason = f"{metric} is unknown"
        elif is_timing(metric) and row["shared_with"]:
            reason = f"timed beside {row['shared_with']} other run{'s' if row['shared_with'] > 1 else ''}"
        elif is_timing(metric) and not row.get("timing_valid", True):
            reason = "its layout changed on the way"
        if reason:
            dropped.append({"run": row["run"], "reason": reason})
        else:
            kept.append(row)
    return kept


def _differences(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> dict[str, list[Any]]:
    found = {}
    for key in PAIR_KEYS:
        a, b = ({row.get(key, "") for row in rows} for rows in (rows_a, rows_b))
        if len(a) == len(b) == 1 and a != b:
            found[key] = [a.pop(), b.pop()]
    return found


def _by_key(rows: Sequence[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["run"]):
        groups.setdefault(tuple(row.get(key, "") for key in keys), []).append(row)
    return groups


def _verdict(pairs: Sequence[Mapping[str, Any]], spec: MetricSpec) -> dict[str, Any]:
    count = len(pairs)
    nothing = {"ratio": None, "low": None, "high": None, "count": count, "difference": None, "verdict": str(Change.CANNOT_TELL)}
    if not pairs:
        return {**nothing, "reason": "no two rows can be paired"}
    a, b = [pair["a"] for pair in pairs], [pair["b"] for pair in pairs]
    difference = mean_interval([first - second for first, second in zip(a, b, strict=True)]).as_dict()
    if min(*a, *b) > 0:
        interval = paired_ratio(a, b).ratio
        below, above = interval.high < 1, interval.low > 1
        plain = interval.as_dict()
        ratio = {"ratio": plain["effect"], **({"low": plain["low"], "high": plain["high"]} if count > 1 else {})}
    else:  # no ratio of a slope or a correlation that may be negative
        below = difference["high"] is not None and difference["high"] < 0
        above = difference["low"] is not None and difference["low"] > 0
        ratio = {"ratio": None, "low": None, "high": None}
    reason = "" if count > 1 else "one pair says nothing about the spread"
    return {**nothing, **ratio, "difference": difference, "verdict": _word(below, above, spec), "reason": reason}


def _word(below: bool, above: bool, spec: MetricSpec) -> str:
    if not below and not above:
        return str(Change.CANNOT_TELL)
    if spec.direction == "none":
        return "lower" if below else "higher"
    good = below == (spec.direction == "min")
    if spec.unit in {"s", "1/s"}:
        return str(Change.FASTER if good else Change.SLOWER)
    return "better" if good else "worse"


def sentence(found: Mapping[str, Any]) -> str:
    """A comparison in one line, for the terminal."""
    what = ", ".join(f"{key} {a} against {b}" for key, (a, b) in found["differs"].items()) or "a against b"
    text = f"{found['metric']}: {what}: {found['verdict']}"
    if found["ratio"] is not None:
        low, high = found["low"], found["high"]
        interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        text += f", ratio {found['ratio']:.3f}{interval}"
    elif found["difference"] is not None and math.isfinite(found["difference"]["effect"]):
        text += f", difference {found['difference']['effect']:.4g}"
    text += f" over {found['count']} pair{'' if found['count'] == 1 else 's'}"
    if found["dropped"]:
        text += f"; {len(found['dropped'])} rows left out ({found['dropped'][0]['reason']})"
    return text
