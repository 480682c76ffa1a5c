"""Graphs between the points of a grid: who is whose neighbour, and where it lies. Node ``row * width + column``.

An edge's features are those of the published code, with its slips mended: node numbers are divided by the width, and what
crosses a periodic border is as near as what does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.dlwp.fields import Fields
from models.layers.boundary import Boundary
from models.layers.message_passing import Edges

#: Row and column steps to the neighbours along the sides, and along the diagonals of a triangulated grid.
_SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DIAGONALS = ((-1, -1), (1, 1))


def grid_edges(fields: Fields, kind: str) -> Edges:
    """The graph ``kind`` of a grid.

    Args:
        kind: ``grid``, four neighbours, features (rows, columns) from sender to receiver; ``delaunay``, six neighbours of a
            triangulation with equal diagonals, the same features; ``multiscale``, four neighbours and, between points whose
            row and column are even, those two steps away, features (rows, columns, distance / 2).
    """
    if kind == "multiscale":
        near = _steps(fields, _SIDES)
        far = _steps(fields, tuple((2 * row, 2 * column) for row, column in _SIDES), every=2)
        senders, receivers, steps = (np.concatenate(pair) for pair in zip(near, far, strict=True))
        distance = np.linalg.norm(steps, axis=1, keepdims=True) / 2
        features = np.concatenate([steps, distance], axis=1)
    else:
        senders, receivers, features = _steps(fields, _SIDES + (_DIAGONALS if kind == "delaunay" else ()))
    return Edges.sorted(senders, receivers, features, fields.height * fields.width)


def _steps(
    fields: Fields, steps: tuple[tuple[int, int], ...], *, every: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Edges from every ``every``-th point of each side by each of some steps; on a cylinder none leaves over a pole."""
    height, width = fields.height, fields.width
    rows, columns = (index.ravel() for index in np.mgrid[0:height:every, 0:width:every])
    senders, receivers, taken = [], [], []
    for row, column in steps:
        to_row = rows + row
        inside = slice(None) if fields.boundary is Boundary.TORUS else (to_row >= 0) & (to_row < height)
        senders.append((rows * width + columns)[inside])
        receivers.append((to_row % height * width + (columns + column) % width)[inside])
        taken.append(np.tile([float(row), float(column)], (len(senders[-1]), 1)))
    return np.concatenate(senders), np.concatenate(receivers), np.concatenate(taken)
