"""Attention within windows of a grid of tokens, with a learned bias per relative position (Liu et al. 2021, Swin).

Three things make it cheap. Scores are worked on chunk by chunk and computed again in backward, so that no matrix of all pairs of
tokens is kept. Neither is one of their biases: those of a chunk are a view of the table that is copied where it is used, and
their gradients are summed into the table's from there. And where a shifted window is cut by a border that attention may not
cross, its two parts are attended to apart instead of together under a mask: for one window over the whole map that is a quarter
of the work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.layers.pointwise import TruncatedLinear
from models.layers.precision import device_type, full_precision

#: Scores that are worked on at a time: on a CPU 1 MiB stays in its cache, a GPU wants enough to fill it.
CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 24}
#: Windows of up to so many tokens are left to torch's fused kernel on a GPU.
FUSED_TOKENS = 128
#: Added to scores that a mask forbids.
FORBIDDEN = -1e9


class _DenseBias:
    """A bias per pair of tokens, ``[heads, queries, keys]``; ``grad`` is that of all of it, set before the first :meth:`add`."""

    granule = 1  # queries that a chunk is a multiple of

    def __init__(self, values: Tensor) -> None:
        self.values = self.grad = values

    def fill(self, scores: Tensor, heads: slice, queries: slice) -> None:
        """Set the scores of a chunk ``[heads, windows, queries, keys]`` to their biases."""
        scores.copy_(self.values[heads, queries].unsqueeze(1))

    def add(self, scores: Tensor, heads: slice, queries: slice, *, first: bool, last: bool) -> None:
        """Gradients of the scores of a chunk; ``first`` and ``last`` of its windows."""
        self.grad[heads, queries] += scores.sum(1)


class _SlidingBias:
    """The bias of a whole window's tokens, queries last token first, out of the turned table ``[heads, 2 rows - 1, 2 columns
    - 1]``: that of the next query is what lies one place further on in it."""

    def __init__(self, table: Tensor, size: tuple[int, int]) -> None:
        self.table, self.size, self.granule = table, size, size[1]
        self.places = table.unfold(1, size[0], 1).unfold(2, size[1], 1)  # [heads, row, column of query, row, column of key]
        self.grad, self._sums = table, torch.empty(0)

    def fill(self, scores: Tensor, heads: slice, queries: slice) -> None:
        rows, columns = self.size
        part = self.places[heads, queries.start // columns : queries.stop // columns]
        scores.view(*scores.shape[:2], -1, columns, rows, columns).copy_(part.unsqueeze(1))

    def add(self, scores: Tensor, heads: slice, queries: slice, *, first: bool, last: bool) -> None:
        rows, columns = self.size
        shape = scores.shape[0], scores.shape[2] // columns, columns, rows, columns
        # Summed over windows as [head, row of query, row of key, column of query, 2 columns of key]: the upper half is 0.
        wide = shape[0], shape[1], rows, columns, 2 * columns
        if self._sums.shape != wide:
            self._sums = scores.new_zeros(wide)
        over_windows = (scores[:, 0] if scores.shape[1] == 1 else scores.sum(1)).view(shape).transpose(2, 3)
        if first:
            self._sums[..., :columns].copy_(over_windows)
        else:
            self._sums[..., :columns].add_(over_windows)
        if last:
            # Read in lines shorter by one, the columns of every next query are moved by one more: they add up along the table.
            line = 2 * columns * columns
            strides = shape[1] * rows * line, rows * line, line, 2 * columns - 1, 1
            moved = self._sums.as_strided((*wide[:4], 2 * columns - 1), strides).sum(3)
            above, high = queries.start // columns, shape[1] + rows - 1
            summed = torch.ops.aten.unfold_backward(moved.mT, [shape[0], high, 2 * columns - 1], 1, rows, 1)
            self.grad[heads, above : above + high] += summed


class _Attention(torch.autograd.Function):
    """softmax(scale q k^T + bias) v by chunks; backward recomputes the probabilities."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, size: tuple[int, int] | None) -> Tensor:
        """``q, k, v``: ``[heads, windows, tokens, channels]``, contiguous; ``bias``: what :class:`_DenseBias` takes, or, with
        the ``size`` of a window, what :class:`_SlidingBias` does."""
        source = _DenseBias(bias) if size is None else _SlidingBias(bias, size)
        queries = _queries(q, size)
        out = torch.empty_like(q)
        work = _work(source, q, k)
        for heads, part, windows in _chunks(q, k.shape[2], source.granule):
            scores = _scores(work, k, heads, part, windows)
            source.fill(scores, heads, part)
            probabilities = _probabilities(_flat(queries[heads, windows, part]), _flat(k[heads, windows]), _flat(scores))
            torch.bmm(probabilities, _flat(v[heads, windows]), out=_flat(out[heads, windows, part]))
        out = out if size is None else out.flip(2)
        ctx.save_for_backward(q, k, v, bias, out)
        ctx.size = size
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, out = ctx.saved_tensors
        size, scale = ctx.size, q.shape[-1] ** -0.5
        source = _DenseBias(bias) if size is None else _SlidingBias(bias, size)
        source.grad = torch.zeros_like(bias)
        # d softmax: p (dp - sum(p dp)), and sum(p dp) = sum(out grad).
        inner = (grad * out).sum(-1, keepdim=True)
        queries, wanted = _queries(q, size), grad.contiguous()
        if size is not None:
            inner, wanted = inner.flip(2), wanted.flip(2)
        grad_q = torch.empty_like(q)
        # Channels before tokens: products with a short side first are the faster ones.
        grad_k, grad_v = (torch.zeros_like(t.mT, memory_format=torch.contiguous_format) for t in (k, v))
        work, more = _work(source, q, k), _work(source, q, k)
        for heads, part, windows in _chunks(q, k.shape[2], source.granule):
            own, asked = _flat(queries[heads, windows, part]), _flat(wanted[heads, windows, part])
            keys, values = _flat(k[heads, windows]), _flat(v[heads, windows])
            scores = _scores(work, k, heads, part, windows)
            source.fill(scores, heads, part)
            probabilities = _probabilities(own, keys, _flat(scores))
            into = _flat(grad_v[heads, windows])
            torch.baddbmm(into, asked.mT, probabilities, out=into)
            scores = _scores(more, k, heads, part, windows)
            flat = torch.bmm(asked, values.mT, out=_flat(scores))
            flat.sub_(_flat(inner[heads, windows, part])).mul_(probabilities)
            source.add(scores, heads, part, first=windows.start == 0, last=windows.stop == q.shape[1])
            torch.bmm(flat, keys, out=_flat(grad_q[heads, windows, part]))
            into = _flat(grad_k[heads, windows])
            torch.baddbmm(into, own.mT, flat, out=into)
        grad_q = (grad_q if size is None else grad_q.flip(2)).mul_(scale)
        return grad_q, grad_k.mT, grad_v.mT, source.grad, None


def _queries(q: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Scaled; last token first for a sliding bias."""
    return (q if size is None else q.flip(2)) * q.shape[-1] ** -0.5


def _flat(part: Tensor) -> Tensor:
    """Heads and windows as one dimension: a view of what :func:`_chunks` cuts."""
    return part.view(-1, *part.shape[2:])


def _work(source: _DenseBias | _SlidingBias, q: Tensor, k: Tensor) -> Tensor:
    """Memory for the scores of one chunk."""
    most = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    return k.new_empty(max(min(_chunk_elements(k), most), k.shape[2] * source.granule))


def _chunk_elements(like: Tensor) -> int:
    return CHUNK_ELEMENTS[device_type(like.device)]


def _chunks(q: Tensor, keys: int, granule: int) -> Iterator[tuple[slice, slice, slice]]:
    """Heads, queries and windows of every chunk, windows innermost. Either queries, or windows, or heads are cut."""
    heads, windows, queries, _ = q.shape
    per_window, chunk = queries * keys, _chunk_elements(q)
    if windows * per_window <= chunk:
        steps = max(chunk // (windows * per_window), 1), queries, windows
    elif per_window <= chunk:
        steps = 1, queries, chunk // per_window
    else:
        steps = 1, max(chunk // (keys * granule), 1) * granule, 1
    for head in range(0, heads, steps[0]):
        for query in range(0, queries, steps[1]):
            for window in range(0, windows, steps[2]):
                yield (
                    slice(head, min(head + steps[0], heads)),
                    slice(query, min(query + steps[1], queries)),
                    slice(window, min(window + steps[2], windows)),
                )


def _scores(work: Tensor, k: Tensor, heads: slice, queries: slice, windows: slice) -> Tensor:
    """The scores of a chunk in ``work``, ``[heads, windows, queries, keys]``."""
    shape = [part.stop - part.start for part in (heads, windows, queries)] + [k.shape[2]]
    return work[: math.prod(shape)].view(shape)


def _probabilities(queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) in place of the biases ``[heads * windows, queries, keys]``."""
    torch.baddbmm(bias, queries, keys.mT, out=bias)
    return torch.softmax(bias, dim=-1, out=bias)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(channels) + bias) v.

    Args:
        q, k, v: ``[heads, windows, tokens, channels]``.
        bias: ``[heads, tokens, tokens]``, the same for all windows.
    """
    return _fused(q, k, v, bias) if _takes_fused(q) else _attend(q, k, v, bias, None)


def relative_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, size: tuple[int, int]) -> Tensor:
    """The same with the bias of relative positions.

    Args:
        q, k, v: ``[heads, windows, rows * columns, channels]``.
        table: by query minus key, ``[2 rows - 1, 2 columns - 1, heads]``.
        size: rows and columns of a window.
    """
    if _takes_fused(q):
        return _fused(q, k, v, relative_bias(table, size))
    return _attend(q, k, v, table.permute(2, 0, 1).flip(1, 2), size)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, size: tuple[int, int] | None) -> Tensor:
    """In float32 at least: scores in bf16 would lose the bias."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with full_precision(q.device):
        parts = [tensor.to(wide).contiguous() for tensor in (q, k, v)]
        out: Tensor = _Attention.apply(*parts, bias.to(wide), size)  # type: ignore[no-untyped-call]
    return out.to(q.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Torch's own kernel."""
    q, k, v = (tensor.transpose(0, 1) for tensor in (q, k, v))
    mask = bias.to(q.dtype).unsqueeze(0)
    if q.is_meta:  # a GPU is planned for: the kernel that is taken there
        wide = mask.expand(len(q), -1, -1, -1)
        mixed: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, wide, True)[0]
        return mixed.transpose(0, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def _takes_fused(q: Tensor) -> bool:
    """On a GPU, for small windows: it is the faster one there, but keeps and differentiates a bias per pair of tokens, which for
    one window over a map of 64x64 points came to 15 GiB instead of 4.6 (Swin at 1M, H100)."""
    return device_type(q.device) == "cuda" and q.shape[2] <= FUSED_TOKENS


def relative_bias(table: Tensor, size: tuple[int, int]) -> Tensor:
    """``[heads, tokens, tokens]`` of a window of ``size``: the table's value at query minus key."""
    (p, q), heads = size, table.shape[2]
    # Unfolding slides a window of keys over the table; turned around, its places are those of the queries.
    slid = table.flip(0, 1).unfold(0, p, 1).unfold(1, q, 1).flip(0, 1)
    return slid.permute(2, 0, 1, 3, 4).reshape(heads, p * q, p * q)


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
        p, q = size
        table = self.table[self.window[0] - p :, self.window[1] - q :][: 2 * p - 1, : 2 * q - 1]
        if any(masks):  # windows differ by their masks: they count as heads
            parts = cut.permute(5, 1, 3, 6, 0, 2, 4, 7).reshape(3, down * along * self.heads, batch, -1, channels)
            bias = relative_bias(table, size)
            bias = (bias + self._mask(rows, columns, size, masks, bias).unsqueeze(1)).flatten(0, 1)
            mixed = attention(parts[0], parts[1], parts[2], bias)
            mixed = mixed.reshape(down, along, self.heads, batch, p, q, channels).permute(3, 0, 4, 1, 5, 2, 6)
        else:
            parts = cut.permute(5, 6, 0, 1, 3, 2, 4, 7).reshape(3, self.heads, batch * down * along, -1, channels)
            mixed = relative_attention(parts[0], parts[1], parts[2], table, size)
            mixed = mixed.reshape(self.heads, batch, down, along, p, q, channels).permute(1, 2, 4, 3, 5, 0, 6)
        return mixed.reshape(batch, rows, columns, self.heads * channels)

    def _mask(self, rows: int, columns: int, size: tuple[int, int], masks: tuple[bool, bool], like: Tensor) -> Tensor:
        """``[windows, tokens, tokens]``: 0, or FORBIDDEN between tokens that the border separates."""
        region = torch.zeros(rows, columns, device=like.device)
        for side, (shift, needed) in enumerate(zip(self.shift, masks, strict=True)):
            if needed:
                region.narrow(side, region.shape[side] - shift, shift).add_(1 + side)
        pieces = region.view(rows // size[0], size[0], columns // size[1], size[1]).transpose(1, 2)
        flat = pieces.reshape(-1, size[0] * size[1])
        return (flat.unsqueeze(1) != flat.unsqueeze(2)).to(like.dtype) * FORBIDDEN
