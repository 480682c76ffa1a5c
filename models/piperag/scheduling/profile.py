"""What was measured of a generator and of a retriever, each alone: what latencies are predicted from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.piperag.scheduling.fits import Line, least_squares, quantile_line
from models.piperag.scheduling.latency import interval_generation_s
from results.errors import DataError
from results.store import read_json, write_json

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorProfile:
    """Decoding alone.

    Attributes:
        step_s: of one token by its position; positions beyond the last take as long as the last.
        encoder_s: encoding one set of neighbours.
    """

    step_s: tuple[float, ...]
    encoder_s: float

    def interval_s(self, known: int, interval: int) -> float:
        """Decoding ``interval`` tokens where ``known`` are known, without encoding neighbours."""
        return interval_generation_s(self.step_s, known, interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverProfile:
    """Single queries alone.

    Attributes:
        nprobe: lists scanned, ascending.
        search_s: by ``nprobe``, seconds of every measured search, transport included and query encoding not.
        encode_s: encoding one window, mean.
    """

    nprobe: tuple[int, ...]
    search_s: tuple[tuple[float, ...], ...]
    encode_s: float = 0.0

    def mean_s(self) -> list[float]:
        """Mean search by ``nprobe``."""
        return [float(np.mean(times)) for times in self.search_s]

    def nprobe_on_latency(self) -> Line:
        """The published fit: ``nprobe`` as a line in seconds (the inverse regression), over all single timings."""
        probes, times = self._all()
        return least_squares(times, probes)

    def latency_on_nprobe(self, quantile: float | None = None) -> Line:
        """Seconds as a line in ``nprobe``: least squares, or what a share ``quantile`` of searches stays below."""
        probes, times = self._all()
        return least_squares(probes, times) if quantile is None else quantile_line(probes, times, quantile)

    def _all(self) -> tuple[list[float], list[float]]:
        probes = [float(probe) for probe, times in zip(self.nprobe, self.search_s, strict=True) for _ in times]
        return probes, [second for times in self.search_s for second in times]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Both sides of one machine.

    Attributes:
        facts: how it was measured: hosts, cores, threads, transport, database.
    """

    generator: GeneratorProfile
    retriever: RetrieverProfile
    facts: Mapping[str, Any] = field(default_factory=dict)

    def scaled(self, *, generator: float = 1.0, retriever: float = 1.0) -> Profile:
        """The same with either side so many times as fast (the paper's projection to other hardware)."""
        steps, searches = self.generator.step_s, self.retriever.search_s
        return Profile(
            generator=GeneratorProfile(
                step_s=tuple(step / generator for step in steps), encoder_s=self.generator.encoder_s / generator
            ),
            retriever=RetrieverProfile(
                nprobe=self.retriever.nprobe,
                search_s=tuple(tuple(second / retriever for second in times) for times in searches),
                encode_s=self.retriever.encode_s / retriever,
            ),
            facts={**self.facts, "scaled": {"generator": generator, "retriever": retriever}},
        )

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: missing, of another schema, or not a profile.
        """
        if not path.exists():
            raise DataError("there is no profile", where=str(path), next_step="tenfold sweep study=piperag_profile")
        plain = read_json(path)
        try:
            if plain["schema"] != SCHEMA:
                raise DataError(f"the profile has schema {plain['schema']}, not {SCHEMA}", where=str(path))
            generator, retriever = plain["generator"], plain["retriever"]
            return cls(
                generator=GeneratorProfile(step_s=tuple(generator["step_s"]), encoder_s=float(generator["encoder_s"])),
                retriever=RetrieverProfile(
                    nprobe=tuple(int(probe) for probe in retriever["nprobe"]),
                    search_s=tuple(tuple(times) for times in retriever["search_s"]),
                    encode_s=float(retriever["encode_s"]),
                ),
                facts=plain["facts"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a profile: {error!r}", where=str(path)) from error


def filled(step_s: Sequence[float], positions: int) -> tuple[float, ...]:
    """Steps by position. The first ``positions - len(step_s)`` were not measured: they take as long as the first that was."""
    missing = positions - len(step_s)
    return (step_s[0],) * missing + tuple(step_s)
