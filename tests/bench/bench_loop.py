"""The harness's training loop against a bare PyTorch loop of the same model, optimiser and batches.

``python -m tests.bench.bench_loop``. The bare loop has its batches in memory (in the last row it reads them too) and does nothing
but forward, backward, update and reading the loss; the harness reads batches, logs every step, times, checks for NaN, reports
progress. Interleaved A B A B ..., medians of the time per step over whole loops.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harness.compose import Composer
from harness.context import RunContext
from harness.experiment import Experiment
from harness.group import Group
from harness.leave import LeaveFlag
from harness.meter import Meter
from harness.sampler import micro_batches
from harness.schedule import learning_rate
from harness.stores import ensure_all
from models.system import TrainedSystem

#: Experiment, and whether the bare loop reads its batches too (else it has them all in memory beforehand).
CASES = (
    ("variant=fno2d size=20k", False),
    ("variant=unet size=20k", False),
    ("variant=fourcastnet size=5k", False),
    ("variant=fourcastnet size=5k", True),
)
STEPS, ROUNDS, GOAL = 60, 7, 1.02


def harness_loop(experiment: Experiment) -> float:
    """Seconds per step of ``fit``'s loop: training, waiting for data, everything between steps."""
    system, point = experiment.system, experiment.point
    assert isinstance(system, TrainedSystem)
    folder = experiment.freeze()
    group = Group(rank=0, world=1, local_rank=0, device=torch.device("cpu"), joined=False)
    context = RunContext(experiment, group, Meter(group.device), folder, folder.claim_attempt(), LeaveFlag())
    context.fit(system, point, system.open_data(point))
    phases = context.meter.phases_s
    return (phases["train"] + phases["data_wait"]) / STEPS


def bare_loop(experiment: Experiment, *, reading: bool) -> float:
    """Seconds per step of the least that trains the same; ``reading`` its batches as it goes, or with all of them at hand."""
    system, point, train = experiment.system, experiment.point, experiment.config.train
    assert isinstance(system, TrainedSystem)
    data = system.open_data(point)
    plan = [
        micro_batches(seed=0, step=step, count=data.num_samples, global_batch=4, micro_batch=4, rank=0, world=1)[0]
        for step in range(STEPS)
    ]
    batches = None if reading else [data.batch(draws) for draws in plan]
    torch.manual_seed(0)
    model = system.build_model(point)
    optimizer = torch.optim.Adam(model.parameters(), lr=train.lr)
    start = time.perf_counter()
    for step in range(STEPS):
        batch = data.batch(plan[step]) if batches is None else batches[step]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, step)
        loss = system.loss(point, model, batch)
        loss.backward()
        loss.item()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / STEPS


def main() -> list[dict[str, Any]]:
    """Measure and print."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for case, reading in CASES:
            words = [
                *case.split(),
                f"train.steps={STEPS}",
                "keep=none",
                f"paths.runs={scratch}/runs",
                f"paths.data={scratch}/data",
            ]
            with Composer() as composer:
                experiments = [composer.compose([*words, f"repeat={repeat}"]) for repeat in range(ROUNDS + 1)]
            ensure_all(experiments[0].system.stores(experiments[0].point), Path(scratch) / "data", workers=2)
            ours, bare = [], []
            for repeat, experiment in enumerate(experiments):
                pair = (harness_loop(experiment), bare_loop(experiment, reading=reading))
                if repeat:  # the first round warms up
                    ours.append(pair[0])
                    bare.append(pair[1])
            ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
            rows.append(
                {
                    "name": f"training loop, {case.replace('variant=', '').replace('size=', '')}"
                    + (", the bare loop reading too" if reading else ""),
                    "unit": "ms per step",
                    "ours": statistics.median(ours) * 1e3,
                    "peer": statistics.median(bare) * 1e3,
                    "ratio": ratio,
                    "goal": GOAL,
                    "met": ratio <= GOAL,
                }
            )
            print(f"{rows[-1]['name']:60} {rows[-1]['ours']:8.2f} {rows[-1]['peer']:8.2f} ms  ratio {ratio:.3f}", flush=True)
    return rows


if __name__ == "__main__":
    main()
