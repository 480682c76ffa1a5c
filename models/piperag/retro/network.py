"""RETRO: a decoder that reads encoded neighbours by chunked cross-attention (Borgeaud et al., ICML 2022), as in the public
checkpoint that PipeRAG serves, with any interval between retrievals (Jiang et al., arXiv 2403.05676).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.piperag.retro.blocks import Common, Embedding, FeedForward, Linear, RMSNorm, SelfAttention, WindowCrossAttention
from models.piperag.retro.chunked import ChunkedCrossAttention, forbidden_keys, num_read_windows, num_windows
from models.piperag.retro.shape import RetroShape
from models.piperag.types import PAD
from results.errors import ConfigError


class EncoderLayer(nn.Module):
    """Self-attention, cross-attention if it has any, feed-forward network."""

    def __init__(self, shape: RetroShape, index: int) -> None:
        super().__init__()
        stack, reads = shape.encoder, shape.decoder.width
        common = Common(shape.gain, shape.score_scale, shape.dropout)
        self.attention = SelfAttention(stack.width, stack.heads, stack.self_buckets, common, causal=False)
        self.cross = (
            WindowCrossAttention(stack.width, reads, stack.heads, stack.cross_buckets, common)
            if index in stack.cross_layers
            else None
        )
        self.feed_forward = FeedForward(stack.width, stack.ffn, common)


class NeighbourEncoder(nn.Module):
    """Turns the tokens of neighbours into states, each neighbour by itself, in sight of the window that it was found for."""

    def __init__(self, shape: RetroShape) -> None:
        super().__init__()
        self.chunk = shape.chunk_tokens
        self.embedding = Embedding(shape.vocabulary, shape.encoder.width)
        layers = nn.ModuleList(EncoderLayer(shape, index) for index in range(shape.encoder.layers))
        self.layers: Sequence[EncoderLayer] = layers  # type: ignore[assignment]

    def forward(self, values: Tensor, states: Tensor, interval: int) -> Tensor:
        """``[batch, windows, neighbours, tokens] -> [batch, windows, neighbours, tokens, width]``.

        Args:
            states: ``[batch, n, decoder width]``: the decoder's, at its first layer with cross-attention, after self-attention.
                Fewer than a chunk of them are one short window.
            interval: tokens between the windows.
        """
        window = min(self.chunk, states.shape[1])
        forbidden = forbidden_keys((values != PAD).flatten(0, 2))
        x = self.embedding(values)
        for layer in self.layers:
            x = layer.attention(x.flatten(0, 2), forbidden).view(x.shape)
            if layer.cross is not None:
                x = layer.cross(x, states, window=window, interval=interval)
            x = layer.feed_forward(x)
        return x


class DecoderLayer(nn.Module):
    """Self-attention, chunked cross-attention if it has any, feed-forward network."""

    def __init__(self, shape: RetroShape, index: int) -> None:
        super().__init__()
        stack, reads = shape.decoder, shape.encoder.width
        common = Common(shape.gain, shape.score_scale, shape.dropout)
        self.attention = SelfAttention(stack.width, stack.heads, stack.self_buckets, common, causal=True)
        self.cross = (
            ChunkedCrossAttention(stack.width, reads, stack.heads, stack.cross_buckets, common)
            if index in stack.cross_layers
            else None
        )
        self.feed_forward = FeedForward(stack.width, stack.ffn, common)


class Retro(nn.Module):
    """The whole network.

    Parameters: :func:`models.piperag.retro.shape.parameters`. Pad in the decoded text is a token like others: behind the end of
    a text no earlier position sees it, and its loss is not counted. Pad in neighbours is not read.

    Args:
        shape: its numbers; without cross-attention in the decoder there is no encoder.

    Raises:
        ConfigError: an impossible shape.
    """

    def __init__(self, shape: RetroShape) -> None:
        super().__init__()
        shape.check()
        self.shape, self.chunk = shape, shape.chunk_tokens
        self.first_cross = min(shape.decoder.cross_layers, default=None)
        self.encoder = NeighbourEncoder(shape) if self.first_cross is not None else None
        # As a head it wants small weights; alone, vectors as large as what blocks add learn to copy in fewer steps.
        std = shape.gain * shape.decoder.width**-0.5 if shape.tied_head else 1.0
        self.embedding = Embedding(shape.vocabulary, shape.decoder.width, std=std)
        layers = nn.ModuleList(DecoderLayer(shape, index) for index in range(shape.decoder.layers))
        self.layers: Sequence[DecoderLayer] = layers  # type: ignore[assignment]
        self.norm = RMSNorm(shape.decoder.width)
        self.head = None if shape.tied_head else Linear(shape.decoder.width, shape.vocabulary, shape.gain)

    @property
    def head_weight(self) -> Tensor:
        """``[vocabulary, width]``."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(self, tokens: Tensor, neighbours: Tensor | None = None, interval: int | None = None) -> Tensor:
        """Logits of the token after each position, along a given text: ``[batch, n] -> [batch, n, vocabulary]``.

        Args:
            neighbours: ``[batch, windows, k, 2c]`` tokens of the neighbours of every window; those of a last window that reaches
                beyond the text may be there or not, nothing reads them. None is no retrieval: as if all were pad, without the
                cost of encoding it.
            interval: tokens between windows, 1 to ``c``; None is ``c``.

        Raises:
            ConfigError: an interval or a number of windows that do not fit.
        """
        interval = self.chunk if interval is None else interval
        known = None
        if neighbours is not None:
            neighbours = self._read(tokens, neighbours, interval)
            known = neighbours != PAD
        encoded: Tensor | None = None
        x = self.embedding(tokens)
        for index, layer in enumerate(self.layers):
            x = layer.attention(x)
            if known is not None and known.shape[1] and layer.cross is not None:
                if index == self.first_cross:
                    encoded = self.encoder(neighbours, x, interval)  # type: ignore[misc]
                x = layer.cross(x, encoded, known, chunk=self.chunk, interval=interval)
            x = layer.feed_forward(x)
        x = self.norm(x)
        # Called as a module where it is one: an engine that shards parameters gathers them then.
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)

    def _read(self, tokens: Tensor, neighbours: Tensor, interval: int) -> Tensor:
        """Of the neighbours those that some position reads."""
        if not 1 <= interval <= self.chunk:
            raise ConfigError(f"an interval of {interval} tokens is not within 1 and {self.chunk}", where="data.interval")
        length = tokens.shape[1]
        least, most = num_read_windows(length, self.chunk, interval), num_windows(length, self.chunk, interval)
        if neighbours.ndim != 4 or len(neighbours) != len(tokens) or not least <= neighbours.shape[1] <= most:
            raise ConfigError(
                f"neighbours of shape {list(neighbours.shape)} do not fit {len(tokens)} texts of {length} tokens at an interval "
                f"of {interval}: they have {most} windows",
                where="neighbours [batch, windows, k, 2c]",
            )
        return neighbours[:, :least]


def token_losses(logits: Tensor, tokens: Tensor, *, first: int = 1) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every token that is counted.

    Args:
        logits: ``[batch, n, vocabulary]`` of the tokens ``[batch, n]``.
        first: first position whose token is counted; nothing predicts position 0.

    Returns:
        Losses ``[batch, n - first]`` in nats, 0 where pad was to be predicted, and where they count, bool.
    """
    targets = tokens[:, first:]
    scores = logits[:, first - 1 : -1].flatten(0, 1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    losses = F.cross_entropy(scores, targets.flatten(), ignore_index=PAD, reduction="none")
    return losses.view(targets.shape), targets != PAD


def next_token_loss(logits: Tensor, tokens: Tensor, *, first: int = 1) -> Tensor:
    """Mean of :func:`token_losses` over the tokens that count; 0 if none does."""
    losses, counted = token_losses(logits, tokens, first=first)
    return losses.sum() / counted.sum().clamp(min=1)


def perplexity(loss: float | Tensor) -> float:
    """exp of a mean loss in nats."""
    return float(torch.as_tensor(loss).detach().double().exp())
