"""Runs that another run reads (a trained model, a profile): part of its identity, run before it, found beside its folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from results.errors import ResultError, RunError
from results.runfolder import RunFolder
from results.store import read_json_or

if TYPE_CHECKING:
    from torch import Tensor

    from harness.experiment import Experiment


def derive(experiment: Experiment, changes: Mapping[str, Any], *, name: str) -> Experiment:
    """The experiment that an input names: this one with some keys changed.

    Args:
        changes: values by dotted key (``variant``, ``data.serving.nprobe``).
        name: of the input, for errors.

    Raises:
        ConfigError: a changed key or value is wrong.
    """
    from harness.experiment import Experiment

    plain = copy.deepcopy(experiment.plain)
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        place = plain
        for section in sections:
            place = place[section]
        place[leaf] = value
    return Experiment.resolve(plain, source=f"input '{name}' of {experiment.config.system}")


def all_inputs(experiment: Experiment) -> Iterator[Experiment]:
    """Its inputs and theirs, each after what it reads."""
    for found in experiment.inputs.values():
        yield from all_inputs(found)
        yield found


def missing_inputs(experiment: Experiment) -> list[Experiment]:
    """Those that have not been completed, in the order to run them."""
    by_name = {found.name: found for found in all_inputs(experiment)}
    return [found for found in by_name.values() if not found.folder.is_completed()]


def input_folder(folder: RunFolder, name: str) -> RunFolder:
    """The folder of a run's input, from what was written when the run was frozen.

    Raises:
        RunError: the run has no such input, or it has not been completed.
    """
    run = read_json_or(folder.path / "run.json", {}).get("inputs", {}).get(name)
    if run is None:
        raise RunError(f"this run has no input '{name}'", where=str(folder.path))
    found = RunFolder(folder.path.parent / run)
    if not found.is_completed():
        raise RunError(
            f"the input '{name}' is not complete",
            where=str(found.path),
            next_step=f"tenfold run --from {found.path}"
            if found.config_file.exists()
            else "tenfold sweep study=... runs inputs first",
        )
    return found


def weights(folder: RunFolder) -> dict[str, Tensor]:
    """Parameters and buffers of a completed run's model, on the CPU, whatever engine has trained it.

    Raises:
        ResultError: the run kept no checkpoint.
    """
    import torch

    from harness.checkpoints import Checkpoints
    from harness.group import Group

    alone = Group(rank=0, world=1, local_rank=0, device=torch.device("cpu"), joined=False)
    checkpoints = Checkpoints(folder.checkpoints, alone)
    path = checkpoints.find("best") or checkpoints.find("latest")
    if path is None:
        raise ResultError(
            "the run kept no checkpoint",
            where=str(folder.path),
            next_step=f"rm -r {folder.path}, then the same command with keep=last",
        )
    whole = path / "torch.pt"
    if whole.exists():
        state: dict[str, Tensor] = torch.load(whole, map_location="cpu", weights_only=True)["model"]
        return state
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    prefix = "model."
    gathered = get_fp32_state_dict_from_zero_checkpoint(str(path), tag="state")
    return {key.removeprefix(prefix): value for key, value in gathered.items()}
