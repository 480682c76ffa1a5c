"""Variants are faults; the model is a small network with dropout, so that a resume must restore random state too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.catalogue import Catalogue, Variant
from results.metrics import Direction, MetricSpec

FAULTS = {
    "healthy": "no fault",
    "nan": "the loss is NaN from step 4 on",
    "hungry": "wants more memory than the process may have (RLIMIT_AS)",
    "killed": "the last rank kills itself with SIGKILL in the middle of step 4",
    "raising": "the last rank raises in step 4",
    "cut": "the first attempt is killed with SIGKILL in step 12, after the checkpoint at 10; later attempts are healthy",
    "slow": "every step waits for a file named `go` in the working directory",
    "paced": "every step takes the seconds that a file named `pace` in the working directory says; healthy without it",
    "greedy": "runs out of device memory with more than two samples at a time",
    "starved": "runs out of host memory in a job of less than 1200 MiB",
    "silent": "exits with status 0 and says nothing",
    "reader": "no fault: measures the run of the variant `data.reads` instead of training",
}


@dataclass
class Data:
    """Nothing is read."""

    samples: int = 64
    reads: str = "healthy"


@dataclass
class Model:
    """Two layers."""

    width: int = 16


CATALOGUE = Catalogue(
    name="faulty",
    title="Faults on purpose",
    paper="tests",
    version=1,
    kind="trained",
    variants=tuple(Variant(name=name, title=text, sizes={"tiny": ("1k", "2k")}) for name, text in FAULTS.items()),
    metrics=(MetricSpec("score", "1", Direction.MIN, "score"),),
    primary_metric="score",
)


def model_preset(variant: str, size: str, scale: str) -> Model:
    return Model(width=16 if size == "1k" else 32)


def check(point: Any) -> None:
    """Everything is allowed."""
