"""What a generator does when a retrieval fails or is late: end, or go on with the neighbours it has."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum

from models.piperag.retrieving.faults import QueryRefused, RetrievalLate
from models.piperag.types import Pending, Query, Reply, RetrievalError


class OnFailure(StrEnum):
    """The two ways."""

    STOP = "stop"
    GO_ON = "go_on"


@dataclass(slots=True)
class Outcomes:
    """How the retrievals of a generator ended; beside every measurement, as one that went on without neighbours is another.

    Attributes:
        used: replies handed to the generator.
        late: not answered in time.
        failed: no reply for another reason.
        foreign: replies with the number of another query, dropped.
        last: what was said of the last retrieval without a reply.
    """

    used: int = 0
    late: int = 0
    failed: int = 0
    foreign: int = 0
    last: str = ""


@dataclass(slots=True)
class Collector:
    """Takes replies for a generator.

    Attributes:
        on_failure: ``stop`` raises, ``go_on`` counts and returns None.
        timeout_s: how long a reply is waited for; None: as long as its retriever waits.
        outcomes: how the retrievals ended.
    """

    on_failure: OnFailure = OnFailure.STOP
    timeout_s: float | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)

    def collect(self, pending: Pending, query: Query) -> Reply | None:
        """The reply to a query, waited for.

        Args:
            pending: what submitting the query returned.

        Returns:
            None where there is none and generation goes on: the old neighbours stay.

        Raises:
            QueryRefused: the query is wrong. No policy hides a mistake of the caller's.
            RetrievalError: there is no reply, and that is not to be gone on after.
        """
        try:
            reply = pending.result(self.timeout_s)
            if reply.number != query.number:
                self.outcomes.foreign += 1
                raise RetrievalError(
                    f"query {query.number} was answered with the number of query {reply.number}",
                    where="the retriever",
                    next_step="correct the retriever; no token of this reply was used",
                )
        except QueryRefused:
            self.outcomes.failed += 1
            raise
        except RetrievalError as error:
            self._count(error)
            if self.on_failure is OnFailure.STOP:
                raise self._with_advice(error) from error
            return None
        self.outcomes.used += 1
        return reply

    def facts(self) -> dict[str, object]:
        """The policy and what came of it, for the record."""
        return {"on_failure": str(self.on_failure), "timeout_s": self.timeout_s, **asdict(self.outcomes)}

    def _count(self, error: RetrievalError) -> None:
        self.outcomes.last = error.what
        if isinstance(error, RetrievalLate):
            self.outcomes.late += 1
        else:
            self.outcomes.failed += 1

    @staticmethod
    def _with_advice(error: RetrievalError) -> RetrievalError:
        advice = "or let generation keep its old neighbours: on_failure=go_on"
        next_step = f"{error.next_step}; {advice}" if error.next_step else advice.removeprefix("or ")
        return type(error)(error.what, where=error.where, next_step=next_step)
