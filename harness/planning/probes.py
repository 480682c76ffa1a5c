"""Measures what one single-threaded rank of this machine takes for operations: by shape, by bytes, by operator."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

from harness.planning import probe_cases as cases
from harness.planning.features import features, fit_name, table_name
from harness.planning.operations import Operation, describe
from harness.planning.probe_cases import Probe

#: Times that every operation is measured; the first are for caches, compiled kernels and the allocator to settle.
ROUNDS, WARM = 14, 3


def measure(probes: Iterable[Probe]) -> list[tuple[Operation, float]]:
    """Operations and seconds of one call: the median over rounds.

    Every round calls all of them once, in turn. As in a model, and unlike in a loop over one of them, code, operands and compiled
    kernels of each come from the outer caches: small operators then take two to four times as long.
    """
    chosen = list(probes)
    operations = [
        describe(p.function, p.operands[0], p.function(*p.operands[0], **p.options), backward=False, flops=0) for p in chosen
    ]
    times: list[list[float]] = [[] for _ in chosen]
    for turn in range(ROUNDS):
        for item, found in zip(chosen, times, strict=True):
            operands = item.operands[turn % 2]
            start = time.perf_counter()
            out = item.function(*operands, **item.options)
            found.append(time.perf_counter() - start)
            del out
    return [(operation, statistics.median(found[WARM:])) for operation, found in zip(operations, times, strict=True)]


def seconds(call: Callable[[], Any], *, rounds: int = 7, round_s: float = 2e-3) -> float:
    """Seconds of one call in a loop over it: lower quartile over rounds; others on the machine only ever add time."""
    start = time.perf_counter()
    call()
    call()
    each = (time.perf_counter() - start) / 2
    count = max(min(int(round_s / max(each, 1e-7)), 400), 1)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - start) / count)
    return statistics.quantiles(found, n=4)[0]


def fixed_costs() -> dict[str, float]:
    """Seconds that autograd adds to an operator in backward (``backward_s``), that a module's call takes (``module_s``), and that
    Adam takes for one parameter (``update_element_s``)."""
    count, x = 100, torch.ones(4, 4, requires_grad=True)
    forward, backward = [], []
    with torch.enable_grad():
        for _ in range(12):
            start = time.perf_counter()
            y = x
            for _ in range(count):
                y = y.t()
            middle = time.perf_counter()
            y.backward(x.detach())
            forward.append((middle - start) / count)
            backward.append((time.perf_counter() - middle) / count)
    identity = torch.nn.Identity()
    return {
        "backward_s": max(statistics.quantiles(backward, n=4)[0] - statistics.quantiles(forward, n=4)[0], 0.0),
        "module_s": seconds(lambda: identity(x)),
        "update_element_s": max((_update_s(1 << 20) - _update_s(64)) / (1 << 20), 0.0),
    }


def _update_s(elements: int) -> float:
    parameter = torch.randn(elements, requires_grad=True)
    parameter.grad = torch.randn(elements)
    optimizer = torch.optim.Adam([parameter])
    return seconds(optimizer.step)


def fit(points: list[tuple[Operation, float]]) -> list[float]:
    """Non-negative coefficients of :func:`features` that explain the points best in relative terms."""
    import numpy as np
    from scipy.optimize import lsq_linear, nnls

    times = np.array([time for _, time in points])
    matrix = np.array([features(operation) for operation, _ in points])
    scale = np.maximum(matrix.max(axis=0), 1e-300)
    relative, ones = matrix / scale / times[:, None], np.ones(len(times))
    try:
        found, _ = nnls(relative, ones)
    except RuntimeError:  # nearly parallel features: its active set goes round in circles
        found = lsq_linear(relative, ones, bounds=(0, np.inf), tol=1e-14).x
    return [float(number) for number in found / scale]


def misfit(coefficients: list[float], points: list[tuple[Operation, float]]) -> float:
    """Median factor by which a fit misses its own points."""
    ratios = [sum(c * f for c, f in zip(coefficients, features(o), strict=True)) / t for o, t in points]
    return statistics.median(max(ratio, 1 / max(ratio, 1e-9)) for ratio in ratios)


def measure_machine() -> dict[str, Any]:
    """A rank's profile: ``load_1m`` (who else was busy), ``gemm_flops`` (FLOP/s), ``copy_bytes`` (B/s, read plus write), ``fits``
    (coefficients of :func:`features` by name), ``misfits``, ``tables`` (by elementwise operator: bytes, seconds), ``fixed``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load = os.getloadavg()[0]  # before the probes add to it
    with torch.no_grad():
        size = 1024
        a, b, c = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
        gemm = 2 * size**3 / seconds(lambda: torch.mm(a, b, out=c))
        source, target = torch.randn(16 << 20), torch.empty(16 << 20)
        copy = 2 * source.numel() * 4 / seconds(lambda: target.copy_(source))
        points: dict[str, list[tuple[Operation, float]]] = defaultdict(list)
        convolutions = [*cases.convolutions(torch.channels_last), *cases.convolutions(torch.contiguous_format)]
        for operation, time_s in measure([*cases.products(), *convolutions, *cases.transforms(), *cases.views()]):
            points[fit_name(operation)].append((operation, time_s))
        tables: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for elements in cases.ELEMENTS:
            for operation, time_s in measure(cases.elementwise(elements)):
                tables[table_name(operation)].append((operation.moved_bytes, time_s))
    fits = {name: fit(found) for name, found in points.items()}
    return {
        "load_1m": load,
        "gemm_flops": gemm,
        "copy_bytes": copy,
        "fits": fits,
        "misfits": {name: misfit(fits[name], found) for name, found in points.items()},
        "tables": dict(tables),
        "fixed": fixed_costs(),
    }
