"""What one generation did and how long each part took: latency, stalls and quality are read from the same run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.piperag.scheduling.schedule import Schedule
from models.piperag.types import Tokens


@dataclass(slots=True, kw_only=True)
class RetrievalEvent:
    """One retrieval, in the clock of its generator.

    Attributes:
        number, window, shift: as in :class:`~models.piperag.scheduling.schedule.Retrieval`.
        known: tokens known when it was asked for.
        nprobe: lists asked for.
        asked_s, used_s: when it was submitted, and when decoding went on with its answer; NaN where it never did.
        waited_s: how long decoding stood still for it.
        seconds: by component, in the retriever; empty where no answer came.
        failure: why its answer was not used.
    """

    number: int
    window: int
    shift: int
    known: int
    nprobe: int
    asked_s: float
    used_s: float = float("nan")
    waited_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def retriever_s(self) -> float:
        """Time in the retriever, without transport."""
        return sum(self.seconds.values())


@dataclass(slots=True, kw_only=True)
class Trace:
    """One generation.

    Attributes:
        tokens: ``[batch, total]``.
        losses: ``[batch, total]``, nats of each token where tokens were given, NaN at the first and everywhere else.
        step_s: ``[total]``, of the step that gave the token of a position; encoding of neighbours is part of the step that reads
            them first. NaN for tokens that were given at the start.
        events: retrievals in the order of asking.
        total_s: from the start to the last token.
    """

    schedule: Schedule
    given: int
    tokens: Tokens
    losses: NDArray[np.float64]
    step_s: NDArray[np.float64]
    events: list[RetrievalEvent]
    total_s: float

    @property
    def stall_s(self) -> float:
        """Decoding stood still for retrievals."""
        return sum(event.waited_s for event in self.events)

    @property
    def first_token_s(self) -> float:
        """The first new token (TTFT)."""
        return float(self.step_s[self.given])

    def interval_generation_s(self) -> list[float]:
        """Decoding by interval, stalls left out."""
        schedule = self.schedule
        starts = [schedule.known(j) for j in range(schedule.intervals)]
        return [float(self.step_s[start : start + schedule.length(j)].sum()) for j, start in enumerate(starts)]

    def perplexity(self) -> float:
        """exp of the mean loss of all tokens from position ``c`` on: those that neighbours can reach, and its equals under other
        schedules."""
        return float(np.exp(np.nanmean(self.losses[:, self.schedule.chunk :])))
