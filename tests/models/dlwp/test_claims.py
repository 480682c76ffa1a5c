"""Claims over rows whose ratios are known by construction."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from models.dlwp.claims import CLAIMS, arm
from results.claims import VerdictKind, judge

PARAMS = {"2k": 2011, "5k": 6165, "20k": 22249, "50k": 48701, "200k": 190265}


def row(variant: str, size: str, seed: int, rmse: float, *, engine: str = "torch", train_s: float = 10.0) -> dict:
    """A run whose per-sample squared errors vary by 10 % around ``rmse**2``; persistence has RMSE 1 on the same samples."""
    hard = 1 + 0.1 * np.random.default_rng(7).standard_normal(32)  # what makes a sample hard is shared by all models
    own = 1 + 0.02 * np.random.default_rng([seed, len(variant)]).standard_normal(32)
    squared = rmse**2 * hard * own
    score = float(np.sqrt(squared.mean()))
    return {
        "run": f"dlwp-{variant}-{size}-{seed}-{engine}-{train_s}",
        "system": "dlwp",
        "variant": variant,
        "size": size,
        "scale": "small",
        "seed": seed,
        "repeat": 0,
        "engine": engine,
        "status": "completed",
        "metrics": {"rmse": score, "params": PARAMS[size], "skill_ratio": score, "steps": train_s},
        "samples": {"rmse_squared": squared, "persistence_rmse_squared": hard},
    }


def grid(scores: dict[str, float], sizes: tuple[str, ...] = ("5k", "20k", "50k"), seeds: tuple[int, ...] = (0, 1)) -> list[dict]:
    return [row(v, size, seed, rmse * (1 + 0.01 * seed)) for v, rmse in scores.items() for size in sizes for seed in seeds]


def verdicts(rows: list[dict]) -> dict[str, dict]:
    return {found["claim"]: found for found in judge(CLAIMS, rows)}


def test_the_ordering_of_the_paper_holds() -> None:
    found = verdicts(grid({"fno2d": 0.3, "unet": 0.6, "convlstm": 0.5, "fourcastnet": 0.75}))
    assert found["fno2d-beats-persistence"]["verdict"] == "holds"
    assert found["fno2d-beats-persistence"]["effect"] == pytest.approx(0.3, rel=0.02)
    assert found["fno2d-beats-unet"]["effect"] == pytest.approx(0.5, rel=0.02)
    assert found["fno2d-beats-fourcastnet"]["effect"] == pytest.approx(0.4, rel=0.02)
    best = found["fno2d-best-at-every-size"]
    assert best["verdict"] == "holds"
    assert best["effect"] == pytest.approx(0.6, rel=0.02)
    assert "convlstm" in best["detail"]
    for name in ("fno2d-beats-unet", "fno2d-beats-fourcastnet"):
        assert found[name]["verdict"] == "holds"
        assert found[name]["low"] < found[name]["effect"] < found[name]["high"] < 0.8


def test_the_opposite_fails() -> None:
    found = verdicts(grid({"fno2d": 0.9, "unet": 0.6, "convlstm": 1.0, "fourcastnet": 0.95}))
    assert found["fno2d-beats-persistence"]["verdict"] == "fails"
    assert found["fno2d-beats-unet"]["verdict"] == "fails"
    assert found["fno2d-best-at-every-size"]["verdict"] == "fails"
    assert found["fno2d-best-at-every-size"]["effect"] == pytest.approx(1.5, rel=0.02)


def test_one_lost_size_is_enough_to_fail() -> None:
    rows = grid({"fno2d": 0.3, "unet": 0.6, "convlstm": 0.5, "fourcastnet": 0.75})
    rows = [r for r in rows if (r["variant"], r["size"]) != ("convlstm", "20k")]
    rows += [row("convlstm", "20k", seed, 0.2) for seed in (0, 1)]
    assert verdicts(rows)["fno2d-best-at-every-size"]["verdict"] == "fails"


def test_an_interval_across_the_bound_cannot_tell() -> None:
    rows = [row("fno2d", "50k", seed, rmse) for seed, rmse in ((0, 0.4), (1, 0.8))]
    found = verdicts(rows)["fno2d-beats-persistence"]
    assert found["verdict"] == "cannot_tell"
    assert found["low"] < 0.6 < found["high"]


@pytest.mark.parametrize("rows", [[], [row("fno2d", "50k", 0, 0.3), row("unet", "50k", 0, 0.6)]])
def test_missing_rows_or_single_seeds_cannot_tell(rows: list[dict]) -> None:
    found = [claim.check(rows) for claim in CLAIMS]
    assert {verdict.kind for verdict in found} == {VerdictKind.CANNOT_TELL}
    assert all(verdict.detail and verdict.effect is None for verdict in found)


def test_a_run_without_samples_is_no_seed() -> None:
    rows = grid({"fno2d": 0.3}, sizes=("50k",))
    rows[1]["samples"] = {}
    found = verdicts(rows)["fno2d-beats-persistence"]
    assert found["verdict"] == "cannot_tell"
    assert "1 seeds" in found["detail"]


def test_short_runs_of_other_engines_do_not_enter_an_arm() -> None:
    long = row("fno2d", "20k", 0, 0.3)
    rows = [row("fno2d", "20k", 0, 0.9, train_s=2.0), row("fno2d", "20k", 0, 0.9, engine="zero3", train_s=50.0), long]
    assert arm(rows, "fno2d", "20k") == [long]


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [
        (lambda n: 0.2 + 0.01 * (n / 1e4) ** -0.8, "holds"),  # levels off at an offset
        (lambda n: 0.3 * (n / 1e4) ** -0.4, "fails"),  # a pure power law
    ],
)
def test_saturation_follows_the_curve(curve, verdict: str) -> None:
    rows = [row("fno2d", size, seed, 0.1) for size in PARAMS for seed in (0, 1)]
    for r in rows:
        r["metrics"]["rmse"] = curve(r["metrics"]["params"]) * (1 + 1e-4 * r["seed"])
    found = verdicts(rows)["fno2d-saturates"]
    assert found["verdict"] == verdict
    logs = np.log([PARAMS[size] for size in ("20k", "50k", "200k")])
    slope = np.polyfit(logs, np.log([curve(PARAMS[size]) for size in ("20k", "50k", "200k")]), 1)[0]
    assert found["effect"] == pytest.approx(slope, abs=1e-3)
    assert found["low"] <= found["effect"] <= found["high"]


def test_sizes_without_skill_stay_out_of_the_fit() -> None:
    rows = [row("fno2d", size, seed, 0.1) for size in PARAMS for seed in (0, 1)]
    for r in rows:
        r["metrics"]["skill_ratio"] = 0.99 if r["size"] == "2k" else 0.5
    found = verdicts(rows)["fno2d-saturates"]
    assert found["verdict"] == "cannot_tell"
    assert "4 sizes" in found["detail"]


def test_claims_import_no_torch() -> None:
    script = "import sys, models.dlwp.claims, models.dlwp.config; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
