"""Autoregressive forecasts: a residual step of six hours, applied to its own results, the true forcing given at every step.

Frame k+1 is frame k plus the backbone of [constants, prescribed frames k-c+1 .. k, prognostic frames k-c+1 .. k], all normalised.
Gradients flow through every step (Karlbauer et al. 2024, training protocol of the weather experiment).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

#: What a forecast goes on from: the newest prognostic frames, and the state of a recurrent backbone.
Carry = tuple[Tensor, Any]


class ForecastModel(nn.Module):
    """A backbone with its protocol. One call covers several steps, so that one forward of a sharded engine does.

    Fields are ``[.., lat, lon]`` or, on HEALPix, ``[.., 12, n, n]``.

    Args:
        backbone: see :mod:`models.dlwp.backbones`.
        context: frames that a step takes.
        faces: how twelve faces are shown to the backbone: ``samples`` of their own, one ``map``; None on a grid.
        recompute: activations of a step are computed again in backward.
    """

    def __init__(self, backbone: nn.Module, *, context: int, faces: str | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.context, self.faces, self.recompute = context, faces, recompute
        self.recurrent = bool(getattr(backbone, "recurrent", False))

    def forward(
        self, constants: Tensor, prescribed: Tensor, prognostic: Tensor, steps: int, state: Any = None, carry: bool = False
    ) -> Tensor | tuple[Tensor, Carry]:
        """Forecast.

        Args:
            constants: ``[batch, K, ..]``.
            prescribed: ``[batch, context - 1 + steps or more, P, ..]``, from the first frame of the context on.
            prognostic: ``[batch, context, C, ..]``: observations, or the newest frames of a forecast that goes on.
            steps: how many frames to forecast.
            state: of a recurrent backbone, from the call before.
            carry: also return what the next call takes as ``prognostic`` and ``state``.

        Returns:
            float32 ``[batch, steps, C, ..]``.
        """
        frames = list(prognostic.float().unbind(1))
        dtype = next((parameter.dtype for parameter in self.backbone.parameters()), torch.float32)
        given = prescribed.to(dtype)
        if self.recurrent and state is None:
            for k in range(self.context - 1):  # frames that only warm the state up
                step = torch.cat([constants.to(dtype), given[:, k], frames[k].to(dtype)], dim=1)
                _, state = self._stepped(self._recur, step, state)
        outputs = []
        for k in range(steps):
            last = frames[-self.context :]
            if self.recurrent:
                now = given[:, k + self.context - 1]
                step = torch.cat([constants.to(dtype), now, last[-1].to(dtype)], dim=1)
                increment, state = self._stepped(self._recur, step, state)
            else:
                window = given[:, k : k + self.context].flatten(1, 2)
                step = torch.cat([constants.to(dtype), window, *(frame.to(dtype) for frame in last)], dim=1)
                increment = self._stepped(self._on_mesh, step)
            frames.append(frames[-1] + increment.float())
            outputs.append(frames[-1])
        forecast = torch.stack(outputs, dim=1)
        return (forecast, (torch.stack(frames[-self.context :], dim=1), state)) if carry else forecast

    def _stepped(self, apply: Callable[..., Any], *given: Any) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(apply, *given, use_reentrant=False)
        return apply(*given)

    def _on_mesh(self, step: Tensor) -> Tensor:
        out: Tensor
        if self.faces is None:
            out = self.backbone(step)
        elif self.faces == "samples":
            out = unfold_faces(self.backbone(fold_faces(step)))
        else:
            out = map_to_faces(self.backbone(faces_to_map(step)))
        return out

    def _recur(self, step: Tensor, state: Any) -> tuple[Tensor, Any]:
        if self.faces is None:
            out, state = self.backbone(step.unsqueeze(0), state)
            return out[0], state
        out, state = self.backbone(fold_faces(step).unsqueeze(0), state)
        return unfold_faces(out[0]), state


def fold_faces(field: Tensor) -> Tensor:
    """``[batch, C, 12, n, n] -> [batch * 12, C, n, n]``."""
    return field.transpose(1, 2).flatten(0, 1)


def unfold_faces(field: Tensor) -> Tensor:
    """``[batch * 12, C, n, n] -> [batch, C, 12, n, n]``."""
    return field.unflatten(0, (-1, 12)).transpose(1, 2)


def faces_to_map(field: Tensor) -> Tensor:
    """``[batch, C, 12, n, n] -> [batch, C, 3 n, 4 n]``: northern, equatorial and southern faces in a row each."""
    batch, channels, _, n, _ = field.shape
    return field.view(batch, channels, 3, 4, n, n).permute(0, 1, 2, 4, 3, 5).reshape(batch, channels, 3 * n, 4 * n)


def map_to_faces(field: Tensor) -> Tensor:
    """``[batch, C, 3 n, 4 n] -> [batch, C, 12, n, n]``."""
    batch, channels, height, _ = field.shape
    n = height // 3
    return field.view(batch, channels, 3, n, 4, n).permute(0, 1, 2, 4, 3, 5).reshape(batch, channels, 12, n, n)
