"""Forecasts that every backbone is held against: persistence and climatology. No parameters."""

from __future__ import annotations

from torch import Tensor


def persistence(frames: Tensor, teacher_forcing: int) -> Tensor:
    """The last observed frame, repeated over all closed-loop outputs.

    Args:
        frames: ``[batch, length, 1, height, width]``; frames 0 .. teacher_forcing-1 are observed.

    Returns:
        ``[batch, length - 1 - teacher_forcing, 1, height, width]``: forecasts of frames teacher_forcing+1 ..
    """
    leads = frames.shape[1] - 1 - teacher_forcing
    return frames[:, teacher_forcing - 1 : teacher_forcing].expand(-1, leads, -1, -1, -1)


def climatology(frames: Tensor, mean_field: Tensor, teacher_forcing: int) -> Tensor:
    """The mean over training samples and frames at every point, at all closed-loop outputs.

    Args:
        mean_field: ``[1, height, width]``.
    """
    leads = frames.shape[1] - 1 - teacher_forcing
    return mean_field.expand(frames.shape[0], leads, *mean_field.shape)
