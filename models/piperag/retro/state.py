"""What incremental decoding remembers: keys and values of the past, the newest decoder states, the current neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from results.errors import ConfigError


class StateRing:
    """The newest decoder states at the first layer with cross-attention: what the next neighbours are encoded in sight of.

    Args:
        slots: states that are kept, the length of a window.
    """

    def __init__(self, batch: int, slots: int, like: Tensor) -> None:
        self.slots, self.pushed = slots, 0
        self._states = like.new_zeros(batch, slots, like.shape[-1])

    def push(self, states: Tensor) -> None:
        """Take ``[batch, n, width]`` newer states, for any n."""
        self.pushed += states.shape[1]
        kept = states[:, -self.slots :]
        places = torch.arange(self.pushed - kept.shape[1], self.pushed, device=states.device) % self.slots
        self._states.index_copy_(1, places, kept)

    def push_one(self, state: Tensor) -> None:
        """The same for ``[batch, width]``, faster."""
        self._states.select(1, self.pushed % self.slots).copy_(state)
        self.pushed += 1

    def window(self) -> Tensor:
        """In the order of the text, ``[batch, min(pushed, slots), width]``: never more than have been pushed."""
        if self.pushed <= self.slots:
            return self._states[:, : self.pushed]
        return self._states.roll(-(self.pushed % self.slots), 1)

    def copy(self) -> StateRing:
        """An independent one."""
        twin = StateRing.__new__(StateRing)
        twin.slots, twin.pushed, twin._states = self.slots, self.pushed, self._states.clone()
        return twin


@dataclass(frozen=True, slots=True)
class NeighbourSet:
    """Encoded neighbours, ready to be read by every layer with cross-attention; never changed, only replaced.

    Attributes:
        keys, values: ``[batch * heads, neighbours * tokens, channels]`` by layer; keys are transposed.
        lines: biases of relative positions, ``[layers, batch * heads, 1, interval - 1 + neighbours * tokens]``.
        forbidden: 0 or -inf by key, ``[batch * heads, 1, neighbours * tokens]``; None where no key is pad.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lines: Tensor
    forbidden: Tensor | None

    @property
    def num_keys(self) -> int:
        """Neighbours times tokens."""
        return self.values[0].shape[1]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text that decoding can go back to."""

    length: int
    offset: int
    ring: StateRing | None
    neighbours: NeighbourSet | None
    pending: Tensor | None


class DecodingState:
    """A batch of texts under decoding, all equally long. Made by :meth:`IncrementalDecoder.start`.

    Attributes:
        length: tokens taken so far.
        offset: place of the next token within its interval, as far as neighbours are concerned: 0 where a set is first read,
            and 0 again after each interval for which a set is kept.
        neighbours: the set that is read, None for no retrieval.
        pending: values ``[batch, k, 2c]`` that the next token will be the first to read.
        cache: keys and values, ``[layers, 2, batch, heads, max_tokens, channels]``; positions from ``length`` on mean nothing.
        lines: biases of causal self-attention, ``[layers, batch * heads, 1, 2 max_tokens - 1]``.
    """

    def __init__(
        self, *, batch: int, max_tokens: int, interval: int, cache: Tensor, lines: Tensor, ring: StateRing | None, widest: int
    ) -> None:
        self.batch, self.max_tokens, self.interval = batch, max_tokens, interval
        self.length = self.offset = 0
        self.neighbours: NeighbourSet | None = None
        self.pending: Tensor | None = None
        self.cache, self.lines, self.ring = cache, lines, ring
        flat = cache.flatten(2, 3)
        #: The same memory as what products take: ``[layers, batch * heads, channels, max_tokens]`` and tokens before channels.
        self.keys, self.values = flat[:, 0].mT, flat[:, 1]
        self.scratch = Scratch(cache, widest)

    @property
    def bytes(self) -> int:
        """Of the cache of keys and values."""
        return self.cache.numel() * self.cache.element_size()

    def require(self, tokens: int) -> None:
        """Make sure of room.

        Raises:
            ConfigError: there is none.
        """
        if self.length + tokens > self.max_tokens:
            raise ConfigError(
                f"{self.length} tokens are decoded and {tokens} more do not fit a state for {self.max_tokens}",
                where="data.length",
                next_step="start a state with more max_tokens",
            )

    def advance(self, tokens: int) -> None:
        """Count tokens as taken."""
        self.length += tokens
        self.offset = (self.offset + tokens) % self.interval

    def mark(self) -> Mark:
        """Remember this place; costs a copy of one window of states."""
        return Mark(self.length, self.offset, self.ring and self.ring.copy(), self.neighbours, self.pending)

    def rewind(self, mark: Mark) -> None:
        """Go back to a place of this state's past: what was decoded since is forgotten."""
        self.length, self.offset = mark.length, mark.offset
        self.ring = mark.ring and mark.ring.copy()
        self.neighbours, self.pending = mark.neighbours, mark.pending


class Scratch:
    """Memory that one decode step writes to, and the views of it that are needed: made once, so that a step allocates and slices
    as little as possible.

    Args:
        cache: of the state.
        widest: of the hidden maps of feed-forward networks, both halves.
    """

    def __init__(self, cache: Tensor, widest: int) -> None:
        _, _, batch, heads, _, channels = cache.shape
        width = heads * channels
        self.size = cache.new_empty(batch, 1)
        self.normed = cache.new_empty(batch, width)
        self.qkv = cache.new_empty(batch, 3 * width)
        parts = self.qkv.view(batch, 3, heads, channels)
        self.key_value = parts[:, 1:].transpose(0, 1)
        self.cross = cache.new_empty(batch, width)
        self.cross_query = self.cross.view(batch * heads, 1, channels)
        self._single = parts[0, 0].unsqueeze(1) if batch == 1 else None
        self._apart, self._together = parts[:, 0], self.cross.view(batch, heads, channels)
        self.mixed = cache.new_empty(batch * heads, 1, channels)
        self.merged = self.mixed.view(batch, width)
        self.wide = cache.new_empty(batch, widest)
        self.gated, self.plain = self.wide.chunk(2, dim=1)

    def query(self) -> Tensor:
        """Of self-attention, ``[batch * heads, 1, channels]``: those of several texts do not lie side by side."""
        if self._single is not None:
            return self._single
        self._together.copy_(self._apart)
        return self.cross_query
