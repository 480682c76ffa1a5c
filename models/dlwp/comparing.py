"""What the claims of both experiments are made of: ratios of errors with intervals.

Ratios come with a bootstrap over seeds and, within a seed, over test samples, paired where arms were scored on the same samples.
An arm of fewer than two seeds says nothing about its spread: then one cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from results.claims import Row, Verdict, VerdictKind

MODEL, PERSISTENCE = "rmse_squared", "persistence_rmse_squared"
MIN_SEEDS = 2
MIN_SIZES = 5


def arm(rows: Sequence[Row], variant: str, size: str) -> list[Row]:
    """One row per seed. Where a seed was run several times, plain PyTorch counts before sharded engines, and of two
    trainings the longer one: the short ones compare engines."""

    def order(row: Row) -> tuple[bool, float, int]:
        return row["engine"] != "torch", -float(row["metrics"].get("steps") or 0.0), int(row.get("repeat", 0))

    by_seed: dict[int, Row] = {}
    for row in sorted((r for r in rows if r["variant"] == variant and r["size"] == size), key=order):
        by_seed.setdefault(int(row["seed"]), row)
    return [by_seed[seed] for seed in sorted(by_seed)]


def errors(members: Sequence[Row], name: str) -> list[Sequence[float]]:
    """Per-sample squared errors of the seeds that kept them."""
    return [row["samples"][name] for row in members if name in (row.get("samples") or {})]


def missing(label: str, found: Sequence[object], seeds: int = MIN_SEEDS) -> str:
    """Why an arm cannot be compared; empty where it can."""
    return f"{label} has {len(found)} seeds with per-sample errors; the check needs {seeds}" if len(found) < seeds else ""


def below_reference(
    rows: Sequence[Row],
    *,
    variant: str,
    size: str,
    bound: float,
    metric: str = MODEL,
    reference: str = PERSISTENCE,
    seeds: int = MIN_SEEDS,
) -> Verdict:
    """RMSE of a model over that of persistence on the same targets, against ``bound``."""
    from results.stats import bootstrap_ratio

    members = arm(rows, variant, size)
    model, other = errors(members, metric), errors(members, reference)
    lacking = missing(f"{variant} {size}", model, seeds)
    if lacking:
        return Verdict.unknown(lacking)
    found = bootstrap_ratio(model, other)
    detail = f"RMSE of {variant} {size} / persistence, {len(model)} seeds"
    return Verdict.below(found.effect, found.low, found.high, bound, detail)


def below_rival(
    rows: Sequence[Row],
    *,
    variant: str,
    rival: str,
    size: str,
    bound: float,
    metric: str = MODEL,
    seeds: int = MIN_SEEDS,
) -> Verdict:
    """RMSE of a model over that of a rival of the same size label, against ``bound``."""
    from results.stats import bootstrap_ratio

    ours, theirs = errors(arm(rows, variant, size), metric), errors(arm(rows, rival, size), metric)
    lacking = missing(f"{variant} {size}", ours, seeds) or missing(f"{rival} {size}", theirs, seeds)
    if lacking:
        return Verdict.unknown(lacking)
    found = bootstrap_ratio(ours, theirs)
    detail = f"RMSE of {variant} {size} / {rival} {size}, {len(ours)} and {len(theirs)} seeds"
    return Verdict.below(found.effect, found.low, found.high, bound, detail)


def all_below(found: dict[str, Verdict], bound: float, detail: str) -> Verdict:
    """A conjunction of ratios: it holds when every interval lies below the bound and fails when one lies above, which the largest
    bounds decide. What cannot be told of one cannot be told of all.

    Args:
        found: what was compared, to its verdict.
    """
    for verdict in found.values():
        if verdict.effect is None:
            return verdict
    worst = max(found, key=lambda name: found[name].effect or 0.0)
    lows, highs = ([getattr(verdict, side) for verdict in found.values()] for side in ("low", "high"))
    return Verdict.below(found[worst].effect or 0.0, max(lows), max(highs), bound, f"{detail}; the closest is {worst}")


def best_everywhere(rows: Sequence[Row], *, variant: str, rivals: Sequence[str], least: int = 1) -> Verdict:
    """The largest ratio to any rival at any size that it shares with that rival.

    Args:
        rivals: those of them that the study has are compared.
        least: how many it must have.
    """
    sizes_of = {name: {row["size"] for row in rows if row["variant"] == name} for name in (variant, *rivals)}
    present = [name for name in rivals if sizes_of[name] & sizes_of[variant]]
    if len(present) < least:
        absent = [name for name in rivals if name not in present]
        return Verdict.unknown(f"no completed run of {', '.join(absent)}, or no size that {variant} has")
    found = {}
    for rival in present:
        for size in sorted(sizes_of[variant] & sizes_of[rival], key=budget):
            found[f"{rival} at {size}"] = below_rival(rows, variant=variant, rival=rival, size=size, bound=1.0)
    return all_below(found, 1.0, f"against {', '.join(present)}, {len(found)} sizes in all")


def saturates(rows: Sequence[Row], *, variant: str, no_skill: float = 0.95) -> Verdict:
    """Verdict of the saturation fit; the effect shown is the slope of log RMSE against log parameters over the last three
    sizes, its interval Student's over seeds."""
    import numpy as np

    from results.fits import fit_saturation
    from results.stats import mean_interval

    points = []
    for size in sorted({row["size"] for row in rows if row["variant"] == variant}, key=budget):
        members = [row for row in arm(rows, variant, size) if row["metrics"].get("rmse") and row["metrics"].get("params")]
        if members and np.mean([row["metrics"].get("skill_ratio") or 0.0 for row in members]) <= no_skill:
            points.append((float(members[0]["metrics"]["params"]), {row["seed"]: row["metrics"]["rmse"] for row in members}))
    if len(points) < MIN_SIZES:
        return Verdict.unknown(f"{variant} has {len(points)} sizes with skill; the fit needs {MIN_SIZES}")
    fit = fit_saturation([params for params, _ in points], [list(scores.values()) for _, scores in points])
    last = sorted(points)[-3:]
    seeds = set.intersection(*(set(scores) for _, scores in last))
    logs = np.log([params for params, _ in last])
    slopes = [np.polyfit(logs, np.log([scores[seed] for _, scores in last]), 1)[0] for seed in sorted(seeds)]
    spread = mean_interval(slopes)
    kind = {"saturates": VerdictKind.HOLDS, "scales": VerdictKind.FAILS}.get(fit.verdict, VerdictKind.CANNOT_TELL)
    return Verdict(
        kind=kind,
        effect=fit.slope3,
        low=spread.low,
        high=spread.high,
        bound=-0.05,
        detail=f"{variant} over {len(points)} sizes {fit.verdict}: {fit.reason}",
    )


def budget(size: str) -> float:
    """Parameters that a size label stands for."""
    return float(size[:-1]) * {"k": 1e3, "M": 1e6}[size[-1]]
