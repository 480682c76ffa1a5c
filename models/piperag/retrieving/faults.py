"""How a retrieval can fail. All are :class:`~models.piperag.types.RetrievalError`, so that a caller may treat them alike."""

from __future__ import annotations

from models.piperag.types import RetrievalError


class QueryRefused(RetrievalError):
    """The query itself is wrong: the caller's mistake, whoever notices it."""


class RetrievalLate(RetrievalError):
    """No answer in time. The query is given up; its answer is dropped if it ever comes."""


class RetrieverGone(RetrievalError):
    """Whoever should answer has ended, was closed, or cannot be reached."""


class Malformed(RetrievalError):
    """Bytes that are not a message of this project.

    Attributes:
        ticket: of the request they belong to, 0 where that cannot be told.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "a message",
        next_step: str = "use the same version of tenfold on both ends",
        ticket: int = 0,
    ) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.ticket = ticket
