"""From experiments to launch requests: plan, freeze, build the data they need."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.experiment import Experiment
from harness.planning.plan import START_S, Plan, make_plan, plan_key
from harness.stores import ensure_all
from launchers.request import RunRequest
from results.runfolder import RunFolder
from results.store import read_json_or, write_json

GIB = 2**30


def plan_all(experiments: Sequence[Experiment], *, measure: bool = True) -> dict[str, Plan]:
    """Plans by run name; experiments that differ by seed or repeat alone are planned once."""
    by_key: dict[str, Plan] = {}
    plans = {}
    for experiment in experiments:
        key = plan_key(experiment)
        if key not in by_key:
            by_key[key] = make_plan(experiment, measure=measure)
        plans[experiment.name] = by_key[key]
    return plans


def build_data(experiments: Sequence[Experiment], progress: Callable[[str, int, int], None]) -> None:
    """Build every generated store that the experiments read."""
    if not experiments:
        return
    root = Path(experiments[0].config.paths.data)
    specs = [spec for experiment in experiments for spec in experiment.system.stores(experiment.point)]
    ensure_all(specs, root, workers=len(os.sched_getaffinity(0)), progress=progress)


def request_for(experiment: Experiment, plan: Plan, *, exclusive: bool = False) -> RunRequest:
    """Freeze the experiment into its run folder and say what it needs.

    Raises:
        ResultError: the run folder cannot be written.
    """
    folder = experiment.freeze()
    if not folder.plan_file.exists():
        write_json(folder.plan_file, plan.as_dict())
    write_json(folder.path / "request.json", {"exclusive": exclusive})
    config = experiment.config
    return RunRequest(
        folder=folder.path,
        ranks=config.ranks,
        cores_per_rank=config.launcher.cores_per_rank,
        memory_gib=config.ranks * (plan.bytes_per_rank or 0) / GIB,
        exclusive=exclusive,
        time_limit_s=config.launcher.time_limit_s,
        expected_s=(plan.train_s or 0.0) + START_S,
    )


def request_again(folder: RunFolder) -> RunRequest:
    """A request for a run that was frozen before (``tenfold retry``)."""
    experiment = Experiment.load(folder.path)
    plan: dict[str, Any] = read_json_or(folder.plan_file, {})
    launcher = experiment.config.launcher
    return RunRequest(
        folder=folder.path,
        ranks=experiment.config.ranks,
        cores_per_rank=launcher.cores_per_rank,
        memory_gib=experiment.config.ranks * (plan.get("bytes_per_rank") or 0) / GIB,
        exclusive=bool(read_json_or(folder.path / "request.json", {}).get("exclusive")),
        time_limit_s=launcher.time_limit_s,
        expected_s=plan.get("train_s") or 0.0,
    )
