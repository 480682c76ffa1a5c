"""How many lists to scan: as many as can be scanned while the next interval is decoded (PipeRAG, section 4.3).

As published: ``budget = (T_gen(L, m) - overhead - query encoding) x discount`` and ``nprobe = max(1, int(a + b budget))`` with
``a`` and ``b`` from the regression of ``nprobe`` on latency, clamped. Neighbours' encoding was profiled and left out. Here it can
be counted, and the line can be a quantile of latency on ``nprobe`` turned around; each is a switch, so that they can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from models.piperag.scheduling.fits import Line
from models.piperag.scheduling.profile import Profile


class Chooser(Protocol):
    """Decides how much a retrieval scans."""

    def __call__(self, known: int, interval: int) -> int:
        """Lists to scan beside the decoding of ``interval`` tokens after ``known``."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same number of lists."""

    nprobe: int

    def __call__(self, known: int, interval: int) -> int:
        """The number."""
        return self.nprobe


@dataclass(frozen=True)
class Budgeted:
    """As many lists as fit into the decoding of the next interval.

    Attributes:
        overhead_s: taken off the budget (the paper's latency runs: 10 ms, its perplexity runs: 0).
        discount: share of the budget that is used.
        least, most: clamps.
        quantile: None for the published regression, else the share of searches that is to end in time.
        count_encoder: whether encoding the neighbours counts as part of the next interval's decoding: it follows the wait, on
            the generator, and lengthens what a retrieval may take.
    """

    profile: Profile
    overhead_s: float = 0.0
    discount: float = 1.0
    least: int = 1
    most: int = 1 << 30
    quantile: float | None = None
    count_encoder: bool = False

    def budget_s(self, known: int, interval: int) -> float:
        """What a search may take."""
        generation = self.profile.generator.interval_s(known, interval)
        if self.count_encoder:
            generation += self.profile.generator.encoder_s
        return (generation - self.overhead_s - self.profile.retriever.encode_s) * self.discount

    def __call__(self, known: int, interval: int) -> int:
        """Lists to scan; at least one whatever the budget."""
        budget = self.budget_s(known, interval)
        if self.quantile is None:
            wanted = self._inverse(budget)
        else:
            line = self._direct
            wanted = (budget - line.intercept) / line.slope if line.slope > 0 else self.most
        return max(min(max(int(wanted), 1), self.most), self.least)

    @cached_property
    def _inverse(self) -> Line:
        return self.profile.retriever.nprobe_on_latency()

    @cached_property
    def _direct(self) -> Line:
        return self.profile.retriever.latency_on_nprobe(self.quantile)
