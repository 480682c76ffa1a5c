"""Autoregressive rollout: observations are fed first, then the model's own predictions (paper, section on training protocol).

Frames are numbered 0 .. L-1; output t predicts frame t+1. For t < TF (``teacher_forcing``) the newest input is observation t,
afterwards it is output t-1. With a context of c frames, output t is computed from inputs t-c+1 .. t; for t < c-1 there are too
few, and the output is a copy of the newest input. Gradients flow through every closed-loop step.

A backbone that predicts in one shot takes all observations and gives all closed-loop outputs (frames TF+1 .. L-1) at once; its
outputs t < TF are copies of the newest input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rollout(nn.Module):
    """A backbone with its protocol; one call is one whole rollout, so that one forward of a sharded engine covers it.

    The trajectory is kept in float32 (residuals are small differences); the backbone computes in its parameters' type.

    Args:
        backbone: see :mod:`models.dlwp.backbones`.
        context: frames that a non-recurrent backbone takes, at least 1 and at most ``teacher_forcing``.
        teacher_forcing: number of observed frames.
    """

    def __init__(self, backbone: nn.Module, *, context: int, teacher_forcing: int) -> None:
        super().__init__()
        if not 1 <= context <= teacher_forcing:
            raise ValueError(f"context {context} is not between 1 and teacher_forcing {teacher_forcing}")
        self.backbone = backbone
        self.context = context
        self.teacher_forcing = teacher_forcing
        self.residual = bool(getattr(backbone, "residual", False))
        self.recurrent = bool(getattr(backbone, "recurrent", False))
        self.one_shot = bool(getattr(backbone, "one_shot", False))

    def forward(self, frames: Tensor) -> Tensor:
        """Roll out over the length of ``frames``; frames from ``teacher_forcing`` on only say how many outputs are wanted.

        Args:
            frames: ``[batch, length, 1, height, width]``, more than one frame.

        Returns:
            float32 ``[batch, length - 1, 1, height, width]``.
        """
        count = frames.shape[1] - 1
        observed = frames[:, : min(self.teacher_forcing, count)].float()
        if self.one_shot:
            return self._at_once(observed, count)
        outputs = self._recurrent(observed, count) if self.recurrent else self._windowed(observed, count)
        return torch.stack(outputs, dim=1)

    def _at_once(self, observed: Tensor, count: int) -> Tensor:
        left = count - observed.shape[1]
        if left <= 0:
            return observed
        out = self.backbone(observed[:, :, 0].to(self._type()), left).float()
        return torch.cat([observed, out.unsqueeze(2)], dim=1)

    def _windowed(self, observed: Tensor, count: int) -> list[Tensor]:
        context, fed = self.context, observed.shape[1]
        inputs = list(observed.unbind(1))
        outputs = inputs[: context - 1]
        if fed >= context:
            # The inputs of all teacher-forced outputs are known: one application for all of them.
            windows = torch.cat([observed[:, last - context : last, 0] for last in range(context, fed + 1)])
            outputs = outputs + list(self._advance(windows).chunk(fed - context + 1))
        while len(outputs) < count:
            inputs.append(outputs[-1])
            outputs.append(self._advance(torch.cat(inputs[-context:], dim=1)))
        return outputs

    def _advance(self, window: Tensor) -> Tensor:
        """``[batch, context, height, width] -> [batch, 1, height, width]``."""
        out: Tensor = self.backbone(window.to(self._type())).float()
        return window[:, -1:] + out if self.residual else out

    def _recurrent(self, observed: Tensor, count: int) -> list[Tensor]:
        outputs: list[Tensor] = []
        states = None
        frames = observed.transpose(0, 1)
        while len(outputs) < count:
            out, states = self.backbone(frames.to(self._type()), states)
            out = frames + out.float() if self.residual else out.float()
            outputs += out.unbind(0)
            frames = outputs[-1][None]
        return outputs

    def _type(self) -> torch.dtype:
        """What the engine made of the parameters: float32 or bfloat16."""
        return next((parameter.dtype for parameter in self.backbone.parameters()), torch.float32)
