"""RETRO once more, slowly and independently: one text, one token, one window at a time, masks of -1e4, double precision.

Written from the equations (docs of the network), not from its code: what the fast one is held against.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.piperag.retro.network import Retro
from models.piperag.retro.shape import RetroShape

MASKED = -1e4


def random_model(shape: RetroShape, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Retro:
    """Every parameter random: tables of biases and scales too, which start at 0 and 1."""
    model = Retro(shape).to(dtype).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            if name.endswith("scale"):
                values = 1 + 0.3 * values
            elif not name.endswith("table"):
                values = values * 0.6 * parameter.shape[1] ** -0.5
            parameter.copy_(values)
    return model


def random_texts(shape: RetroShape, batch: int, *sizes: int, seed: int = 0, pad: float = 0.0) -> Tensor:
    """Tokens ``[batch, *sizes]`` other than pad, but for a fraction that is pad."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, shape.vocabulary, (batch, *sizes), generator=random)
    return tokens * (torch.rand(tokens.shape, generator=random) >= pad)


def resized(shape: RetroShape, **changes: int) -> RetroShape:
    """A copy with other numbers of its own."""
    other = copy.deepcopy(shape)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def bucket(relative: int, buckets: int, causal: bool) -> int:
    """Place in a table: the sheet's closed form, positions clamped to [-(B//2)-(B%2-1), B//2], or to [-(B-1), 0]."""
    low, high = (-(buckets - 1), 0) if causal else (-(buckets // 2) - (buckets % 2 - 1), buckets // 2)
    return min(max(relative, low), high) - low


class Plain:
    """The forward pass of a network for one text."""

    def __init__(self, model: Retro) -> None:
        self.weights = {name: value.detach().double() for name, value in model.state_dict().items()}
        self.shape = model.shape

    def _norm(self, name: str, x: Tensor) -> Tensor:
        rows = [row / (math.sqrt(float((row**2).sum())) / math.sqrt(len(row)) + 1e-8) for row in x]
        return torch.stack(rows) * self.weights[f"{name}.norm.scale" if name else "norm.scale"]

    def _attend(
        self,
        name: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        relative: Callable[[int, int], int],
        mask: Tensor,
        causal: bool,
    ) -> Tensor:
        """``q [queries, width]``, ``k, v [keys, width]``, additive ``mask [queries, keys]``."""
        table, channels, parts = self.weights[f"{name}.position.table"], q.shape[1] // heads, []
        for head in range(heads):
            own = slice(head * channels, (head + 1) * channels)
            scores = torch.zeros(len(q), len(k), dtype=torch.float64)
            for i in range(len(q)):
                for j in range(len(k)):
                    scores[i, j] = q[i, own] @ k[j, own] * (channels**-0.5 if self.shape.score_scale else 1.0)
                    scores[i, j] += table[bucket(relative(i, j), len(table), causal), head]
            parts.append(torch.softmax(scores + mask, 1) @ v[:, own])
        return torch.cat(parts, 1) @ self.weights[f"{name}.out.weight"].T

    def _self(self, name: str, x: Tensor, heads: int, mask: Tensor, causal: bool) -> Tensor:
        q, k, v = (self._norm(name, x) @ self.weights[f"{name}.qkv.weight"].T).chunk(3, 1)
        return x + self._attend(name, q, k, v, heads, lambda i, j: j - i, mask, causal)

    def _feed_forward(self, name: str, x: Tensor) -> Tensor:
        w0, w1 = self.weights[f"{name}.wide.weight"].chunk(2)
        normed = self._norm(name, x)
        gate = normed @ w0.T
        gelu = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        return x + (gelu * (normed @ w1.T)) @ self.weights[f"{name}.out.weight"].T

    def encode(self, values: Tensor, states: Tensor) -> Tensor:
        """One neighbour ``[r]`` in sight of one window ``[window, width]``."""
        x, stack = self.weights["encoder.embedding.weight"][values], self.shape.encoder
        unread = (values == 0).double() * MASKED
        for index in range(stack.layers):
            name = f"encoder.layers.{index}"
            x = self._self(f"{name}.attention", x, stack.heads, unread.expand(len(x), -1), False)
            if index in stack.cross_layers:
                q = self._norm(f"{name}.cross", x) @ self.weights[f"{name}.cross.query.weight"].T
                k, v = (states @ self.weights[f"{name}.cross.key_value.weight"].T).chunk(2, 1)
                mask = torch.zeros(len(q), len(k), dtype=torch.float64)
                x = x + self._attend(f"{name}.cross", q, k, v, stack.heads, lambda i, j: j - i, mask, False)
            x = self._feed_forward(f"{name}.feed_forward", x)
        return x

    def _cross(self, name: str, x: Tensor, offset: int, encoded: Tensor, values: Tensor) -> Tensor:
        """Chunked cross-attention of one position ``[1, width]``, its place in the interval being ``offset``."""
        if not values.any():
            return torch.zeros_like(x)
        q = self._norm(name, x) @ self.weights[f"{name}.query.weight"].T
        k, v = (encoded.flatten(0, 1) @ self.weights[f"{name}.key_value.weight"].T).chunk(2, 1)
        mask = (values.flatten() == 0).double()[None] * MASKED
        return self._attend(name, q, k, v, self.shape.decoder.heads, lambda i, j: j - offset, mask, False)

    def _cross_fixed(self, name: str, x: Tensor, encoded: list[Tensor], values: Tensor) -> Tensor:
        """The same for all positions at an interval of a chunk, as RETRO has it: the text is moved by c - 1 tokens and cut
        into chunks."""
        c, added = self.shape.chunk_tokens, torch.zeros_like(x)
        for chunk, rows in enumerate(x[c - 1 :].split(c)):
            if values[chunk].any():
                q = self._norm(name, rows) @ self.weights[f"{name}.query.weight"].T
                k, v = (encoded[chunk].flatten(0, 1) @ self.weights[f"{name}.key_value.weight"].T).chunk(2, 1)
                mask = ((values[chunk].flatten() == 0).double() * MASKED).expand(len(q), -1)
                read = self._attend(name, q, k, v, self.shape.decoder.heads, lambda i, j: j - i, mask, False)
                added[c - 1 + chunk * c :][: len(rows)] = read
        return added

    def logits(self, tokens: Tensor, neighbours: Tensor | None, interval: int, *, fixed: bool = False) -> Tensor:
        """``tokens [n]``, ``neighbours [windows, k, r]``; ``fixed`` takes RETRO's own form, the interval is a chunk."""
        x, stack, c = self.weights["embedding.weight"][tokens], self.shape.decoder, self.shape.chunk_tokens
        length, encoded = len(tokens), []
        future = torch.full((length, length), MASKED, dtype=torch.float64).triu(1)
        for index in range(stack.layers):
            name = f"layers.{index}"
            x = self._self(f"{name}.attention", x, stack.heads, future, True)
            if index in stack.cross_layers and neighbours is not None:
                if index == min(stack.cross_layers):
                    windows = range((length - c) // interval + 1)
                    encoded = [
                        torch.stack([self.encode(value, x[j * interval : j * interval + c]) for value in neighbours[j]])
                        for j in windows
                    ]
                if fixed:
                    x = x + self._cross_fixed(f"{name}.cross", x, encoded, neighbours)
                else:
                    added = torch.zeros_like(x)
                    for position in range(c - 1, length):
                        j, offset = divmod(position - (c - 1), interval)
                        row = x[position : position + 1]
                        added[position] = self._cross(f"{name}.cross", row, offset, encoded[j], neighbours[j])[0]
                    x = x + added
            x = self._feed_forward(f"{name}.feed_forward", x)
        head = self.weights["embedding.weight" if self.shape.tied_head else "head.weight"]
        return self._norm("", x) @ head.T


def plain_logits(model: Retro, tokens: Tensor, neighbours: Tensor | None, interval: int, *, fixed: bool = False) -> Tensor:
    """``tokens [batch, n]``, ``neighbours [batch, windows, k, r]`` -> ``[batch, n, vocabulary]``."""
    plain = Plain(model)
    sets = [None] * len(tokens) if neighbours is None else list(neighbours)
    return torch.stack([plain.logits(text, own, interval, fixed=fixed) for text, own in zip(tokens, sets, strict=True)])
