"""The Pareto front of two metrics: the points that no other point beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(xs: Sequence[float], ys: Sequence[float], directions: tuple[str, str] = ("min", "min")) -> list[int]:
    """Indices of the points that are not dominated, by ascending ``x``.

    A point dominates another when it is at least as good in both metrics and better in one; equal points do not dominate
    each other. Points with a number that is not finite take no part.

    Args:
        directions: ``min`` or ``max`` for x and y.

    Raises:
        ValueError: unequal lengths, or a direction that is neither.
    """
    if len(xs) != len(ys):
        raise ValueError(f"{len(xs)} x for {len(ys)} y")
    if not set(directions) <= {"min", "max"}:
        raise ValueError(f"directions {directions} are not of 'min', 'max'")
    sign_x, sign_y = (1.0 if direction == "min" else -1.0 for direction in directions)
    points = [
        (sign_x * x, sign_y * y, index)
        for index, (x, y) in enumerate(zip(xs, ys, strict=True))
        if math.isfinite(x) and math.isfinite(y)
    ]
    best, best_x = math.inf, math.nan
    chosen = []
    for x, y, index in sorted(points):
        if y < best or (y == best and x == best_x):
            chosen.append(index)
            best, best_x = y, x
    return sorted(chosen, key=lambda index: (xs[index], index))
