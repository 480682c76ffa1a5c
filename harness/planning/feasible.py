"""What a plan has to say of an experiment besides numbers: what will not work, and what will not do what it seems to."""

from __future__ import annotations

import os

from harness.experiment import Experiment
from harness.schema import ExperimentConfig


def remarks(experiment: Experiment, *, device: str) -> list[str]:
    """Remarks on combinations that the types and :mod:`harness.checks` allow, most severe first.

    Args:
        device: ``cpu``, ``cuda`` or a GPU type: where it is planned for.
    """
    config = experiment.config
    found = [*_samples(config), *_ranks(config, device)]
    if config.precision == "bf16" and device == "cpu":
        found.append("bf16 on a CPU saves memory of activations and states; few CPUs compute it faster than fp32")
    if config.precision == "bf16" and device.startswith("V100"):
        found.append("a V100 has no bf16 units: computed in fp32")
    if config.engine.offload and device == "cpu":
        found.append("on a CPU offload moves nothing: states are in host memory anyway, use engine=zero3")
    if (config.engine.stage or 0) >= 1 and config.ranks == 1:
        found.append(f"ZeRO stage {config.engine.stage} on one rank shards nothing and costs its hooks")
    return found


def _samples(config: ExperimentConfig) -> list[str]:
    """Held against the number of training samples, where the system's data section calls it ``train``."""
    samples = getattr(config.data, "train", None)
    if not isinstance(samples, int):
        return []
    if config.ranks > samples:
        return [f"{config.ranks} ranks share {samples} training samples: some have none of their own in an epoch"]
    if config.train.global_batch > samples:
        return [f"a global batch of {config.train.global_batch} repeats samples: there are {samples}"]
    return []


def _ranks(config: ExperimentConfig, device: str) -> list[str]:
    if config.launcher.name != "local" or device != "cpu":
        return []
    cores = len(os.sched_getaffinity(0))
    wanted = config.ranks * config.launcher.cores_per_rank
    if wanted <= cores:
        return []
    return [f"{config.ranks} ranks want {wanted} cores and take turns on {cores}: oversubscribed, no timing to compare"]
