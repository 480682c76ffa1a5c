"""What a scheduler says of a run that is not over. Files alone cannot tell a queued run from one whose launcher died."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Standing(StrEnum):
    """Where an unfinished run stands according to the scheduler."""

    QUEUED = "queued"  # also: requeued, held until its begin time
    RUNNING = "running"
    UNKNOWN = "unknown"  # the scheduler cannot be asked now


@dataclass(frozen=True, slots=True)
class Word:
    """The scheduler's word on one run.

    Attributes:
        detail: job, reason of waiting, nodes; for a reader.
    """

    standing: Standing
    detail: str = ""
    job_id: str = ""


#: By run name; runs that no scheduler has are not in it.
Words = Mapping[str, Word]
