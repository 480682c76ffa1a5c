"""Attention within windows of a grid of tokens, with a learned bias per relative position (Liu et al. 2021, Swin).

Two things make it cheap. Scores are worked on chunk by chunk and computed again in backward, so that no matrix of all pairs of
tokens is kept. And where a shifted window is cut by a border that attention may not cross, its two parts are attended to apart
instead of together under a mask: for one window over the whole map that is a quarter of the work.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.layers.pointwise import TruncatedLinear
from models.layers.precision import autocasting

#: Scores that are worked on at a time on a CPU: 1 MiB stays in its cache.
CHUNK_ELEMENTS = 1 << 18
#: Added to scores that a mask forbids.
FORBIDDEN = -1e9


class _Attention(torch.autograd.Function):
    """softmax(scale q k^T + bias) v by chunks of queries; backward recomputes the probabilities."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, chunk: int) -> Tensor:
        """``q, k, v``: ``[windows, heads, tokens, channels]``, ``bias``: ``[heads, tokens, tokens]``."""
        out = torch.empty_like(q)
        for first in range(0, q.shape[2], chunk):
            part = slice(first, first + chunk)
            torch.matmul(_probabilities(q[:, :, part], k, bias[:, part]), v, out=out[:, :, part])
        ctx.save_for_backward(q, k, v, bias, out)
        ctx.chunk = chunk
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, out = ctx.saved_tensors
        scale, chunk = q.shape[-1] ** -0.5, ctx.chunk
        grad = grad.contiguous()
        grad_q, grad_k, grad_v, grad_bias = (torch.zeros_like(tensor) for tensor in (q, k, v, bias))
        for first in range(0, q.shape[2], chunk):
            part = slice(first, first + chunk)
            probabilities = _probabilities(q[:, :, part], k, bias[:, part])
            wanted = grad[:, :, part]
            grad_v += probabilities.transpose(-1, -2) @ wanted
            # d softmax: p (dp - sum(p dp)), and sum(p dp) = sum(out grad).
            inner = (wanted * out[:, :, part]).sum(-1, keepdim=True)
            scores = (wanted @ v.transpose(-1, -2)).sub_(inner).mul_(probabilities)
            grad_bias[:, part] = scores.sum(0)
            grad_q[:, :, part] = (scores @ k).mul_(scale)
            grad_k += (scores.transpose(-1, -2) @ q[:, :, part]).mul_(scale)
        return grad_q, grad_k, grad_v, grad_bias, None


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    windows, heads, rows, channels = q.shape
    start = bias.expand(windows, -1, -1, -1).reshape(windows * heads, rows, -1)
    keys = k.reshape(windows * heads, -1, channels).transpose(1, 2)
    scores = torch.baddbmm(start, q.reshape(windows * heads, rows, channels), keys, alpha=channels**-0.5)
    return torch.softmax(scores, dim=-1).view(windows, heads, rows, -1)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(channels) + bias) v.

    Args:
        q, k, v: ``[windows, heads, tokens, channels]``.
        bias: ``[heads, tokens, tokens]``, the same for all windows.
    """
    if q.device.type == "cuda" or autocasting(q.device) or q.dtype != torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).unsqueeze(0))
    chunk = max(CHUNK_ELEMENTS // (q.shape[0] * q.shape[1] * q.shape[2]), 1)
    out: Tensor = _Attention.apply(q, k, v, bias, chunk)  # type: ignore[no-untyped-call]
    return out


class WindowAttention(nn.Module):
    """Multi-head attention within windows.

    Real parameters: ``4 C^2 + 4 C + (2 rows - 1) (2 columns - 1) heads``.

    Args:
        window: rows and columns of tokens.
        shift: rows and columns that windows are moved by before attention, and back afterwards.
        masked: whether attention along the rows, the columns may not cross the border that a shift moves into a window.
    """

    def __init__(
        self, channels: int, heads: int, window: tuple[int, int], *, shift: tuple[int, int], masked: tuple[bool, bool]
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.masked = tuple(bool(by and forbidden) for by, forbidden in zip(shift, masked, strict=True))
        self.table = nn.Parameter(torch.empty(2 * window[0] - 1, 2 * window[1] - 1, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.qkv = TruncatedLinear(channels, 3 * channels)
        self.out = TruncatedLinear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, rows, columns, channel]``, same shape out; the window must tile it."""
        if any(self.shift):
            tokens = tokens.roll((-self.shift[0], -self.shift[1]), (1, 2))
        qkv = self.qkv(tokens)
        size, masks = self._pieces(tokens.shape[1], tokens.shape[2])
        mixed = self._attend(qkv, size, masks)
        if any(self.shift):
            mixed = mixed.roll(self.shift, (1, 2))
        out: Tensor = self.out(mixed)
        return out

    def _pieces(self, rows: int, columns: int) -> tuple[tuple[int, int], tuple[bool, bool]]:
        """The size of what is attended to together, and along which sides a mask is needed. One window over a whole side that
        is shifted by half of itself falls into two halves that do not see each other."""
        size, masks = [], []
        for length, window, shift, masked in zip((rows, columns), self.window, self.shift, self.masked, strict=True):
            halves = masked and length == window and 2 * shift == window
            size.append(shift if halves else window)
            masks.append(masked and not halves)
        return (size[0], size[1]), (masks[0], masks[1])

    def _attend(self, qkv: Tensor, size: tuple[int, int], masks: tuple[bool, bool]) -> Tensor:
        batch, rows, columns, wide = qkv.shape
        down, along = rows // size[0], columns // size[1]
        channels = wide // (3 * self.heads)
        cut = qkv.view(batch, down, size[0], along, size[1], 3, self.heads, channels)
        bias = self._bias(size)
        if any(masks):  # windows differ by their masks: they count as heads
            parts = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, batch, down * along * self.heads, -1, channels)
            bias = bias + self._mask(rows, columns, size, masks, bias).unsqueeze(1)
            bias = bias.flatten(0, 1)
        else:
            parts = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, batch * down * along, self.heads, -1, channels)
        mixed = attention(parts[0], parts[1], parts[2], bias)
        mixed = mixed.reshape(batch, down, along, self.heads, size[0], size[1], channels)
        return mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, rows, columns, self.heads * channels)

    def _bias(self, size: tuple[int, int]) -> Tensor:
        """``[heads, tokens, tokens]`` of a piece: the table's value at query minus key."""
        (rows, columns), (p, q) = self.window, size
        near = self.table[rows - p : rows + p - 1, columns - q : columns + q - 1]
        # Unfolding slides a window of keys over the table; turned around, its places are those of the queries.
        slid = near.flip(0, 1).unfold(0, p, 1).unfold(1, q, 1).flip(0, 1)
        return slid.permute(2, 0, 1, 3, 4).reshape(self.heads, p * q, p * q)

    def _mask(self, rows: int, columns: int, size: tuple[int, int], masks: tuple[bool, bool], like: Tensor) -> Tensor:
        """``[windows, tokens, tokens]``: 0, or FORBIDDEN between tokens that the border separates."""
        region = torch.zeros(rows, columns, device=like.device)
        for side, (shift, needed) in enumerate(zip(self.shift, masks, strict=True)):
            if needed:
                region.narrow(side, region.shape[side] - shift, shift).add_(1 + side)
        pieces = region.view(rows // size[0], size[0], columns // size[1], size[1]).transpose(1, 2)
        flat = pieces.reshape(-1, size[0] * size[1])
        return (flat.unsqueeze(1) != flat.unsqueeze(2)).to(like.dtype) * FORBIDDEN
