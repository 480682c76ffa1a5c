"""Loads a user's trained weights into a model, or says why they do not fit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from models.dlwp.weather.pieces import first_line
from results.errors import DataError


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Fill a model from a state dictionary (``torch.save(model.state_dict(), path)``), of the whole model or of its backbone.

    Raises:
        DataError: the file cannot be read, or its tensors are those of another model; the message names the first difference.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"the weights cannot be read: {first_line(error)}", where=str(path), next_step="check data.rate"
        ) from error
    wanted = model.state_dict()
    if not isinstance(state, dict):
        raise DataError("the file holds no state dictionary", where=str(path), next_step="torch.save(model.state_dict(), PATH)")
    if set(state) != set(wanted) and {f"backbone.{name}" for name in state} == set(wanted):
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    problem = ""
    for name in sorted(set(wanted) | set(state)):
        if name not in state:
            problem = f"parameter '{name}' is missing"
        elif name not in wanted:
            problem = f"parameter '{name}' belongs to another model"
        elif wanted[name].shape != state[name].shape:
            problem = f"parameter '{name}' has shape {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        if problem:
            raise DataError(
                f"the weights are those of another backbone: {problem}",
                where=str(path),
                next_step="choose the variant= and size= they were trained with",
            )
    model.load_state_dict(state)
    return model
