"""Networks that act on each grid point alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.layers.outputs import zero_
from models.layers.precision import autocasting, device_type

#: A hidden map of more elements than this (4 MiB of float32) is recomputed in backward instead of kept.
KEEP_ELEMENTS = 1 << 20
#: Elements of the hidden map that are worked on at a time on a CPU: 1 MiB stays in its cache.
CHUNK_ELEMENTS = 1 << 18


class TruncatedLinear(nn.Linear):
    """Linear layer with the transformers' initialisation: weights normal (0.02, cut at two units), biases zero.

    Args:
        zero: all zero instead.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, zero: bool = False) -> None:
        super().__init__(in_features, out_features, bias)
        zero_(self, zero)

    def reset_parameters(self) -> None:
        """Called by the constructor, so that it also holds where parameters are sharded as soon as they are made."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class _GeluLinear(torch.autograd.Function):
    """GELU, linear over the last dimension; backward computes the GELU again."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(before, weight)
        return F.linear(F.gelu(before), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_weight = torch.mm(rows.t(), F.gelu(before).reshape(-1, before.shape[-1]))
        grad_before = torch.ops.aten.gelu_backward(torch.mm(rows, weight).view(before.shape), before)
        return grad_before, grad_weight, rows.sum(0)


class GeluLinear(TruncatedLinear):
    """GELU before a linear layer. Of the hidden map only what goes in is kept: the widest tensor of a block is held once."""

    def forward(self, before: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``."""
        if autocasting(before.device):
            return F.linear(F.gelu(before), self.weight, self.bias)
        out: Tensor = _GeluLinear.apply(before, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class _Perceptron(torch.autograd.Function):
    """Linear, GELU, linear over columns, chunk by chunk; backward recomputes the hidden map from the input.

    For lifting and projection of Fourier operators the hidden map (256 channels at every point) is by far the largest tensor
    of the model, and writing it to fresh memory costs more than computing it twice in cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, chunk: int) -> Tensor:
        """``x`` is ``[in, points]``, the result ``[out, points]``."""
        ctx.save_for_backward(x, w1, b1, w2)
        ctx.chunk = chunk
        first, second = b1.unsqueeze(1), b2.unsqueeze(1)
        parts = [torch.addmm(second, w2, F.gelu(torch.addmm(first, w1, part))) for part in torch.split(x, chunk, dim=1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        grad, first = grad.contiguous(), b1.unsqueeze(1)
        grad_w1, grad_b1, grad_w2 = torch.zeros_like(w1), torch.zeros_like(b1), torch.zeros_like(w2)
        grad_x = []
        for part, grad_part in zip(torch.split(x, ctx.chunk, dim=1), torch.split(grad, ctx.chunk, dim=1), strict=True):
            before = torch.addmm(first, w1, part)
            grad_w2.addmm_(grad_part, F.gelu(before).t())
            grad_before = torch.ops.aten.gelu_backward(torch.mm(w2.t(), grad_part), before)
            grad_w1.addmm_(grad_before, part.t())
            grad_b1.add_(grad_before.sum(1))
            if ctx.needs_input_grad[0]:
                grad_x.append(torch.mm(w1.t(), grad_before))
        return torch.cat(grad_x, dim=1) if grad_x else None, grad_w1, grad_b1, grad_w2, grad.sum(1), None


class PointwisePerceptron(nn.Module):
    """Linear, GELU, linear at each grid point; channels first, so that every product has long contiguous rows.

    Parameters: ``(in + 1) hidden + (hidden + 1) out``.

    Args:
        zero_output: the second layer starts at zero.
    """

    def __init__(self, in_channels: int, hidden: int, out_channels: int, *, zero_output: bool = False) -> None:
        super().__init__()
        self.hidden = hidden
        # Held by this module itself: all four are used together in one forward.
        self.weight1 = nn.Parameter(torch.empty(hidden, in_channels))
        self.bias1 = nn.Parameter(torch.empty(hidden))
        self.weight2 = nn.Parameter(torch.empty(out_channels, hidden))
        self.bias2 = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()
        if zero_output:
            nn.init.zeros_(self.weight2)
            nn.init.zeros_(self.bias2)

    def reset_parameters(self) -> None:
        """As ``nn.Linear``: uniform within 1 / sqrt(inputs)."""
        for weight, bias in ((self.weight1, self.bias1), (self.weight2, self.bias2)):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, field: Tensor) -> Tensor:
        """``[in, ...] -> [out, ...]``."""
        flat = field.reshape(field.shape[0], -1)
        points = flat.shape[1]
        if points * self.hidden <= KEEP_ELEMENTS or autocasting(field.device):
            hidden = F.gelu(torch.addmm(self.bias1.unsqueeze(1), self.weight1, flat))
            out = torch.addmm(self.bias2.unsqueeze(1), self.weight2, hidden)
        else:
            chunk = max(CHUNK_ELEMENTS // self.hidden, 1) if device_type(field.device) == "cpu" else points
            out = _Perceptron.apply(  # type: ignore[no-untyped-call]
                flat, self.weight1, self.bias1, self.weight2, self.bias2, chunk
            )
        return out.view(-1, *field.shape[1:])
