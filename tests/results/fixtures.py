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
import yaml

from results.merge import build_record
from results.pictures import save_panels
from results.runfolder import Attempt, RunFolder
from results.series import create_series, write_series

GIB = 2**30
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
            "skill_ratio": {"unit": "1", "direction": "min", "title": "RMSE / persistence"},
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
    runs: Path,
    number: int,
    stage: str,
    variant: str,
    size: str,
    seed: int,
    engine: str,
    ranks: int,
    *,
    steps: int = 60,
    series: bool = False,
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
    timed = {"step_s": step_s, "step_s_p5": 0.93 * step_s, "step_s_p95": 1.12 * step_s}
    scores = {"rmse": rmse, "persistence_rmse": PERSISTENCE, "skill_ratio": rmse / PERSISTENCE}
    directions = {"rmse": "min", "persistence_rmse": "none", "skill_ratio": "min"}
    started = f"2026-01-05T10:{number % 60:02d}:00+00:00"
    ended = f"2026-01-05T10:{number % 60:02d}:48+00:00"
    config = {
        "system": "dlwp", "variant": variant, "size": size, "scale": "small", "seed": seed, "repeat": 0, "ranks": ranks,
        "engine": {"name": engine}, "site": {"name": "local"}, "data": {"trajectories": 96},
    }  # fmt: skip
    failure = {
        "class": "oom-host", "reason": "killed by SIGKILL; the kernel's out-of-memory killer does this too: dmesg tells",
        "rank": 0, "step": steps // 2, "host": "node-a", "next_step": "tenfold retry --only oom-host",
    }  # fmt: skip
    memory = {"peak_gib": peak, "host_peak_gib": peak}
    rank_file = {
        "rank": 0, "params": PARAMS[size], "steps_s": timed, "memory": memory, "total_s": steps * step_s + 4,
        "phases_s": {"load": 1.5, "train": steps * step_s, "communicate": 0.0, "data_wait": 0.01, "evaluate": 1.0},
        "communicate_known": True,
    }  # fmt: skip
    environment = {
        "host": "node-a", "cpu": "Example CPU 2.4 GHz", "cores": 2, "memory_gib": 23.4, "python": "3.11.9",
        "packages": {"torch": "2.13.0", "deepspeed": "0.19.8", "numpy": "2.4.6"},
        "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "variables": {"OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    plan = {
        "params": PARAMS[size], "flops_per_step": 2e3 * PARAMS[size], "ranks": ranks, "zero_stage": None, "base_bytes": 0.5 * GIB,
        "bytes_per_rank": peak * GIB * (1 + random.normal() * 0.05), "step_s": step_s * (1 + random.normal() * 0.2),
        "node_hours": 0.01, "fits": True,
    }  # fmt: skip
    opening = {"attempt": 0, "started": started, "host": "node-a", "ranks": ranks, "engine": engine, "cores": 1}
    write = {
        folder / "config.yaml": yaml.safe_dump(config, sort_keys=False),
        folder / "run.json": json.dumps({"identity": identity, "data": "generated", "system_version": 1}),
        folder / "plan.json": json.dumps(plan),
        attempt / "attempt.json": json.dumps(opening),
        attempt / "env.json": json.dumps(environment),
        attempt / "launch.json": json.dumps({"shared_with": 0 if stage == "engines" else 1, "ended": ended}),
        attempt / "steps" / "0.jsonl": _steps(variant, size, seed, engine, step_s, steps // 2 if failed else steps),
    }
    if failed:
        write[attempt / "failure.json"] = json.dumps(failure)
    else:
        metrics = {name: {"value": scores[name], "unit": "1", "direction": directions[name]} for name in scores}
        write[attempt / "outcome.json"] = json.dumps({"status": "completed", "ended": ended, "metrics": metrics})
        write[attempt / "ranks" / "0.json"] = json.dumps(rank_file)
        squared = np.random.default_rng(7).lognormal(-0.08, 0.4, 32) * random.lognormal(-0.005, 0.1, 32)
        stream = io.BytesIO()
        np.savez(stream, rmse_squared=squared * rmse**2 / squared.mean())
        (folder / "samples.npz").write_bytes(stream.getvalue())
    for path, text in write.items():
        path.write_text(text)
    if series:
        store = Attempt(attempt)
        create_series(RunFolder(folder), store, ranks=ranks, first_step=0, steps=steps)
        write_series(RunFolder(folder), store, 0)
    (folder / "record.json").write_text(json.dumps(build_record(RunFolder(folder)).as_dict()))
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
