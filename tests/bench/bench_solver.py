"""Trajectories per second of the Navier-Stokes solver against the published scheme, and the error of both.

Both integrate the same 8 trajectories at 64 x 64 in float32, together, on one thread, over the whole length of the published
experiments. The published scheme runs in five segments with a full run of ours between them (A B A B), so that whatever else the
machine does falls on both. Errors are against a float64 run in steps of 1/100 on the full grid, relative to the field.

Run with ``python -m tests.bench.bench_solver``; it takes about two minutes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.dlwp.navier_stokes import NavierStokesSolver, published_scheme
from models.dlwp.random_fields import gaussian_fields

RESOLUTION = 64
BATCH = 8
SEGMENTS = 5
REFINED_STEP = 1 / 100
#: Viscosity and frames of experiments 1 and 2 (Karlbauer et al. 2024, table of data sets), and the ratio to reach.
EXPERIMENTS = ((1e-3, 50, 60.0), (1e-4, 30, 25.0))


def relative_errors(found: Tensor, refined: Tensor) -> Tensor:
    """Error of every frame over the norm of the field, ``[frames]``, both over all trajectories."""
    difference = (found.double() - refined).pow(2).mean((0, 2, 3))
    return (difference / refined.pow(2).mean((0, 2, 3))).sqrt()


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds a call took, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def compare(viscosity: float, frames: int, goal: float) -> dict[str, Any]:
    """One row: trajectories per second of both (medians), ratio, and errors at the last frame and in the worst one."""
    initial = torch.from_numpy(gaussian_fields(RESOLUTION, "test", range(BATCH), seed=0))
    refined = NavierStokesSolver(RESOLUTION, viscosity, time_step=REFINED_STEP, dtype=torch.float64).solve(initial, frames)
    solver = NavierStokesSolver(RESOLUTION, viscosity)
    field = initial.float()
    solver.solve(field, 2)  # warm up: transform plans, decay factors
    published_scheme(field, 1, viscosity=viscosity, time_step=0.02)

    ours_s, segment_s, segments, state = [], [], [], field
    for _ in range(SEGMENTS):
        seconds, piece = timed(lambda state=state: published_scheme(state, frames // SEGMENTS, viscosity=viscosity))  # type: ignore[misc]
        segment_s.append(seconds)
        segments.append(piece)
        state = piece[:, -1]
        seconds, found = timed(lambda: solver.solve(field, frames))
        ours_s.append(seconds)
    ours = BATCH / statistics.median(ours_s)
    peer = BATCH / (statistics.median(segment_s) * SEGMENTS)
    ours_error, peer_error = relative_errors(found, refined), relative_errors(torch.cat(segments, 1), refined)
    return {
        "name": f"Navier-Stokes 64x64, viscosity {viscosity:g}, {frames} frames",
        "unit": "trajectories/s",
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "goal": goal,
        "met": ours / peer >= goal and float(ours_error[-1]) <= float(peer_error[-1]),
        "error_ours": float(ours_error[-1]),
        "error_peer": float(peer_error[-1]),
        "largest_error_share": float((ours_error / peer_error).max()),
    }


def main() -> list[dict[str, Any]]:
    """Measure and print a table; returns its rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [compare(*experiment) for experiment in EXPERIMENTS]
    finally:
        torch.set_num_threads(threads)
    columns = ("ours", "peer", "ratio", "goal", "error_ours", "error_peer", "largest_error_share")
    print(f"{'name':50}" + "".join(f"{column:>20}" for column in columns))
    for row in rows:
        print(f"{row['name']:50}" + "".join(f"{row[column]:20.3g}" for column in columns))
    return rows


if __name__ == "__main__":
    main()
