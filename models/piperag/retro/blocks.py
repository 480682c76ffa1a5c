"""What both stacks of RETRO are made of: normalisation, position biases, self-attention, the encoder's cross-attention,
feed-forward networks.

As in the public checkpoint's network: no linear layer has a bias, scores are not divided by the root of the head's width unless
asked for, and every block adds to the residual stream what it makes of the normalised stream.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.precision import device_type

#: Added to the root mean square.
EPS = 1e-8


class Common(NamedTuple):
    """What all blocks of a network share: spread of initial matrices, whether scores are divided by the root of a head's width,
    dropout of probabilities, of hidden maps and of what is added to the stream."""

    gain: float
    scaled: bool
    dropout: float


class RMSNorm(nn.Module):
    """x / (||x|| / sqrt(width) + eps) * scale (Zhang and Sennrich 2019): eps outside the root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.root = width**-0.5
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]``, same shape out."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / (size * self.root + EPS) * self.scale


class Linear(nn.Linear):
    """Without bias; weights N(0, (gain / sqrt(inputs))^2)."""

    def __init__(self, inputs: int, outputs: int, gain: float) -> None:
        self.gain = gain
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Called by the constructor."""
        nn.init.normal_(self.weight, std=self.gain * self.in_features**-0.5)


class Embedding(nn.Embedding):
    """Vectors N(0, std^2), that of pad too."""

    def __init__(self, vocabulary: int, width: int, *, std: float = 1.0) -> None:
        self.std = std
        super().__init__(vocabulary, width)

    def reset_parameters(self) -> None:
        """Called by the constructor."""
        nn.init.normal_(self.weight, std=self.std)


class PositionBias(nn.Module):
    """A learned bias per head and relative position, key minus query; no logarithmic buckets.

    With B buckets, positions are clamped to [-(B-1), 0] if causal, else to [-(B//2) - (B%2 - 1), B//2]: for 192 that is
    [-95, 96]. Starts at zero.
    """

    def __init__(self, buckets: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.low = 1 - buckets if causal else -(buckets // 2) - (buckets % 2 - 1)
        self.high = 0 if causal else buckets // 2
        self.table = nn.Parameter(torch.zeros(buckets, heads))

    def forward(self, first: int, last: int) -> Tensor:
        """Biases of the relative positions ``first`` to ``last``, ``[heads, last - first + 1]``."""
        places = torch.arange(first, last + 1, device=self.table.device).clamp_(self.low, self.high)
        return F.embedding(places - self.low, self.table).T


def slide(line: Tensor, queries: int, keys: int) -> Tensor:
    """A bias per pair of tokens from one per relative position.

    Args:
        line: ``[heads, queries + keys - 1]``; its first value is that of the last query and the first key.

    Returns:
        ``[heads, queries, keys]``.
    """
    # Unfolding slides the keys along the line, from the last query to the first.
    return line.unfold(1, keys, 1)[:, :queries].flip(1)


def causal_line(position: PositionBias, tokens: int) -> Tensor:
    """What :func:`slide` takes for causal self-attention over ``tokens``: biases of the past, -inf for the future,
    ``[heads, 2 tokens - 1]``."""
    past = position(1 - tokens, 0)
    return torch.cat((past, past.new_full((past.shape[0], tokens - 1), -torch.inf)), dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, scale: float, dropout: float = 0.0) -> Tensor:
    """softmax(scale q k^T + bias) v.

    Args:
        q, k, v: ``[batch, heads, tokens, channels]``.
        bias: broadcastable to ``[batch, heads, queries, keys]``; -inf forbids, and no query may have all its keys forbidden.
        dropout: of probabilities.
    """
    on_cpu = device_type(q.device) == "cpu"
    if on_cpu and bias.requires_grad:
        # A bias with a gradient leaves no fused kernel on a CPU, and what torch does instead also looks for rows without keys.
        probabilities = torch.softmax((q if scale == 1.0 else q * scale) @ k.mT + bias, -1)
        return (F.dropout(probabilities, dropout) if dropout else probabilities) @ v
    if q.is_meta and not on_cpu:  # a GPU is planned for: the kernel that is taken there keeps no scores
        wide = bias.to(q.dtype).expand(len(q), q.shape[1], -1, -1)
        planned: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, wide, True, dropout, scale=scale)[0]
        return planned
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """``[batch, tokens, parts * width]`` -> ``parts`` times ``[batch, heads, tokens, channels]``."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """``[batch, heads, tokens, channels]`` -> ``[batch, tokens, width]``."""
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """What all attention blocks share."""

    def __init__(self, width: int, heads: int, buckets: int, common: Common, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout = heads, common.dropout
        self.scale = (width // heads) ** -0.5 if common.scaled else 1.0
        self.norm = RMSNorm(width)
        self.position = PositionBias(buckets, heads, causal=causal)
        self.out = Linear(width, width, common.gain)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """:func:`attend`, heads merged, ``[batch, queries, width]``."""
        return merge_heads(attend(q, k, v, bias, scale=self.scale, dropout=self.dropout if self.training else 0.0))

    def close(self, mixed: Tensor) -> Tensor:
        """What is added to the stream."""
        return F.dropout(self.out(mixed), self.dropout, self.training)


class SelfAttention(Attention):
    """Causal in the decoder, over all tokens of a neighbour in the encoder."""

    def __init__(self, width: int, heads: int, buckets: int, common: Common, *, causal: bool) -> None:
        super().__init__(width, heads, buckets, common, causal=causal)
        self.causal = causal
        self.qkv = Linear(width, 3 * width, common.gain)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each ``[batch, heads, tokens, channels]``."""
        return split_heads(self.qkv(self.norm(x)), 3, self.heads)

    def forward(self, x: Tensor, forbidden: Tensor | None = None) -> Tensor:
        """``[batch, tokens, width]``, same shape out.

        Args:
            forbidden: ``[batch, tokens]``, True for keys that are not read; never all of a row.
        """
        tokens = x.shape[1]
        line = causal_line(self.position, tokens) if self.causal else self.position(1 - tokens, tokens - 1)
        bias = slide(line, tokens, tokens).unsqueeze(0)
        if forbidden is not None:
            bias = bias.masked_fill(forbidden[:, None, None], -torch.inf)
        q, k, v = self.project(x)
        return x + self.close(self.mix(q, k, v, bias))


class WindowCrossAttention(Attention):
    """The encoder's: every neighbour of a window reads the decoder states of this window.

    The tokens of a neighbour and those of a window are both counted from 0.
    """

    def __init__(self, width: int, reads: int, heads: int, buckets: int, common: Common) -> None:
        super().__init__(width, heads, buckets, common)
        self.query = Linear(width, width, common.gain)
        self.key_value = Linear(reads, 2 * width, common.gain)

    def forward(self, x: Tensor, states: Tensor, *, window: int, interval: int) -> Tensor:
        """``[batch, windows, neighbours, tokens, width]``, same shape out.

        Args:
            states: ``[batch, n, reads]``, decoder states; window ``j`` is ``[j * interval, j * interval + window)``.
        """
        batch, windows, neighbours, tokens, width = x.shape
        # Windows overlap: states are projected once, and copied afterwards.
        pairs = self.key_value(states).unfold(1, window, interval)[:, :windows]
        k, v = pairs.unflatten(2, (2, self.heads, -1)).flatten(0, 1).permute(1, 0, 2, 4, 3).unbind(0)
        (q,) = split_heads(self.query(self.norm(x)).view(batch * windows, neighbours * tokens, width), 1, self.heads)
        bias = slide(self.position(1 - tokens, window - 1), tokens, window).repeat(1, neighbours, 1).unsqueeze(0)
        return x + self.close(self.mix(q, k, v, bias)).view(x.shape)


class FeedForward(nn.Module):
    """W_o (gelu(W_0 x) * W_1 x), GELU by its tanh approximation; W_0 and W_1 are the halves of ``wide``."""

    def __init__(self, width: int, hidden: int, common: Common) -> None:
        super().__init__()
        self.dropout = common.dropout
        self.norm = RMSNorm(width)
        self.wide = Linear(width, 2 * hidden, common.gain)
        self.out = Linear(hidden, width, common.gain)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]``, same shape out."""
        gated, plain = self.wide(self.norm(x)).chunk(2, dim=-1)
        hidden = F.dropout(F.gelu(gated, approximate="tanh") * plain, self.dropout, self.training)
        return x + F.dropout(self.out(hidden), self.dropout, self.training)
