"""Claims of Karlbauer et al. 2024 on Navier-Stokes as checks over a study's rows.

Ratios of closed-loop RMSE come with a bootstrap over seeds and, within a seed, over test samples, paired where both arms were
scored on the same samples. An arm of fewer than two seeds says nothing about its spread: then one cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from results.claims import Claim, Row, Verdict, VerdictKind

MODEL, PERSISTENCE = "rmse_squared", "persistence_rmse_squared"
MIN_SEEDS = 2
MIN_SIZES = 5
#: Backbones of the paper that this system has besides FNO2D. The Tucker-factorised TFNO2D is FNO2D's own family, and the
#: paper's experiment has no row of it.
RIVALS = ("unet", "convlstm", "fourcastnet")


def arm(rows: Sequence[Row], variant: str, size: str) -> list[Row]:
    """One row per seed. Where a seed was run several times, plain PyTorch counts before sharded engines, and of two
    trainings the longer one: the short ones compare engines."""

    def order(row: Row) -> tuple[bool, float, int]:
        return row["engine"] != "torch", -float(row["metrics"].get("steps") or 0.0), int(row.get("repeat", 0))

    by_seed: dict[int, Row] = {}
    for row in sorted((r for r in rows if r["variant"] == variant and r["size"] == size), key=order):
        by_seed.setdefault(int(row["seed"]), row)
    return [by_seed[seed] for seed in sorted(by_seed)]


def _errors(members: Sequence[Row], name: str) -> list[Sequence[float]]:
    """Per-sample squared errors of the seeds that kept them."""
    return [row["samples"][name] for row in members if name in (row.get("samples") or {})]


def _missing(label: str, errors: Sequence[object]) -> str:
    return (
        f"{label} has {len(errors)} seeds with per-sample errors; the check needs {MIN_SEEDS}" if len(errors) < MIN_SEEDS else ""
    )


def below_persistence(rows: Sequence[Row], *, variant: str, size: str, bound: float) -> Verdict:
    """RMSE of a model over that of persistence on the same targets, against ``bound``."""
    from results.stats import bootstrap_ratio

    members = arm(rows, variant, size)
    model, reference = _errors(members, MODEL), _errors(members, PERSISTENCE)
    missing = _missing(f"{variant} {size}", model)
    if missing:
        return Verdict.unknown(missing)
    found = bootstrap_ratio(model, reference)
    return Verdict.below(
        found.effect, found.low, found.high, bound, f"RMSE of {variant} {size} / persistence, {len(model)} seeds"
    )


def below_rival(rows: Sequence[Row], *, variant: str, rival: str, size: str, bound: float) -> Verdict:
    """RMSE of a model over that of a rival of the same size label, against ``bound``."""
    from results.stats import bootstrap_ratio

    ours, theirs = _errors(arm(rows, variant, size), MODEL), _errors(arm(rows, rival, size), MODEL)
    missing = _missing(f"{variant} {size}", ours) or _missing(f"{rival} {size}", theirs)
    if missing:
        return Verdict.unknown(missing)
    found = bootstrap_ratio(ours, theirs)
    detail = f"RMSE of {variant} {size} / {rival} {size}, {len(ours)} and {len(theirs)} seeds"
    return Verdict.below(found.effect, found.low, found.high, bound, detail)


def best_everywhere(rows: Sequence[Row], *, variant: str, rivals: Sequence[str]) -> Verdict:
    """The largest ratio to any rival at any size that all of them have. The claim is a conjunction: it holds when every
    interval lies below 1 and fails when one lies above, which the largest bounds decide."""
    sizes_of = {name: {row["size"] for row in rows if row["variant"] == name} for name in (variant, *rivals)}
    absent = [name for name, sizes in sizes_of.items() if not sizes]
    if absent:
        return Verdict.unknown(f"no completed run of {', '.join(absent)}")
    common = sorted(set.intersection(*sizes_of.values()), key=_budget)
    if not common:
        return Verdict.unknown("no size that all backbones have")
    found = {}
    for size in common:
        for rival in rivals:
            verdict = below_rival(rows, variant=variant, rival=rival, size=size, bound=1.0)
            if verdict.effect is None:
                return verdict
            found[rival, size] = verdict
    (rival, size), worst = max(found.items(), key=lambda item: item[1].effect or 0.0)
    lows, highs = ([getattr(verdict, side) for verdict in found.values()] for side in ("low", "high"))
    detail = f"sizes {', '.join(common)} against {', '.join(rivals)}; the closest is {rival} at {size}"
    return Verdict.below(worst.effect or 0.0, max(lows), max(highs), 1.0, detail)


def saturates(rows: Sequence[Row], *, variant: str, no_skill: float = 0.95) -> Verdict:
    """Verdict of the saturation fit; the effect shown is the slope of log RMSE against log parameters over the last three
    sizes, its interval Student's over seeds."""
    import numpy as np

    from results.fits import fit_saturation
    from results.stats import mean_interval

    points = []
    for size in sorted({row["size"] for row in rows if row["variant"] == variant}, key=_budget):
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


def _budget(size: str) -> float:
    """Parameters that a size label stands for."""
    return float(size[:-1]) * {"k": 1e3, "M": 1e6}[size[-1]]


def _claim(name: str, statement: str, check: Callable[[Sequence[Row]], Verdict]) -> Claim:
    return Claim(name=name, statement=statement, source="arXiv 2407.14129, Navier-Stokes experiments", check=check)


_FNO = partial(below_rival, variant="fno2d", size="50k", bound=0.8)

CLAIMS = (
    _claim(
        "fno2d-beats-persistence",
        "FNO2D at 50k parameters has less than 0.6 times the closed-loop RMSE of persistence.",
        partial(below_persistence, variant="fno2d", size="50k", bound=0.6),
    ),
    _claim(
        "fno2d-beats-unet",
        "FNO2D has less than 0.8 times the closed-loop RMSE of U-Net, both at 50k parameters.",
        partial(_FNO, rival="unet"),
    ),
    _claim(
        "fno2d-beats-fourcastnet",
        "FNO2D has less than 0.8 times the closed-loop RMSE of FourCastNet, both at 50k parameters.",
        partial(_FNO, rival="fourcastnet"),
    ),
    _claim(
        "fno2d-best-at-every-size",
        "FNO2D (published as TFNO2D) has the lowest closed-loop RMSE of the published backbones at every common size.",
        partial(best_everywhere, variant="fno2d", rivals=RIVALS),
    ),
    _claim(
        "fno2d-saturates",
        "Every backbone saturates: the error of FNO2D stops following a power law in its parameters.",
        partial(saturates, variant="fno2d"),
    ),
)
