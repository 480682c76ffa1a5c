"""Latency of a whole generation from profiles of its two sides: what plans and projections stand on."""

from __future__ import annotations

from dataclasses import dataclass

from models.piperag.scheduling.choosing import Chooser
from models.piperag.scheduling.profile import Profile
from models.piperag.scheduling.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Seconds of one generation.

    Attributes:
        total_s: from the first token to the last.
        generation_s, retrieval_s: sums over its intervals, hidden or not.
        stall_s: decoding stands still.
        nprobe: by retrieval.
    """

    total_s: float
    generation_s: float
    retrieval_s: float
    stall_s: float
    nprobe: tuple[int, ...]


def predict(profile: Profile, schedule: Schedule, chooser: Chooser, *, given: int = 1) -> Prediction:
    """Walk through a schedule with profiled times.

    Args:
        given: tokens known at the start; each further one takes a step.
    """
    generator, line = profile.generator, profile.retriever.latency_on_nprobe()
    first = min(schedule.chunk, schedule.total)
    now = generation = generator.interval_s(given, max(first - given, 0))
    stall = 0.0
    chosen: list[int] = []
    took_s: list[float] = []
    ready: dict[int, float] = {}  # by retrieval: when it is answered

    def ask(number: int, known: int) -> None:
        chosen.append(chooser(known, schedule.interval))
        took_s.append(profile.retriever.encode_s + max(line(chosen[-1]), 0.0))
        ready[number] = now + took_s[-1]

    for interval in range(schedule.intervals):
        known = schedule.known(interval)
        used = schedule.used(interval)
        if used is not None:
            if used.is_waited_for:
                ask(used.number, known)
            stall += max(ready[used.number] - now, 0.0)
            now = max(now, ready[used.number])
        beside = schedule.asked(interval)
        if beside is not None:
            ask(beside.number, known)
        took = generator.interval_s(known, schedule.length(interval)) + (generator.encoder_s if used is not None else 0.0)
        now += took
        generation += took
    return Prediction(total_s=now, generation_s=generation, retrieval_s=sum(took_s), stall_s=stall, nprobe=tuple(chosen))
