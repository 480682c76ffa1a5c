"""Names, units and directions of metrics. A name carries its unit (``peak_gib``, ``step_s``); nothing is recorded without one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Direction(StrEnum):
    """Which way is better."""

    MIN = "min"
    MAX = "max"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric means.

    Attributes:
        name: unique, unit in the name where there is one.
        unit: as written in tables and W&B; ``"1"`` for a pure number.
        direction: which way is better.
        title: short heading for tables and plots.
    """

    name: str
    unit: str
    direction: Direction
    title: str


def _specs(*rows: tuple[str, str, str, str]) -> dict[str, MetricSpec]:
    return {name: MetricSpec(name, unit, Direction(direction), title) for name, unit, direction, title in rows}


#: Metrics that the harness itself measures or predicts for every run. Systems declare theirs in their catalogue.
COMMON: dict[str, MetricSpec] = _specs(
    ("params", "1", "none", "parameters (real)"),
    ("steps", "1", "none", "optimisation steps"),
    ("step_s", "s", "min", "step time, median"),
    ("step_s_p5", "s", "min", "step time, 5th percentile"),
    ("step_s_p95", "s", "min", "step time, 95th percentile"),
    ("samples_per_s", "1/s", "max", "training throughput"),
    ("peak_gib", "GiB", "min", "peak memory, largest rank"),
    ("peak_gib_min", "GiB", "min", "peak memory, smallest rank"),
    ("device_peak_gib", "GiB", "min", "device allocator peak, largest rank"),
    ("device_reserved_gib", "GiB", "min", "what the device's allocator took from the driver, largest rank"),
    ("host_peak_gib", "GiB", "min", "host peak (VmHWM), largest rank"),
    ("flops_per_step", "FLOP", "none", "floating-point operations per step"),
    ("mfu", "1", "max", "model FLOPs utilisation"),
    ("plan_peak_ratio", "1", "none", "planned / measured peak"),
    ("plan_above_base_ratio", "1", "none", "planned / measured above the base"),
    ("plan_step_ratio", "1", "none", "planned / measured step time"),
    ("communicate_share", "1", "min", "share of the step in collectives"),
    ("data_wait_share", "1", "min", "share of the step waiting for data"),
    ("step_skew", "1", "min", "slowest / fastest rank, median step"),
    ("load_s", "s", "min", "load"),
    ("compile_s", "s", "min", "compile"),
    ("train_s", "s", "min", "train"),
    ("communicate_s", "s", "min", "communicate"),
    ("checkpoint_s", "s", "min", "checkpoint"),
    ("evaluate_s", "s", "min", "evaluate"),
    ("data_wait_s", "s", "min", "waiting for data"),
    ("total_s", "s", "min", "total"),
    ("queue_wait_s", "s", "min", "waited in the queue, all attempts"),
    ("lost_steps", "1", "min", "steps done twice"),
    ("lost_s", "s", "min", "time of steps done twice"),
    ("energy_j", "J", "min", "energy"),
    ("train_loss", "1", "min", "training loss, last step"),
)


def spec_of(name: str, extra: dict[str, MetricSpec] | None = None) -> MetricSpec:
    """The specification of a metric; an undeclared name is a pure number without direction."""
    if extra and name in extra:
        return extra[name]
    return COMMON.get(name) or MetricSpec(name, "1", Direction.NONE, name.replace("_", " "))
