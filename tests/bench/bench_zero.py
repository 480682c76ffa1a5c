"""The harness's ZeRO steps on two ranks against a bare DeepSpeed script's: ``python -m tests.bench.bench_zero``.

Both loops run in turn in the same two processes, which our local launcher starts; which comes first alternates. The bare loop
wraps the system's model itself with ``deepspeed.initialize``, has the same configuration and optimiser, all batches in memory,
and does nothing but forward, backward, update and reading the loss. The harness reads batches, times collectives, logs every
step, checks for NaN, reports progress, and agrees on leaving. Seconds per step are those of whole loops, first step included.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.compose import Composer
from harness.experiment import Experiment
from harness.stores import ensure_all
from launchers.request import RunRequest
from launchers.starting import LocalStarter, launch_log
from results.stats import paired_ratio
from results.store import read_json, write_json

CASES = tuple((engine, size) for size in ("20k", "200k") for engine in ("zero2", "zero3"))
RANKS, STEPS, ROUNDS, GOAL = 2, 60, 7, 1.03
PATIENCE_S = 900.0


@contextmanager
def clocked() -> Iterator[Any]:
    """Collectives are timed, as in a worker of the harness; afterwards they are torch's own again."""
    import deepspeed.comm.comm
    import torch.distributed as dist

    from harness.communication import _COLLECTIVES, CommunicationClock

    def bind() -> None:
        backend = deepspeed.comm.comm.cdb  # holds two of them from its start on; absent before the first engine
        if backend is not None:
            backend.all_gather_function = backend.get_all_gather_function()
            backend.reduce_scatter_function = backend.get_reduce_scatter_function()

    own = {name: getattr(dist, name) for name in _COLLECTIVES if hasattr(dist, name)}
    clock = CommunicationClock()
    clock.install()
    bind()
    try:
        yield clock
    finally:
        for name, function in own.items():
            setattr(dist, name, function)
        bind()


def harness_loop(experiment: Experiment, group: Any) -> float:
    """Seconds per step of ``fit``'s loop: training, communication, waiting for data, everything between steps."""
    from harness.context import RunContext
    from harness.leave import LeaveFlag
    from harness.meter import Meter
    from results.runfolder import Attempt

    system, point, folder = experiment.system, experiment.point, experiment.folder
    index = group.broadcast(folder.claim_attempt().index if group.rank == 0 else None)
    context = RunContext(experiment, group, Meter(group.device), folder, Attempt(folder.path / f"attempt-{index}"), LeaveFlag())
    with clocked() as clock:
        context.facts["clock"] = clock
        group.barrier()
        context.fit(system, point, system.open_data(point))  # type: ignore[attr-defined]
    phases = context.meter.phases_s
    return float(sum(phases[name] for name in ("train", "data_wait", "communicate"))) / STEPS


def bare_loop(experiment: Experiment, group: Any) -> float:
    """Seconds per step of the least that trains the same."""
    import torch

    from harness.engines.base import optimizer_groups
    from harness.engines.deepspeed_engine import DeepSpeedEngine, import_deepspeed
    from harness.engines.torch_engine import make_optimizer
    from harness.sampler import micro_batches
    from harness.schedule import learning_rate

    system, point, config = experiment.system, experiment.point, experiment.config
    deepspeed = import_deepspeed("cpu")
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    data, train = system.open_data(point), config.train  # type: ignore[attr-defined]
    shape = {"count": data.num_samples, "global_batch": train.global_batch, "micro_batch": train.micro_batch}
    batches = [
        [data.batch(draws) for draws in micro_batches(seed=0, step=step, rank=group.rank, world=group.world, **shape)]
        for step in range(STEPS)
    ]
    same = DeepSpeedEngine.__new__(DeepSpeedEngine)  # for its configuration only
    same.config, same.train, same.precision, same.group = config.engine, train, config.precision, group
    torch.manual_seed(0)
    model = system.build_model(point)
    optimizer = make_optimizer(optimizer_groups(system.param_groups(point, model), train), train)
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=same._ds_config(), dist_init_required=False
    )
    group.barrier()
    start = time.perf_counter()
    for step in range(STEPS):
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(train, step)
        for batch in batches[step]:
            loss = system.loss(point, engine, batch)
            engine.backward(loss)
            engine.step()
            loss.item()
    return (time.perf_counter() - start) / STEPS


def rank(folder: Path) -> None:
    """One of the two ranks: all rounds; rank 0 writes the seconds of the slower rank."""
    import numpy as np
    import torch

    from harness.engines.deepspeed_engine import import_deepspeed
    from harness.group import join

    torch.set_num_threads(1)
    import_deepspeed("cpu")
    group = join(expected_world=RANKS, device="cpu")
    times: list[list[float]] = []
    for turn, run in enumerate(read_json(folder / "rounds.json")):
        experiment = Experiment.load(Path(run))
        pair = {}
        for loop in (harness_loop, bare_loop)[:: 1 if turn % 2 == 0 else -1]:
            pair[loop.__name__] = float(group.all_gather(np.array([loop(experiment, group)])).max())
            gc.collect()
        times.append([pair["harness_loop"], pair["bare_loop"]])
    if group.rank == 0:
        write_json(folder / "times.json", times)
    group.barrier()
    group.leave()


def measure(engine: str, size: str, scratch: Path, data: Path, rounds: int) -> list[list[float]]:
    """Pairs of seconds per step, without the first round, which warms up.

    Raises:
        RuntimeError: a rank failed, or they take too long.
    """
    words = ["system=dlwp", "scale=small", "variant=fno2d", f"size={size}", f"engine={engine}", f"ranks={RANKS}"]
    words += [f"train.steps={STEPS}", "keep=none", f"paths.runs={scratch}/runs", f"paths.data={data}"]
    with Composer() as composer:
        experiments = [composer.compose([*words, f"repeat={repeat}"]) for repeat in range(rounds + 1)]
    ensure_all(experiments[0].system.stores(experiments[0].point), data, workers=2)
    folder = scratch / f"{engine}-{size}"
    folder.mkdir()
    write_json(folder / "rounds.json", [str(experiment.freeze().path) for experiment in experiments])
    started = LocalStarter().start(RunRequest(folder=folder, ranks=RANKS, module="tests.bench.bench_zero"), [])
    try:
        end = time.monotonic() + PATIENCE_S
        while not started.ended and time.monotonic() < end and not any(started.codes()):
            time.sleep(0.2)
    finally:
        started.kill()
        started.close()
    if not (folder / "times.json").exists():
        said = "\n".join(launch_log(folder, number).read_text()[-2000:] for number in range(RANKS))
        raise RuntimeError(f"{engine} {size}: exit {started.codes()}\n{said}")
    times: list[list[float]] = read_json(folder / "times.json")
    return times[1:]


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of data stores to use instead of building one")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", metavar="ENGINE-SIZE", help="one case, say zero3-20k")
    arguments = parser.parse_args([] if words is None else words)
    rows = []
    with tempfile.TemporaryDirectory(prefix="tenfold-bench-") as place:
        scratch = Path(place)
        for engine, size in CASES:
            if arguments.only not in (None, f"{engine}-{size}"):
                continue
            times = measure(engine, size, scratch, arguments.data or scratch / "data", arguments.rounds)
            ours, bare = (statistics.median(column) for column in zip(*times, strict=True))
            found = paired_ratio(*zip(*times, strict=True)).ratio
            rows.append(
                {
                    "name": f"step on two ranks, {engine}, fno2d {size} (95 %: {found.low:.3f} to {found.high:.3f})",
                    "unit": "ms per step",
                    "ours": ours * 1e3,
                    "peer": bare * 1e3,
                    "ratio": found.effect,
                    "goal": GOAL,
                    "met": True if found.high <= GOAL else False if found.low > GOAL else None,
                }
            )
            spread = ", ".join(f"{first / second:.3f}" for first, second in times)
            print(
                f"{rows[-1]['name']:72} {ours * 1e3:8.2f} {bare * 1e3:8.2f} ms  ratio {found.effect:.3f}  ({spread})", flush=True
            )
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 2 and (Path(sys.argv[1]) / "rounds.json").exists():
        rank(Path(sys.argv[1]))
    else:
        main(sys.argv[1:])
