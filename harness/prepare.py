"""From experiments to launch requests: plan, freeze, build the data they need."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.experiment import Experiment
from harness.planning.devices import find_gpu_type
from harness.planning.partitions import plan_host
from harness.planning.plan import START_S, Plan, make_plan, plan_key
from harness.schema import ExperimentConfig
from harness.stores import ensure_all
from launchers.layout import Layout
from launchers.request import RunRequest
from results.runfolder import RunFolder
from results.store import dumps, read_json_or, write_bytes, write_json

GIB = 2**30


def plan_all(
    experiments: Sequence[Experiment],
    *,
    gpu: str | None = None,
    measure: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Plan]:
    """Plans by run name; experiments that differ by seed or repeat alone are planned once.

    Args:
        gpu: plan for GPUs of this type instead of for where each will run (:func:`planned_device`).
        measure: measure what this machine's profile lacks first.
        progress: told how many of how many are planned, after each.
    """
    by_key: dict[tuple[str, str | None], Plan] = {}
    by_sections: dict[tuple[Any, ...], Plan] = {}  # a thousand seeds of ten points: ten keys
    plans = {}
    for done, experiment in enumerate(experiments, start=1):
        sections = _sections(experiment.config)
        if sections not in by_sections:
            device = gpu or planned_device(experiment.config)
            key = (plan_key(experiment), device)
            if key not in by_key:
                by_key[key] = make_plan(experiment, gpu=device, measure=measure)
                plan_host(by_key[key], experiment)
            by_sections[sections] = by_key[key]
        plans[experiment.name] = by_sections[sections]
        if progress is not None:
            progress(done, len(experiments))
    return plans


def _sections(config: ExperimentConfig) -> tuple[Any, ...]:
    """Equal for configurations that differ by seed or repeat alone and were derived from one another; values, or identities of
    sections. Every section is named by some experiment that is still there, so no identity is used twice."""
    names = (item.name for item in dataclasses.fields(config) if item.name not in ("seed", "repeat"))
    values = (getattr(config, name) for name in names)
    return tuple(value if isinstance(value, str | int | float | None) else id(value) for value in values)


def build_data(experiments: Sequence[Experiment], progress: Callable[[str, int, int], None]) -> None:
    """Build every generated store that the experiments read."""
    if not experiments:
        return
    root = Path(experiments[0].config.paths.data)
    specs = [spec for experiment in experiments for spec in experiment.system.stores(experiment.point)]
    ensure_all(specs, root, workers=len(os.sched_getaffinity(0)), progress=progress)


def request_of(folder: RunFolder, experiment: Experiment, plan: Mapping[str, Any], *, exclusive: bool) -> RunRequest:
    """What a run needs, from its configuration and plan, with the layout that its next attempt will really have."""
    layout = Layout.read(folder.path)
    config = experiment.with_layout(layout).config
    return RunRequest(
        folder=folder.path,
        ranks=config.ranks,
        cores_per_rank=config.launcher.cores_per_rank,
        gpus_per_rank=int(wants_gpu(config)),
        nodes=config.launcher.nodes,
        memory_gib=layout.memory_gib or config.ranks * host_gib(plan),
        exclusive=exclusive,
        time_limit_s=config.launcher.time_limit_s,
        leave_grace_s=config.launcher.leave_grace_s,
        saves=config.train.checkpoint_every > 0,
        expected_s=(plan.get("train_s") or 0.0) + START_S,
    )


def host_gib(plan: Mapping[str, Any]) -> float:
    """Planned memory of a rank's process, from ``plan.json``; 0 where it is not known. On a GPU the rank's peak is another."""
    on_cpu = plan.get("device", "cpu") == "cpu"
    return float(plan.get("host_bytes_per_rank") or (plan.get("bytes_per_rank") if on_cpu else None) or 0) / GIB


def wants_gpu(config: ExperimentConfig) -> bool:
    """``auto`` means a GPU where the site's partition has some."""
    partition = config.site.partitions.get(config.site.partition or "")
    return config.device == "cuda" or (config.device == "auto" and partition is not None and partition.gpus_per_node > 0)


def planned_device(config: ExperimentConfig) -> str | None:
    """Where a run is planned for: its partition's GPU type (``cuda`` if nothing is known of it) or CPUs, whatever the machine has
    on which the command is typed; None where that is the machine it runs on."""
    if config.site.scheduler == "none":
        return None
    if not wants_gpu(config):
        return "cpu"
    partition = config.site.partitions.get(config.site.partition or "")
    return find_gpu_type(config.site.gpu_type or (partition.gpu_type if partition else None) or "") or "cuda"


def request_for(
    experiment: Experiment, plan: Plan, *, exclusive: bool = False, texts: dict[int, bytes] | None = None
) -> RunRequest:
    """Freeze the experiment into its run folder and say what it needs.

    Args:
        texts: ``plan.json`` by the identity of the plan, kept from call to call by whoever asks for many runs of few plans.

    Raises:
        ResultError: the run folder cannot be written.
    """
    folder = experiment.freeze()
    # The first prediction stays, unless the run now goes to another kind of device (site.partition=...).
    if read_json_or(folder.plan_file, {}).get("device") != plan.device:
        texts = {} if texts is None else texts
        if id(plan) not in texts:
            texts[id(plan)] = (dumps(plan.as_dict()) + "\n").encode()
        write_bytes(folder.plan_file, texts[id(plan)], durable=False)
    write_json(folder.path / "request.json", {"exclusive": exclusive}, durable=False)
    needed = {name: getattr(plan, name) for name in ("device", "bytes_per_rank", "host_bytes_per_rank", "train_s")}
    return request_of(folder, experiment, needed, exclusive=exclusive)


def request_again(folder: RunFolder) -> RunRequest:
    """A request for a run that was frozen before (``tenfold retry``)."""
    exclusive = bool(read_json_or(folder.path / "request.json", {}).get("exclusive"))
    return request_of(folder, Experiment.load(folder.path), read_json_or(folder.plan_file, {}), exclusive=exclusive)
