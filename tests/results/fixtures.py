"""A synthetic study on disk: run folders as real runs leave them, with numbers from formulas. Nothing here was measured."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from results.metrics import spec_of
from results.pictures import save_panels

PERSISTENCE = 0.28
VARIANTS = {"fno2d": "FNO2D", "tfno2d": "TFNO2D (Tucker)", "unet": "U-Net", "convlstm": "ConvLSTM", "fourcastnet": "FourCastNet"}
PARAMS = {"2k": 2_011, "5k": 6_165, "20k": 22_249, "50k": 48_701, "200k": 190_265}
#: E, A, alpha of the formula behind each variant's error (the U-Net's 5k point is set to persistence by hand).
LAWS = {
    "fno2d": (0.055, 0.012, 0.45),
    "tfno2d": (0.060, 0.013, 0.45),
    "unet": (0.02, 0.050, 0.42),
    "convlstm": (0.05, 0.030, 0.40),
    "fourcastnet": (0.15, 0.020, 0.45),
}
ENGINES = (("torch", 1), ("zero0", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2))


@dataclass(frozen=True)
class Synthetic:
    """Where the synthetic study lies."""

    runs: Path
    report: Path
    index: dict[str, Any]


def fake_study(root: Path, *, name: str = "dlwp_scaling", steps: int = 60, whole: bool = True) -> Synthetic:
    """Write 42 runs (one failed, one without skill, five of the engine arm) and the study's index.

    Args:
        steps: training steps in the step files.
        whole: False writes 8 runs only, for tests that need variety but not number.
    """
    runs = root / "runs"
    report = root / "reports" / name
    runs.mkdir(parents=True)
    report.mkdir(parents=True)
    points = [("grid", "fits", v, s, seed, "torch", 1) for v in VARIANTS for s in ("5k", "20k", "50k") for seed in (0, 1)]
    points += [("grid", "widths", "fno2d", s, seed, "torch", 1) for s in ("2k", "200k") for seed in (0, 1)]
    points += [("grid", "claim", v, "50k", 2, "torch", 1) for v in ("fno2d", "unet", "fourcastnet")]
    points += [("engines", "engines", "fno2d", "20k", 0, engine, ranks) for engine, ranks in ENGINES]
    if not whole:
        points = [p for p in points if p[0] == "engines"][:3] + [p for p in points if p[2] in {"unet", "convlstm"} and p[4] == 1][
            :5
        ]
    entries = []
    for number, (stage, arm, variant, size, seed, engine, ranks) in enumerate(points):
        run = write_run(runs, number, stage, variant, size, seed, engine, ranks, steps=steps)
        entries.append(
            {"run": run, "stage": stage, "arm": arm, "overrides": [f"variant={variant}", f"size={size}", f"seed={seed}"]}
        )
    index = {
        "schema": 1,
        "study": name,
        "title": "Scaling of backbones on Navier-Stokes",
        "description": "Five backbones at matched parameter budgets, closed-loop error on 2D turbulence at Re 1e3.",
        "command": f"tenfold sweep study={name}",
        "system": "dlwp",
        "scale": "small",
        "primary_metric": "rmse",
        "metrics": {
            "rmse": {"unit": "1", "direction": "min", "title": "closed-loop RMSE"},
            "persistence_rmse": {"unit": "1", "direction": "none", "title": "RMSE of persistence"},
            "skill": {"unit": "1", "direction": "min", "title": "RMSE / persistence"},
        },
        "variants": VARIANTS,
        "runs": entries,
        "analysis": {
            "fits": [{"x": "params", "y": "rmse", "group": "variant", "stage": "grid"}],
            "fronts": [{"x": "peak_gib", "y": "rmse"}, {"x": "step_s", "y": "rmse"}],
            "no_skill": {"metric": "rmse", "reference": "persistence_rmse", "above": 0.95},
            "equality": {"stage": "engines", "reference": "torch", "tolerance": 1e-4},
        },
    }
    (report / "study.json").write_text(json.dumps(index))
    return Synthetic(runs, report, index)


def write_run(
    runs: Path, number: int, stage: str, variant: str, size: str, seed: int, engine: str, ranks: int, *, steps: int = 60
) -> str:
    """One run folder; returns its name. ConvLSTM 50k of seed 1 is a failed run."""
    identity = hashlib.sha256(f"{stage}{variant}{size}{seed}{engine}{ranks}".encode()).hexdigest()
    folder = runs / f"dlwp-{variant}-small-{identity[:8]}"
    attempt = folder / "attempt-0"
    for path in (attempt / "steps", attempt / "ranks", folder / "artifacts"):
        path.mkdir(parents=True)
    failed = (variant, size, seed, stage) == ("convlstm", "50k", 1, "grid")
    random = np.random.default_rng(number)
    e, a, alpha = LAWS[variant]
    params = PARAMS[size]
    rmse = (e + a * (params / 1e6) ** -alpha) * math.exp(random.normal() * 0.02)
    if (variant, size) == ("unet", "5k"):
        rmse = PERSISTENCE * 0.999
    step_s = 0.03 * (params / 2e4) ** 0.3 * (1 + 0.35 * (engine != "torch")) * math.exp(random.normal() * 0.02)
    peak = 0.55 + 0.03 * (params / 2e4) ** 0.5 + 0.12 * (engine != "torch") + random.normal() * 0.003
    values = {
        "rmse": rmse, "persistence_rmse": PERSISTENCE, "skill": rmse / PERSISTENCE, "params": params, "step_s": step_s,
        "step_s_p5": 0.93 * step_s, "step_s_p95": 1.12 * step_s, "peak_gib": peak, "peak_gib_min": peak * 0.99,
        "plan_peak_ratio": 1 + random.normal() * 0.05, "plan_step_ratio": 1 + random.normal() * 0.2,
        "total_s": steps * step_s + 4, "flops_per_step": 2e3 * params, "communicate_share": 0.0 if ranks == 1 else 0.12,
    }  # fmt: skip
    started = f"2026-01-05T10:{number % 60:02d}:00+00:00"
    ended = f"2026-01-05T10:{number % 60:02d}:48+00:00"
    point = {
        "system": "dlwp", "variant": variant, "size": size, "scale": "small", "seed": seed, "repeat": 0, "engine": engine,
        "ranks": ranks, "site": "local",
    }  # fmt: skip
    failure = None
    if failed:
        failure = {
            "class": "oom-host", "reason": "killed by SIGKILL; the kernel's out-of-memory killer does this too: dmesg tells",
            "rank": 0, "step": steps // 2, "host": "node-a", "next_step": "tenfold retry --only oom-host", "traceback": "", "evidence": {},
        }  # fmt: skip
    layout = {"host": "node-a", "ranks": ranks, "engine": engine, "cores": 1, "shared_with": 0 if stage == "engines" else 1}
    opening = {"attempt": 0, "started": started, **layout}
    outcome = {"status": "failed" if failed else "completed", "ended": ended}
    record = {
        "schema": 1, "run": folder.name, "identity": identity, "status": outcome["status"], **point, "data": "generated",
        "system_version": 1, "timing_valid": True, "shared_with": layout["shared_with"],
        "metrics": {} if failed else {
            name: {"value": number_, "unit": spec_of(name).unit, "direction": str(spec_of(name).direction), "reason": ""}
            for name, number_ in values.items()
        },
        "plan": {"params": params, "flops_per_step": 2e3 * params, "ranks": ranks, "zero_stage": None, "bytes_per_rank": 6e8,
                 "base_bytes": 5e8, "step_s": step_s, "node_hours": 0.01, "fits": True},
        "phases_s": {} if failed else {"load": 1.5, "train": steps * step_s, "evaluate": 1.0},
        "attempts": [{**opening, **outcome}], "failure": failure, "accounting": {}, "provenance": {}, "wandb": {},
    }  # fmt: skip
    environment = {
        "host": "node-a", "cpu": "Example CPU 2.4 GHz", "cores": 2, "memory_gib": 23.4, "python": "3.11.9",
        "packages": {"torch": "2.13.0", "deepspeed": "0.19.8", "numpy": "2.4.6"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False, "variables": {"OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    write = {
        folder / "config.yaml": "".join(f"{key}: {value}\n" for key, value in point.items()) + "data:\n  trajectories: 96\n",
        folder / "plan.json": json.dumps(record["plan"]),
        folder / "record.json": json.dumps(record),
        attempt / "attempt.json": json.dumps(opening),
        attempt / "env.json": json.dumps(environment),
        attempt / "outcome.json": json.dumps(outcome),
        attempt / "steps" / "0.jsonl": _steps(variant, size, seed, engine, step_s, steps // 2 if failed else steps),
    }
    if failed:
        write[attempt / "failure.json"] = json.dumps(failure)
    else:
        squared = rmse**2 * np.random.default_rng(7).lognormal(-0.08, 0.4, 32) * random.lognormal(-0.005, 0.1, 32)
        stream = io.BytesIO()
        np.savez(stream, rmse_squared=squared * rmse**2 / squared.mean())
        (folder / "samples.npz").write_bytes(stream.getvalue())
    for path, text in write.items():
        path.write_text(text)
    if size == "50k" and seed == 0 and not failed:
        save_panels(folder / "artifacts", "rollout", **_fields(rmse))
    return folder.name


def _steps(variant: str, size: str, seed: int, engine: str, step_s: float, steps: int) -> str:
    """Step lines of a smooth, noisy decay; engines differ from the reference by rounding only."""
    random = np.random.default_rng(len(variant) * 100 + seed)
    floor = 0.1 * (PARAMS[size] / 1e4) ** -0.3
    lines = []
    for step in range(steps):
        loss = floor + math.exp(-step / 15) * (1 + 0.1 * random.normal()) * (1 + 1e-6 * (engine != "torch"))
        lines.append(json.dumps({"step": step, "loss": loss, "step_s": step_s, "memory_gib": 0.6, "lr": 1e-3}))
    return "\n".join(lines) + "\n"


def _fields(rmse: float) -> dict[str, Any]:
    """A rollout of travelling waves and an error that grows."""
    x, y = np.meshgrid(np.linspace(0, 2 * np.pi, 32, endpoint=False), np.linspace(0, 2 * np.pi, 32, endpoint=False))
    truth = np.stack([np.sin(x + 0.5 * t) * np.cos(2 * y - 0.3 * t) for t in range(5)])
    error = np.stack([rmse * (t + 1) / 3 * np.sin(3 * x - y + t) for t in range(5)])
    return {
        "panels": np.stack([truth, truth + error, error]), "row_titles": ["truth", "prediction", "error"],
        "column_titles": [f"t = {t + 4}" for t in range(5)], "title": "Vorticity, first test trajectory", "units": "1/s",
    }  # fmt: skip
