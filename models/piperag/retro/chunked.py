"""Flexible chunked cross-attention: the decoder reads the neighbours of the newest query window that lies before a token
(Jiang et al., arXiv 2403.05676; with an interval of a whole chunk that of Borgeaud et al. 2022).

For a text of n tokens, windows of c tokens and an interval of m tokens: window ``j`` covers the tokens ``[j m, j m + c)``, and
the positions ``(c-1) + j m`` to ``(c-1) + (j+1) m - 1`` read the neighbours of window ``j`` and no others. The first ``c-1``
positions read none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.piperag.retro.blocks import Attention, Common, Linear, slide, split_heads


def num_windows(tokens: int, chunk: int, interval: int) -> int:
    """Query windows that a text is said to have, ceil((n - c) / m) + 1: the last one may reach beyond its end."""
    return max(-((chunk - tokens) // interval) + 1, 0)


def num_read_windows(tokens: int, chunk: int, interval: int) -> int:
    """Those that some token reads, which are those that are complete: floor((n - c) / m) + 1."""
    return (tokens - chunk) // interval + 1 if tokens >= chunk else 0


class ChunkedCrossAttention(Attention):
    """The decoder's cross-attention.

    A query is at its place within the interval, 0 to m-1; the tokens of all neighbours follow one another on one axis of keys.
    Where all neighbours of a window are pad, nothing is added to the stream.
    """

    def __init__(self, width: int, reads: int, heads: int, buckets: int, common: Common) -> None:
        super().__init__(width, heads, buckets, common)
        self.query = Linear(width, width, common.gain)
        self.key_value = Linear(reads, 2 * width, common.gain)

    def keys_values(self, encoded: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of sets of neighbours, each ``[sets, heads, neighbours * tokens, channels]``.

        Args:
            encoded: ``[sets, neighbours, tokens, reads]``.
            known: ``[sets, neighbours, tokens]``, False for pad.

        Values of a set that is all pad are zero, so that it adds nothing.
        """
        k, v = split_heads(self.key_value(encoded.flatten(1, 2)), 2, self.heads)
        return k, v * known.flatten(1).any(1)[:, None, None, None]

    def forward(self, x: Tensor, encoded: Tensor, known: Tensor, *, chunk: int, interval: int) -> Tensor:
        """``[batch, tokens, width]``, same shape out.

        Args:
            encoded: ``[batch, windows, neighbours, tokens, reads]``, as many windows as are read.
            known: ``[batch, windows, neighbours, tokens]``, False for pad.
        """
        batch, tokens, _ = x.shape
        windows, first = encoded.shape[1], chunk - 1
        late = self.query(self.norm(x[:, first:]))
        late = F.pad(late, (0, 0, 0, windows * interval - late.shape[1]))
        (q,) = split_heads(late.view(batch * windows, interval, -1), 1, self.heads)
        known = known.flatten(0, 1)
        k, v = self.keys_values(encoded.flatten(0, 1), known)
        keys = k.shape[2]
        bias = slide(self.position(1 - interval, keys - 1), interval, keys).unsqueeze(0)
        bias = bias.masked_fill(forbidden_keys(known)[:, None, None], -torch.inf)
        mixed = self.mix(q, k, v, bias).view(batch, windows * interval, -1)[:, : tokens - first]
        return x + F.pad(self.close(mixed), (0, 0, first, 0))


def forbidden_keys(known: Tensor) -> Tensor:
    """Keys that are not read, ``[sets, ...] -> [sets, keys]``: pad, unless all of a set is, since probabilities of nothing are no
    numbers."""
    flat = known.flatten(1)
    return ~flat & flat.any(1, keepdim=True)
