"""What every rank runs: ``python -m harness.worker RUN_FOLDER``.

It reads the frozen configuration (ranks never compose), joins the group, executes the system, writes its own measurements, and
rank 0 merges them into the record. Whatever goes wrong ends in a failure record and a non-zero exit.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from harness.experiment import Experiment
from harness.group import Group, join
from harness.leave import LeaveError, LeaveFlag
from harness.provenance import EnergyCounter, environment, now, place
from launchers.layout import Layout
from launchers.starting import launch_log
from results.errors import EXIT_OK, EXIT_RUN_FAILED, DivergedError, ResultError, TenfoldError
from results.failures import failure_from_exception
from results.merge import write_record
from results.runfolder import Attempt, RunFolder
from results.store import write_bytes, write_json


def _take_over_output(folder: RunFolder, attempt: Attempt, rank: int) -> None:
    """Send this process's output, also of C libraries, to the attempt's log; what was printed before is copied in."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = attempt.log(rank)
    early = launch_log(folder.path, rank)
    if early.exists():
        shutil.copyfile(early, target)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _start_attempt(folder: RunFolder, experiment: Experiment) -> Attempt:
    config = experiment.config
    attempt = folder.claim_attempt()
    attempt.write(
        "attempt",
        {
            "attempt": attempt.index,
            "started": now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "engine": config.engine.name,
            "ranks": config.ranks,
            "micro_batch": config.train.micro_batch,
            "cores": len(os.sched_getaffinity(0)),
            "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
            "launcher": config.launcher.name,
            **_job_facts(),
            "load_1m": round(os.getloadavg()[0], 2),  # who else was busy on the machine when it started
        },
    )
    return attempt


def _job_facts() -> dict[str, Any]:
    """Which job and step of a scheduler this is, from what the launcher and srun have set."""
    try:
        job = json.loads(os.environ.get("TENFOLD_JOB", ""))
    except ValueError:
        return {}
    step = {
        name: os.environ[f"SLURM_STEP_{key}"]
        for name, key in (("step", "ID"), ("nodes", "NODELIST"))
        if f"SLURM_STEP_{key}" in os.environ
    }
    return {"job": {**job, **step}}


def run(path: Path) -> int:
    """Execute one rank of the run in ``path``; the exit status."""
    folder = RunFolder(path)
    rank = int(os.environ.get("RANK", "0"))
    leave = LeaveFlag()
    leave.install()
    state: dict[str, Any] = {"attempt": None, "context": None}
    try:
        experiment = Experiment.load(path).with_layout(Layout.read(path))
        if rank == 0:
            state["attempt"] = _start_attempt(folder, experiment)
            _take_over_output(folder, state["attempt"], 0)
            leave.stop_file = state["attempt"].stop_file
        _execute(folder, experiment, rank, leave, state)
    except BaseException as error:
        return _record_failure(folder, rank, error, state)
    return EXIT_OK


def _execute(folder: RunFolder, experiment: Experiment, rank: int, leave: LeaveFlag, state: dict[str, Any]) -> None:
    config = experiment.config
    clock = None
    import torch

    from harness.communication import CommunicationClock
    from harness.context import RunContext
    from harness.meter import Meter

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if config.ranks > 1:
        clock = CommunicationClock()
        clock.install()
    group = join(expected_world=config.ranks, device=config.device)
    index = group.broadcast(None if state["attempt"] is None else state["attempt"].index)
    attempt = state["attempt"] or Attempt(folder.path / f"attempt-{index}")
    if rank:
        state["attempt"] = attempt
        _take_over_output(folder, attempt, rank)
    else:
        attempt.write("env", environment())
    energy = state["energy"] = EnergyCounter()
    context = RunContext(experiment, group, Meter(group.device), folder, attempt, leave)
    context.facts["clock"] = clock if group.device.type == "cpu" else None
    state["context"] = context
    print(f"{folder.name}: rank {rank} of {group.world} on {group.device}, engine {config.engine.name}", flush=True)
    outcome = experiment.system.execute(experiment.point, context)
    _write_rank(context, energy)
    group.barrier()
    _write_series(context)
    if rank == 0:
        _write_outcome(context, outcome)
        write_record(folder)
    group.barrier()
    if config.keep != "none" or folder.checkpoints.exists():
        from harness.checkpoints import Checkpoints

        Checkpoints(folder.checkpoints, group).finish(config.keep)
    group.leave()


def _write_rank(context: Any, energy: EnergyCounter) -> None:
    from harness.trainer import step_summary

    facts = context.facts
    joules, reason = energy.joules()
    total = context.meter.total_s()
    timed = facts.get("timed_steps", [])
    write_json(
        context.attempt.rank_file(context.rank),
        {
            "rank": context.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": str(context.device),
            **place(context.device),
            "total_s": total,
            "phases_s": dict(context.meter.phases_s),
            "memory": context.meter.memory(),
            "params": facts.get("params"),
            "steps_done": facts.get("steps_done"),
            "first_step": facts.get("first_step"),
            "steps_s": step_summary(timed),
            "communicate_known": context.world == 1 or facts.get("clock") is not None,
            "energy_j": joules,
            "energy_reason": reason,
        },
    )


def _write_series(context: Any) -> None:
    from results.series import create_series, write_series

    steps = context.facts.get("last_step")
    if steps is None:
        return
    first = context.facts["first_step"]
    if context.rank == 0:
        create_series(context.folder, context.attempt, ranks=context.world, first_step=first, steps=steps - first)
    context.group.barrier()
    write_series(context.folder, context.attempt, context.rank)
    context.group.barrier()


def _write_outcome(context: Any, outcome: Any) -> None:
    import io

    import numpy as np

    if outcome.samples:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(values) for name, values in outcome.samples.items()}
        np.savez_compressed(buffer, **arrays)
        write_bytes(context.folder.path / "samples.npz", buffer.getvalue())
    catalogue = context.experiment.catalogue
    specs = catalogue.metric_specs
    metrics = {**context.facts.get("validation", {}), **outcome.metrics}
    undeclared = sorted(set(metrics) - set(specs))
    if undeclared:
        raise ResultError(
            f"system '{catalogue.name}' reports metrics it has not declared: {', '.join(undeclared)}",
            where=f"{catalogue.name}/config.py: CATALOGUE.metrics",
        )
    primary = metrics.get(catalogue.primary_metric, math.nan)
    if not math.isfinite(primary):
        raise DivergedError(
            f"{catalogue.primary_metric} is {primary} after training",
            where=f"run {context.folder.name}",
            next_step=f"lower train.lr or set train.clip: tenfold run --from {context.folder.name} train.lr=...",
        )
    context.attempt.write(
        "outcome",
        {
            "status": "completed",
            "ended": now(),
            "metrics": {
                name: {"value": float(value), "unit": specs[name].unit, "direction": str(specs[name].direction)}
                for name, value in metrics.items()
            },
        },
    )


#: How long a rank whose peer is gone waits for the peer's own account.
COLLATERAL_WAIT_S = 2.0
_PEER_GONE = ("closed by peer", "reset by peer", "broken pipe", "remote process exited", "socket closed", "peer is unreachable")


def _follows_from_another_rank(error: BaseException) -> bool:
    """Whether a rank failed only because another one is gone."""
    return any(mark in str(error).lower() for mark in _PEER_GONE)


def _record_failure(folder: RunFolder, rank: int, error: BaseException, state: dict[str, Any]) -> int:
    """Say what happened in the log, in ``failure.json`` (the first rank's word stays) and in the record."""
    trace = "".join(traceback.format_exception(error))
    print(trace if not isinstance(error, LeaveError) else str(error), file=sys.stderr, flush=True)
    attempt, context = state["attempt"], state["context"]
    if attempt is None:
        return EXIT_RUN_FAILED if not isinstance(error, TenfoldError) else error.exit_code
    host = socket.gethostname()
    step = None if context is None else context.step
    if isinstance(error, LeaveError):
        return _record_leaving(rank, error, state)
    failure = failure_from_exception(error, rank=rank, step=step, host=host, run=folder.name, trace=trace)
    try:
        if _follows_from_another_rank(error):
            # Whoever failed first (or, if it was killed, its launcher) is about to say so: let its word be the record.
            failure.evidence["follows"] = True
            time.sleep(COLLATERAL_WAIT_S)
        attempt.fail(failure)
        if context is not None:
            _write_rank(context, state["energy"])
        if rank == 0:
            write_record(folder)
    except TenfoldError as second:  # a full disk, say: the launcher records what this rank could not
        print(second, file=sys.stderr, flush=True)
    return EXIT_RUN_FAILED


def _record_leaving(rank: int, error: LeaveError, state: dict[str, Any]) -> int:
    """All ranks have saved and leave with status 0, so that no launcher kills one for another; why is the launcher's to say."""
    context = state["context"]
    try:
        _write_rank(context, state["energy"])
        if rank == 0:
            context.attempt.write(
                "leave", {"step": context.step + 1, "reason": error.what, "host": socket.gethostname(), "at": now()}
            )
    except TenfoldError as second:
        print(second, file=sys.stderr, flush=True)
        return EXIT_RUN_FAILED
    return EXIT_OK


def main() -> None:
    """Entry point. ``os._exit``: a peer that died must not keep this process in a destructor."""
    status = run(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()


__all__ = ["Group", "main", "run"]
