"""The record: what one run leaves behind, with a schema version and a checker.

``record.json`` is itself a view: :func:`results.merge.build_record` makes it from the attempts' files at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from results.errors import ResultError
from results.failures import FailureClass

SCHEMA_VERSION = 1


class Status(StrEnum):
    """Where a run stands. Only ``completed`` carries results."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Metric:
    """A measured or predicted number. ``value`` is None where it is unknown, and then ``reason`` says why."""

    value: float | None
    unit: str
    direction: str
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Record:
    """One run. Field order is the order in ``record.json``."""

    schema: int = SCHEMA_VERSION
    run: str
    identity: str
    status: Status
    system: str
    variant: str
    size: str
    scale: str
    seed: int
    repeat: int
    engine: str
    ranks: int
    site: str
    data: str  # "generated" or the fingerprint of the user's data
    system_version: int
    timing_valid: bool = True  # False: the layout changed on the way, or it is not known who else was on the machine
    protocol: str = ""  # hash of training, data and precision: runs that were trained alike share it
    recipe: str = ""  # the same with the model and the device: runs that may be averaged share it
    shared_with: int = 0  # how many other runs shared the machine
    placement: dict[str, Any] = field(default_factory=dict)  # results.placement: machine type, nodes, shared cores, curve
    metrics: dict[str, Metric] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    failure: dict[str, Any] | None = None
    accounting: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    wandb: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return asdict(self)

    def value(self, name: str) -> float | None:
        """A metric's number, or None where it is missing or unknown."""
        metric = self.metrics.get(name)
        return None if metric is None else metric.value

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], *, where: str = "") -> Record:
        """Read a record.

        Raises:
            ResultError: :func:`problems` finds any.
        """
        found = problems(plain)
        if found:
            raise ResultError(f"not a valid record: {found[0]}", where=where, next_step="tenfold doctor --runs --repair")
        fields = {name: plain[name] for name in cls.__slots__ if name in plain}
        fields["status"] = Status(fields["status"])
        fields["metrics"] = {name: Metric(**metric) for name, metric in plain.get("metrics", {}).items()}
        return cls(**fields)


_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "run": str,
    "identity": str,
    "status": str,
    "system": str,
    "variant": str,
    "size": str,
    "scale": str,
    "seed": int,
    "repeat": int,
    "engine": str,
    "ranks": int,
    "site": str,
    "data": str,
    "system_version": int,
    "metrics": dict,
    "attempts": list,
}

#: What a completed run must carry besides at least one metric of its system.
REQUIRED_WHEN_COMPLETED = ("step_s", "step_s_p5", "step_s_p95", "peak_gib", "params", "plan_peak_ratio")


def problems(plain: Any) -> list[str]:
    """Everything that is wrong with a plain record; empty when it is valid."""
    if not isinstance(plain, Mapping):
        return [f"the top level is {type(plain).__name__}, not an object"]
    found = []
    for key, kind in _REQUIRED.items():
        if key not in plain:
            found.append(f"key '{key}' is missing")
        elif not isinstance(plain[key], kind) or (kind is int and isinstance(plain[key], bool)):
            found.append(f"key '{key}' is {type(plain[key]).__name__}")
    if found:
        return found
    if plain["schema"] != SCHEMA_VERSION:
        return [f"schema version {plain['schema']} is not {SCHEMA_VERSION}"]
    if plain["status"] not in set(Status):
        return [f"status '{plain['status']}' is none of {', '.join(Status)}"]
    for name, metric in plain["metrics"].items():
        if not isinstance(metric, Mapping) or not {"value", "unit", "direction"} <= set(metric):
            found.append(f"metric '{name}' lacks value, unit or direction")
        elif metric["value"] is not None and (isinstance(metric["value"], bool) or not isinstance(metric["value"], int | float)):
            found.append(f"metric '{name}' is {type(metric['value']).__name__}, not a number")
        elif metric["value"] is None and not metric.get("reason"):
            found.append(f"metric '{name}' is unknown and gives no reason")
    failure = plain.get("failure")
    if plain["status"] == Status.COMPLETED:
        found += [
            f"completed, but metric '{name}' is missing" for name in REQUIRED_WHEN_COMPLETED if name not in plain["metrics"]
        ]
        if failure:
            found.append("completed, but it carries a failure")
    if plain["status"] == Status.FAILED:
        if not isinstance(failure, Mapping) or not {"class", "reason", "next_step"} <= set(failure):
            found.append("failed, but it lacks a failure with class, reason and next_step")
        elif failure["class"] not in set(FailureClass):
            found.append(f"failure class '{failure['class']}' is unknown")
    mfu = plain["metrics"].get("mfu")
    if isinstance(mfu, Mapping) and isinstance(mfu.get("value"), int | float) and mfu["value"] > 1:
        found.append("mfu is above 1: the device's peak or the FLOP count is wrong")
    return found
