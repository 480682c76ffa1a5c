"""Perplexity of held-out texts under a schedule: the very loop whose latency is measured, along given tokens."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models.piperag.retro.decoding import IncrementalDecoder
from models.piperag.retro.network import Retro
from models.piperag.retro.state import DecodingState
from models.piperag.scheduling.choosing import Chooser
from models.piperag.scheduling.generator import generate
from models.piperag.scheduling.schedule import Schedule
from models.piperag.scheduling.trace import Trace
from models.piperag.types import Backend, Query, Reply, Tokens


class RetroDecoder:
    """A RETRO network as the generation loop drives it.

    Args:
        interval: tokens between boundaries.
    """

    def __init__(self, model: Retro, interval: int) -> None:
        self._decoder, self._interval = IncrementalDecoder(model.eval()), interval
        self._state: DecodingState | None = None

    def begin(self, batch: int, total: int) -> None:
        """Forget everything; make room for ``total`` tokens."""
        self._state = self._decoder.start(batch=batch, max_tokens=total, interval=self._interval)

    def feed(self, tokens: Tokens, values: Tokens | None) -> NDArray[np.float32]:
        """Log-probabilities of the next token ``[batch, vocabulary]``."""
        assert self._state is not None
        if values is not None:
            self._decoder.set_neighbours(self._state, torch.from_numpy(values))
        scores = self._decoder.step(self._state, torch.from_numpy(tokens))
        found: NDArray[np.float32] = F.log_softmax(scores.float(), dim=-1).cpu().numpy()
        return found


class DirectRetriever:
    """Answers at once, where it is asked: for quality, which does not depend on when answers come.

    Args:
        shifted: False drops no stale tokens, whatever a query asks for (what the shift is worth).
    """

    def __init__(self, backend: Backend, *, shifted: bool = True) -> None:
        self._backend, self._shifted = backend, shifted

    def submit(self, query: Query) -> _Answered:
        """The answer."""
        return _Answered(self._backend.retrieve(query if self._shifted else dataclasses.replace(query, shift=0)))

    def close(self) -> None:
        """Nothing is held."""

    def facts(self) -> dict[str, object]:
        """Where it answers."""
        return {"transport": "direct"}


@dataclass(frozen=True, slots=True)
class _Answered:
    reply: Reply

    def done(self) -> bool:
        """Always."""
        return True

    def result(self, timeout_s: float | None = None) -> Reply:
        """The reply."""
        return self.reply


def rate(
    model: Retro, backend: Backend, texts: Tokens, schedule: Schedule, chooser: Chooser, *, k: int, shifted: bool = True
) -> Trace:
    """Follow texts ``[batch, n]`` under a schedule; their losses are in the trace."""
    return generate(
        RetroDecoder(model, schedule.interval),
        DirectRetriever(backend, shifted=shifted),
        schedule,
        start=texts[:, :1],
        forced=texts,
        chooser=chooser,
        k=k,
    )
