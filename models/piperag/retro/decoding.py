"""Decoding token by token with the numbers of the teacher-forced network: what was computed for earlier tokens is kept.

Neighbours change at the boundaries between intervals. The token at position ``(c-1) + j m`` is the first to read those of window
``j``, and it is itself the last token of this window. So they can only be encoded inside the step of this token, after
self-attention of the first layer that has cross-attention: :meth:`IncrementalDecoder.set_neighbours` announces them, the next
step encodes them, projects them once to the keys and values of every layer, and all later steps read these.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.piperag.retro.blocks import EPS, causal_line, slide, split_heads
from models.piperag.retro.chunked import forbidden_keys, num_read_windows
from models.piperag.retro.network import DecoderLayer, Retro
from models.piperag.retro.state import DecodingState, NeighbourSet, StateRing
from models.piperag.types import PAD
from results.errors import ConfigError


class _Cross(NamedTuple):
    """Weights of chunked cross-attention, as a step takes them: matrices transposed."""

    norm: Tensor
    query: Tensor
    out: Tensor
    scale: float


class _Layer(NamedTuple):
    """Weights of a decoder layer."""

    norm: Tensor
    qkv: Tensor
    out: Tensor
    scale: float
    cross: _Cross | None
    wide_norm: Tensor
    wide: Tensor
    wide_out: Tensor


def _weights(layer: DecoderLayer) -> _Layer:
    own, wide, cross = layer.attention, layer.feed_forward, layer.cross
    read = None
    if cross is not None:
        read = _Cross(cross.norm.scale.detach(), cross.query.weight.detach().T, cross.out.weight.detach().T, cross.scale)
    return _Layer(
        norm=own.norm.scale.detach(),
        qkv=own.qkv.weight.detach().T,
        out=own.out.weight.detach().T,
        scale=own.scale,
        cross=read,
        wide_norm=wide.norm.scale.detach(),
        wide=wide.wide.weight.detach().T,
        wide_out=wide.out.weight.detach().T,
    )


class IncrementalDecoder:
    """Decodes with a network whose weights it shares: they may change between texts, not within one.

    Args:
        model: in evaluation mode (``model.eval()``).
    """

    def __init__(self, model: Retro) -> None:
        self.model = model
        decoder = model.shape.decoder
        self.heads, self.channels = decoder.heads, decoder.width // decoder.heads
        self._root = decoder.width**-0.5
        self._layers = [_weights(layer) for layer in model.layers]
        self._cross = [layer.cross for layer in model.layers if layer.cross is not None]
        self._embedding = model.embedding.weight.detach()
        self._norm, self._head = model.norm.scale.detach(), model.head_weight.detach().T
        self._eps = self._norm.new_tensor(EPS)

    @torch.inference_mode()
    def start(self, *, batch: int, max_tokens: int, interval: int) -> DecodingState:
        """A state without tokens and without neighbours.

        Args:
            batch: texts that are decoded side by side.
            max_tokens: tokens that it has room for.
            interval: tokens between the boundaries at which neighbours change, 1 to ``c``.

        Raises:
            ConfigError: numbers that make no state, or a network in training mode.
        """
        model = self.model
        if model.training:
            raise ConfigError("a network in training mode drops out at random", where="model", next_step="call model.eval()")
        if not 1 <= interval <= model.chunk:
            raise ConfigError(f"an interval of {interval} tokens is not within 1 and {model.chunk}", where="data.interval")
        if batch < 1 or max_tokens < 1:
            raise ConfigError(f"no state for {batch} texts of {max_tokens} tokens", where="data.length")
        shape = len(self._layers), 2, batch, self.heads, max_tokens, self.channels
        lines = torch.stack([causal_line(layer.attention.position, max_tokens) for layer in model.layers])
        return DecodingState(
            batch=batch,
            max_tokens=max_tokens,
            interval=interval,
            cache=self._embedding.new_empty(shape),
            lines=lines.repeat(1, batch, 1).unsqueeze(2),
            ring=None if model.first_cross is None else StateRing(batch, model.chunk, self._embedding),
            widest=2 * model.shape.decoder.ffn,
        )

    def set_neighbours(self, state: DecodingState, values: Tensor) -> None:
        """Announce the neighbours that the next token is the first to read; they replace the set there is.

        At a boundary (``c - 1 + j m`` tokens taken) this is what the teacher-forced network does. Elsewhere it is allowed: the
        window then ends at the next token all the same, and before a whole chunk is known it is as short as the text.

        Args:
            values: ``[batch, k, 2c]`` tokens; all pad is no retrieval.

        Raises:
            ConfigError: a shape that does not fit, or a network without cross-attention.
        """
        if self.model.first_cross is None:
            raise ConfigError("a network without cross-attention reads no neighbours", where="model.decoder.cross_layers")
        if values.ndim != 3 or len(values) != state.batch or not values.shape[1] * values.shape[2]:
            raise ConfigError(
                f"neighbours of shape {list(values.shape)} for {state.batch} texts", where="neighbours [batch, k, 2c]"
            )
        state.pending = values

    @torch.inference_mode()
    def step(self, state: DecodingState, tokens: Tensor) -> Tensor:
        """Take one token of each text: ``[batch]`` -> logits of the next ``[batch, vocabulary]``.

        Raises:
            ConfigError: the state is full.
        """
        state.require(1)
        taken, scratch = state.length, state.scratch
        keys = state.keys.narrow(3, 0, taken + 1).unbind(0)
        values = state.values.narrow(2, 0, taken + 1).unbind(0)
        lines = state.lines.narrow(3, state.max_tokens - 1 - taken, taken + 1).unbind(0)
        slots = state.cache.select(4, taken).unbind(0)
        neighbours, cross_index = state.neighbours, 0
        cross_lines = self._cross_lines(state, neighbours)
        x = self._embedding.index_select(0, tokens)
        for index, layer in enumerate(self._layers):
            torch.mm(self._normed(state, x, layer.norm), layer.qkv, out=scratch.qkv)
            slots[index].copy_(scratch.key_value)
            scores = torch.baddbmm(lines[index], scratch.query(), keys[index], alpha=layer.scale)
            torch.bmm(torch.softmax(scores, -1), values[index], out=scratch.mixed)
            x.addmm_(scratch.merged, layer.out)
            if index == self.model.first_cross:
                assert state.ring is not None
                state.ring.push_one(x)
                if state.pending is not None:
                    self._encode(state)
                    neighbours = state.neighbours
                    cross_lines = self._cross_lines(state, neighbours)
            if layer.cross is not None and neighbours is not None:
                torch.mm(self._normed(state, x, layer.cross.norm), layer.cross.query, out=scratch.cross)
                bias = cross_lines[cross_index]
                scores = torch.baddbmm(bias, scratch.cross_query, neighbours.keys[cross_index], alpha=layer.cross.scale)
                torch.bmm(torch.softmax(scores, -1), neighbours.values[cross_index], out=scratch.mixed)
                x.addmm_(scratch.merged, layer.cross.out)
                cross_index += 1
            torch.mm(self._normed(state, x, layer.wide_norm), layer.wide, out=scratch.wide)
            x.addmm_(F.gelu(scratch.gated, approximate="tanh").mul_(scratch.plain), layer.wide_out)
        state.advance(1)
        return torch.mm(self._normed(state, x, self._norm), self._head)

    @torch.inference_mode()
    def extend(self, state: DecodingState, tokens: Tensor) -> Tensor:
        """Take several tokens at once: ``[batch, n]`` -> logits ``[batch, n, vocabulary]``, those of as many steps.

        Neighbours that were announced are read from the first of them on, and do not change within.

        Raises:
            ConfigError: there is no room.
        """
        model, first, count = self.model, state.length, tokens.shape[1]
        state.require(count)
        known, cross_index = first + count, 0
        x = model.embedding(tokens)
        for index, layer in enumerate(model.layers):
            q, k, v = layer.attention.project(x)
            state.cache[index, 0, :, :, first:known] = k
            state.cache[index, 1, :, :, first:known] = v
            line = state.lines[index, : self.heads, 0, state.max_tokens - known :][:, : known + count - 1]
            k, v = state.cache[index, :, :, :, :known].unbind(0)
            mixed = layer.attention.mix(q, k, v, slide(line, count, known).unsqueeze(0))
            x = x + layer.attention.close(mixed)
            if index == model.first_cross:
                assert state.ring is not None
                state.ring.push(x[:, :1])
                if state.pending is not None:
                    self._encode(state)
                state.ring.push(x[:, 1:])
            if layer.cross is not None and state.neighbours is not None:
                x = x + self._cross_attend(state, cross_index, x)
                cross_index += 1
            x = layer.feed_forward(x)
        state.advance(count)
        return F.linear(model.norm(x), model.head_weight)

    def prefill(self, state: DecodingState, tokens: Tensor, neighbours: Tensor | None = None) -> Tensor:
        """Take a given text: ``[batch, n]`` -> logits ``[batch, n, vocabulary]``, those of the teacher-forced network.

        Args:
            state: one without tokens.
            neighbours: ``[batch, windows, k, 2c]`` of every window that the text reads; None is no retrieval.

        Raises:
            ConfigError: the state has tokens, there are too few windows, or there is no room.
        """
        if state.length:
            raise ConfigError(f"{state.length} tokens were taken before", where="state", next_step="start a new state")
        state.require(tokens.shape[1])
        if neighbours is None:
            return self.extend(state, tokens)
        windows = num_read_windows(tokens.shape[1], self.model.chunk, state.interval)
        if neighbours.ndim != 4 or neighbours.shape[1] < windows:
            raise ConfigError(
                f"neighbours of shape {list(neighbours.shape)} for a text that reads {windows} windows",
                where="neighbours [batch, windows, k, 2c]",
            )
        bounds = [self.model.chunk - 1 + window * state.interval for window in range(windows)]
        logits = []
        for number, (begin, end) in enumerate(zip([0, *bounds], [*bounds, tokens.shape[1]], strict=True)):
            if number:
                self.set_neighbours(state, neighbours[:, number - 1])
            if end > begin:
                logits.append(self.extend(state, tokens[:, begin:end]))
        return torch.cat(logits, dim=1)

    def _normed(self, state: DecodingState, x: Tensor, scale: Tensor) -> Tensor:
        """:class:`models.piperag.retro.blocks.RMSNorm` into the state's own memory."""
        scratch = state.scratch
        torch.linalg.vector_norm(x, dim=1, keepdim=True, out=scratch.size)
        torch.add(self._eps, scratch.size, alpha=self._root, out=scratch.size)
        return torch.div(x, scratch.size, out=scratch.normed).mul_(scale)

    def _encode(self, state: DecodingState) -> None:
        """Make the pending values the set that is read, from the token whose state was pushed last."""
        assert state.pending is not None
        assert state.ring is not None
        assert self.model.encoder is not None
        values, state.pending, state.offset = state.pending.to(self._embedding.device), None, 0
        known = values != PAD
        if not known.any():
            state.neighbours = None
            return
        encoded = self.model.encoder(values.unsqueeze(1), state.ring.window(), state.interval)[:, 0]
        pairs = [cross.keys_values(encoded, known) for cross in self._cross]
        num_keys = pairs[0][0].shape[2]
        lines = torch.stack([cross.position(1 - state.interval, num_keys - 1) for cross in self._cross])
        forbidden = forbidden_keys(known)
        fill = None
        if forbidden.any():
            fill = encoded.new_zeros(forbidden.shape).masked_fill_(forbidden, -torch.inf)
            fill = fill.repeat_interleave(self.heads, 0).unsqueeze(1)
        state.neighbours = NeighbourSet(
            keys=tuple(k.flatten(0, 1).mT.contiguous() for k, _ in pairs),
            values=tuple(v.flatten(0, 1).contiguous() for _, v in pairs),
            lines=lines.repeat(1, state.batch, 1).unsqueeze(2),
            forbidden=fill,
        )

    @staticmethod
    def _cross_lines(state: DecodingState, neighbours: NeighbourSet | None) -> tuple[Tensor, ...]:
        """Biases of the next token to all keys, by layer."""
        if neighbours is None:
            return ()
        lines = neighbours.lines.narrow(3, state.interval - 1 - state.offset, neighbours.num_keys)
        return (lines if neighbours.forbidden is None else lines + neighbours.forbidden).unbind(0)

    def _cross_attend(self, state: DecodingState, index: int, x: Tensor) -> Tensor:
        """What chunked cross-attention adds for the next tokens ``[batch, n, width]``."""
        neighbours, cross = state.neighbours, self._cross[index]
        assert neighbours is not None
        (q,) = split_heads(cross.query(cross.norm(x)), 1, self.heads)
        count, num_keys = q.shape[2], neighbours.num_keys
        offsets = (state.offset + torch.arange(count, device=x.device)) % state.interval
        places = neighbours.lines[index, : self.heads, 0].unfold(1, num_keys, 1)
        bias = places.index_select(1, state.interval - 1 - offsets).unsqueeze(0)
        if neighbours.forbidden is not None:
            bias = bias + neighbours.forbidden.view(state.batch, self.heads, 1, num_keys)
        k, v = neighbours.keys[index].mT, neighbours.values[index]
        batched = (state.batch, self.heads)
        return cross.close(cross.mix(q, k.unflatten(0, batched), v.unflatten(0, batched), bias))
