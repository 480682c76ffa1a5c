"""Claims as executable checks: a statement of a paper, a check over a study's rows, a verdict with effect and interval.

A claim *holds* when its whole 95 % interval lies on the claimed side of the bound, *fails* when it lies on the other side,
and else one *cannot tell*. A claim whose rows are missing cannot be told either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: A row as ``tenfold table --json`` prints it, plus ``samples`` (per test sample values by name) when claims are checked.
Row = Mapping[str, Any]


class VerdictKind(StrEnum):
    """The three verdicts."""

    HOLDS = "holds"
    FAILS = "fails"
    CANNOT_TELL = "cannot_tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Outcome of one check.

    Attributes:
        effect: the number the claim is about (a ratio, a slope), None when it could not be computed.
        low, high: its 95 % interval.
        bound: what it is held against.
        detail: one sentence for the report: what was compared, with how many seeds.
    """

    kind: VerdictKind
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    detail: str = ""

    @classmethod
    def below(cls, effect: float, low: float, high: float, bound: float, detail: str) -> Verdict:
        """Verdict on the claim ``effect < bound``."""
        kind = VerdictKind.HOLDS if high < bound else VerdictKind.FAILS if low > bound else VerdictKind.CANNOT_TELL
        return cls(kind=kind, effect=effect, low=low, high=high, bound=bound, detail=detail)

    @classmethod
    def above(cls, effect: float, low: float, high: float, bound: float, detail: str) -> Verdict:
        """Verdict on the claim ``effect > bound``."""
        kind = VerdictKind.HOLDS if low > bound else VerdictKind.FAILS if high < bound else VerdictKind.CANNOT_TELL
        return cls(kind=kind, effect=effect, low=low, high=high, bound=bound, detail=detail)

    @classmethod
    def unknown(cls, detail: str) -> Verdict:
        """Cannot tell, and why."""
        return cls(kind=VerdictKind.CANNOT_TELL, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement.

    Attributes:
        name: stable identifier.
        statement: what is claimed, in one sentence, with its numbers.
        source: section of the paper it comes from.
        scales: scales at which the check makes sense.
        check: from a study's completed rows to a verdict.
    """

    name: str
    statement: str
    source: str
    check: Callable[[Sequence[Row]], Verdict]
    scales: tuple[str, ...] = ("small", "paper")


def trained_alike(rows: Sequence[Row]) -> list[Row]:
    """The rows of the training protocol (data, schedule, steps, precision) that most of them share: a claim never holds a run
    against one that was trained otherwise, such as the short runs that compare engines."""
    counts = Counter(row.get("protocol", "") for row in rows)
    most = max(counts, key=lambda protocol: counts[protocol], default="")
    return [row for row in rows if row.get("protocol", "") == most]


def judge(claims: Sequence[Claim], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Check every claim; a row that shares its system's name belongs to it. Plain dictionaries, ``claims --json`` form plus
    ``statement, source, bound, detail, scale``."""
    out = []
    scales = sorted({row["scale"] for row in rows})
    for claim in claims:
        for scale in [scale for scale in scales if scale in claim.scales] or [claim.scales[0]]:
            usable = trained_alike([row for row in rows if row["status"] == "completed" and row["scale"] == scale])
            verdict = claim.check(usable)
            out.append(
                {
                    "claim": claim.name,
                    "scale": scale,
                    "statement": claim.statement,
                    "source": claim.source,
                    "verdict": str(verdict.kind),
                    "effect": verdict.effect,
                    "low": verdict.low,
                    "high": verdict.high,
                    "bound": verdict.bound,
                    "detail": verdict.detail,
                }
            )
    return out
