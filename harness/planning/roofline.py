"""Seconds of a pass from its operations: on a CPU from what was measured operator by operator, on a GPU from data-sheet peaks."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from harness.planning.devices import GpuType
from harness.planning.features import features, fit_name, table_name
from harness.planning.operations import Family, Operation


def interpolate(points: Sequence[Sequence[float]], size: float) -> float:
    """Seconds at ``size`` bytes from a table of (bytes, seconds), straight lines between; beyond its end in proportion."""
    sizes = [point[0] for point in points]
    if size <= sizes[0]:
        return points[0][1]
    if size >= sizes[-1]:
        return points[-1][1] * size / sizes[-1]
    place = bisect.bisect_right(sizes, size)
    (low, fast), (high, slow) = points[place - 1], points[place]
    return fast + (slow - fast) * (size - low) / (high - low)


def operation_seconds(operation: Operation, profile: Mapping[str, Any]) -> float:
    """Seconds of one call on this machine, fixed costs of autograd included.

    Args:
        profile: what :func:`harness.planning.probes.measure_machine` found.
    """
    engine_s = profile["fixed"]["backward_s"] if operation.backward else 0.0
    if operation.family is Family.ELEMENTWISE:
        tables = profile["tables"]
        # An operator that was not measured moves its bytes as a product of two fields does, or as a transposing copy.
        table = tables.get(table_name(operation)) or tables["clone_strided" if operation.strided else "mul"]
        return float(engine_s + interpolate(table, operation.moved_bytes))
    coefficients = profile["fits"][fit_name(operation)]
    return float(engine_s + sum(c * f for c, f in zip(coefficients, features(operation), strict=True)))


def pass_seconds(calls: Mapping[Operation, int], module_calls: int, profile: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of one forward and backward pass by family of operators, and ``modules`` for Python's part."""
    found: dict[str, float] = defaultdict(float)
    for operation, count in calls.items():
        found[str(operation.family)] += count * operation_seconds(operation, profile)
    found["modules"] = module_calls * profile["fixed"]["module_s"]
    return dict(found)


def gpu_pass_seconds(calls: Mapping[Operation, int], device: GpuType, precision: str) -> float:
    """Roofline of one pass on a GPU: per operation the larger of arithmetic, memory traffic and launch."""
    total = 0.0
    for operation, count in calls.items():
        if operation.family is Family.VIEW:
            continue
        arithmetic = operation.flops / (device.sustained_flops(precision) if operation.flops else 1.0)
        traffic = operation.moved_bytes / device.sustained_bytes_per_s
        total += count * max(arithmetic, traffic, device.launch_s)
    return total
