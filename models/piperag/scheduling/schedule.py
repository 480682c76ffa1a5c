"""Which retrieval feeds which tokens: by position alone, never by arrival, so that delays change times and nothing else.

With a query window of ``c`` tokens and an interval of ``m`` tokens, boundary ``j`` is where ``c + j m`` tokens are known. Window
``j`` is the newest there, tokens ``[j m, j m + c)``; the tokens up to the next boundary are interval ``j``.

=============== ==================== ========================================================================================
name            published as         interval ``j`` reads
=============== ==================== ========================================================================================
``none``        no retrieval         nothing
``once``        one retrieval        window 0, fresh, all along
``sequential``  RETRO (m = c),       window ``j``, fresh: decoding waits for it
                RETRO+ (m < c)
``pipelined``   PipeRAG, its         window ``j - 1`` shifted by ``m`` (window 0, fresh, for ``j = 0``): asked for at boundary
                perplexity code      ``j - 1``, answered while interval ``j - 1`` is decoded
``client``      PipeRAG, its         the same, but interval 1 keeps the neighbours of interval 0, and window 0 is asked for once
                latency code
=============== ==================== ========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from results.errors import ConfigError, near_matches

SCHEDULES = ("none", "once", "sequential", "pipelined", "client")


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One retrieval of a generation.

    Attributes:
        number: in the order of asking, from 0.
        window: its query.
        asked_at: boundary at which it is asked for.
        used_from: first interval that reads it.
        shift: tokens that its window is old by then; its value is shifted by as many.
    """

    number: int
    window: int
    asked_at: int
    used_from: int
    shift: int

    @property
    def is_waited_for(self) -> bool:
        """Whether decoding stands still from asking to answer."""
        return self.asked_at == self.used_from


@dataclass(frozen=True)
class Schedule:
    """All retrievals of a generation.

    Args:
        name: one of :data:`SCHEDULES`.
        chunk: tokens of a query window, ``c``.
        interval: tokens between boundaries, 1 to ``c``.
        total: tokens at the end, those that were given at the start among them.

    Raises:
        ConfigError: an unknown name, or numbers that make no schedule.
    """

    name: str
    chunk: int
    interval: int
    total: int

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ConfigError(f"there is no schedule '{self.name}'{near_matches(self.name, SCHEDULES)}", where="data.schedule")
        if not 1 <= self.interval <= self.chunk:
            raise ConfigError(f"an interval of {self.interval} tokens is not within 1 and {self.chunk}", where="data.interval")
        if self.total < 1:
            raise ConfigError("there is nothing to generate", where="data.length")

    @property
    def intervals(self) -> int:
        """Boundaries after which a token is still to come: nothing is retrieved for a text that has ended."""
        return max(-(-(self.total - self.chunk) // self.interval), 0)

    def boundary(self, known: int) -> int | None:
        """The boundary at which ``known`` tokens are known, None between boundaries."""
        beyond = known - self.chunk
        if beyond < 0 or known >= self.total or beyond % self.interval:
            return None
        return beyond // self.interval

    def known(self, boundary: int) -> int:
        """Tokens known at a boundary."""
        return self.chunk + boundary * self.interval

    def window(self, index: int) -> slice:
        """Tokens of a query window."""
        return slice(index * self.interval, index * self.interval + self.chunk)

    def length(self, interval: int) -> int:
        """Tokens decoded in an interval; the last one may be short."""
        return min(self.interval, self.total - self.known(interval))

    @cached_property
    def retrievals(self) -> tuple[Retrieval, ...]:
        """In the order of asking."""
        count = self.intervals
        if self.name == "none" or not count:
            return ()
        first = Retrieval(0, window=0, asked_at=0, used_from=0, shift=0)
        if self.name == "once":
            return (first,)
        if self.name == "sequential":
            return tuple(Retrieval(j, window=j, asked_at=j, used_from=j, shift=0) for j in range(count))
        skipped = 1 if self.name == "client" else 0
        stale = (
            Retrieval(place, window=j - 1, asked_at=j - 1, used_from=j, shift=self.interval)
            for place, j in enumerate(range(1 + skipped, count), start=1)
        )
        return (first, *stale)

    def used(self, interval: int) -> Retrieval | None:
        """The retrieval whose answer is new in an interval; None where neighbours stay as they are."""
        return self._by_use.get(interval)

    def asked(self, boundary: int) -> Retrieval | None:
        """The retrieval that goes on beside the interval after a boundary."""
        return self._by_asking.get(boundary)

    @cached_property
    def _by_use(self) -> dict[int, Retrieval]:
        return {retrieval.used_from: retrieval for retrieval in self.retrievals}

    @cached_property
    def _by_asking(self) -> dict[int, Retrieval]:
        return {retrieval.asked_at: retrieval for retrieval in self.retrievals if not retrieval.is_waited_for}
