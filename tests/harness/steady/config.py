"""A small network without dropout, so that losses depend on no rank's random state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.catalogue import Catalogue, Variant
from results.metrics import Direction, MetricSpec


@dataclass
class Data:
    """Nothing is read."""

    samples: int = 48


@dataclass
class Model:
    """Three layers."""

    width: int = 24


CATALOGUE = Catalogue(
    name="steady",
    title="Interrupted on purpose",
    paper="tests",
    version=1,
    kind="trained",
    variants=(Variant(name="mlp", title="a network of three layers", sizes={"tiny": ("1k",)}),),
    metrics=(
        MetricSpec("score", "1", Direction.MIN, "error on the test samples"),
        # The wrong way round on purpose: it falls, so the first validation is the best.
        MetricSpec("held", "1", Direction.MAX, "error on the validation samples"),
    ),
    primary_metric="score",
)


def model_preset(variant: str, size: str, scale: str) -> Model:
    return Model()


def check(point: Any) -> None:
    """Everything is allowed."""
