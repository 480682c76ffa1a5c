"""How long a generation takes: closed forms for sequential and pipelined retrieval (PipeRAG, section 4.4).

``R`` is one retrieval with its query encoding, ``G_j`` the decoding of interval ``j``. The paper's sum over a pipeline pairs the
retrieval for interval ``j`` with the decoding of interval ``j`` itself; it really runs beside interval ``j - 1``. The two agree
where all intervals take equally long, and differ by which interval is left over otherwise: :func:`pipelined_s` is the exact one,
:func:`published_pipelined_s` the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence


def sequential_s(generation_s: Sequence[float], retrieval_s: Sequence[float]) -> float:
    """RETRO and RETRO+: every interval waits for its own retrieval.

    Args:
        generation_s: decoding of each interval.
        retrieval_s: one retrieval per interval.
    """
    return sum(generation_s) + sum(retrieval_s)


def pipelined_s(generation_s: Sequence[float], retrieval_s: Sequence[float]) -> float:
    """PipeRAG: the first retrieval is waited for, the one for interval ``j`` runs beside interval ``j - 1``.

    Args:
        generation_s: decoding of each of ``N`` intervals.
        retrieval_s: of each interval, ``N`` of them.
    """
    if not generation_s:
        return 0.0
    beside = zip(generation_s[:-1], retrieval_s[1:], strict=True)
    return retrieval_s[0] + sum(max(decoding, retrieval) for decoding, retrieval in beside) + generation_s[-1]


def published_pipelined_s(generation_s: Sequence[float], retrieval_s: float) -> float:
    """The paper's form: ``R + G_0 + sum over j >= 1 of max(R, G_j)``."""
    return retrieval_s + generation_s[0] + sum(max(retrieval_s, decoding) for decoding in generation_s[1:])


def speed_up(rho: float, intervals: int) -> float:
    """Sequential over pipelined time where every retrieval takes ``rho`` times as long as decoding an interval.

    Tends to ``(1 + rho) / max(1, rho)``, 2 at most, for many intervals.
    """
    return intervals * (1 + rho) / (1 + rho + (intervals - 1) * max(1.0, rho))


def overlap_efficiency(sequential: float, pipelined: float, generation_s: Sequence[float], retrieval_s: Sequence[float]) -> float:
    """Time hidden over the time that could be hidden, 1 at best.

    Args:
        sequential, pipelined: measured seconds of the two.
        generation_s, retrieval_s: of each interval.
    """
    hideable = sequential_s(generation_s, retrieval_s) - pipelined_s(generation_s, retrieval_s)
    return (sequential - pipelined) / hideable


def interval_generation_s(step_s: Sequence[float], known: int, interval: int) -> float:
    """Decoding of ``interval`` tokens where ``known`` are known: the sum of profiled steps, the last one beyond their end.

    Args:
        step_s: seconds of the decoding step at each position.
    """
    last = len(step_s) - 1
    return float(sum(step_s[min(position, last)] for position in range(known, known + interval)))
