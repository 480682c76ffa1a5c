"""From experiments to launch requests: plan, freeze, build the data they need."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.experiment import Experiment
from harness.planning.plan import START_S, Plan, make_plan, plan_key
from harness.schema import ExperimentConfig
from harness.stores import ensure_all
from launchers.layout import Layout
from launchers.request import RunRequest
from results.runfolder import RunFolder
from results.store import read_json_or, write_json

GIB = 2**30


def plan_all(experiments: Sequence[Experiment], *, gpu: str | None = None, measure: bool = True) -> dict[str, Plan]:
    """Plans by run name; experiments that differ by seed or repeat alone are planned once.

    Args:
        gpu: plan for GPUs of this type instead of for this machine.
        measure: measure what this machine's profile lacks first.
    """
    by_key: dict[str, Plan] = {}
    plans = {}
    for experiment in experiments:
        key = plan_key(experiment)
        if key not in by_key:
            by_key[key] = make_plan(experiment, gpu=gpu, measure=measure)
        plans[experiment.name] = by_key[key]
    return plans


def build_data(experiments: Sequence[Experiment], progress: Callable[[str, int, int], None]) -> None:
    """Build every generated store that the experiments read."""
    if not experiments:
        return
    root = Path(experiments[0].config.paths.data)
    specs = [spec for experiment in experiments for spec in experiment.system.stores(experiment.point)]
    ensure_all(specs, root, workers=len(os.sched_getaffinity(0)), progress=progress)


def request_of(folder: RunFolder, experiment: Experiment, plan: Mapping[str, Any], *, exclusive: bool) -> RunRequest:
    """What a run needs, from its configuration and plan, with the layout that its next attempt will really have."""
    experiment = experiment.with_layout(Layout.read(folder.path))
    layout, config = Layout.read(folder.path), experiment.config
    planned_gib = config.ranks * (plan.get("host_bytes_per_rank") or plan.get("bytes_per_rank") or 0) / GIB  # on GPUs two things
    return RunRequest(
        folder=folder.path,
        ranks=config.ranks,
        cores_per_rank=config.launcher.cores_per_rank,
        gpus_per_rank=int(wants_gpu(config)),
        nodes=config.launcher.nodes,
        memory_gib=layout.memory_gib or planned_gib,
        exclusive=exclusive,
        time_limit_s=config.launcher.time_limit_s,
        expected_s=(plan.get("train_s") or 0.0) + START_S,
    )


def wants_gpu(config: ExperimentConfig) -> bool:
    """``auto`` means a GPU where the site's partition has some."""
    partition = config.site.partitions.get(config.site.partition or "")
    return config.device == "cuda" or (config.device == "auto" and partition is not None and partition.gpus_per_node > 0)


def request_for(experiment: Experiment, plan: Plan, *, exclusive: bool = False) -> RunRequest:
    """Freeze the experiment into its run folder and say what it needs.

    Raises:
        ResultError: the run folder cannot be written.
    """
    folder = experiment.freeze()
    plain = plan.as_dict()
    if not folder.plan_file.exists():
        write_json(folder.plan_file, plain, durable=False)
    write_json(folder.path / "request.json", {"exclusive": exclusive}, durable=False)
    return request_of(folder, experiment, plain, exclusive=exclusive)


def request_again(folder: RunFolder) -> RunRequest:
    """A request for a run that was frozen before (``tenfold retry``)."""
    exclusive = bool(read_json_or(folder.path / "request.json", {}).get("exclusive"))
    return request_of(folder, Experiment.load(folder.path), read_json_or(folder.plan_file, {}), exclusive=exclusive)
