"""The icosahedral mesh of several resolutions (Lam et al. 2023, GraphCast): its nodes and edges, and those from and to a grid.

Positions are unit vectors. An edge's features are the displacement from its receiver to its sender in a frame turned so that the
receiver lies at longitude and latitude 0, and its length, all divided by the longest edge of its kind.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.layers.message_passing import Edges

#: Grid points are joined to mesh nodes within this share of the longest edge of the finest mesh, at most to the nearest four.
REACH, NEAREST = 0.6, 4

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Multimesh:
    """The three graphs of an encode-process-decode network.

    Attributes:
        nodes: features of mesh nodes: cosine of latitude, sine and cosine of longitude, float32 ``[node, 3]``.
        mesh: edges of all resolutions, both ways.
        into: from grid points to mesh nodes.
        out_of: from mesh nodes to grid points: the corners of the triangle whose centre is nearest, as published; for one point
            in twenty it is a neighbour of the one that the point lies in.
    """

    nodes: NDArray[np.float32]
    mesh: Edges
    into: Edges
    out_of: Edges


def icosahedron() -> tuple[Array, NDArray[np.int64]]:
    """Vertices ``[12, 3]``, the corners of three golden rectangles in the coordinate planes, and faces ``[20, 3]``."""
    golden = (1 + np.sqrt(5)) / 2
    signs = [(first, second) for first in (-1.0, 1.0) for second in (-1.0, 1.0)]
    flat = np.array([(0.0, first, golden * second) for first, second in signs])
    vertices = np.concatenate([np.roll(flat, turn, axis=1) for turn in range(3)]) / np.sqrt(1 + golden**2)
    # Faces are the triples of mutual neighbours, each with its normal pointing outwards.
    near = np.linalg.norm(vertices[:, None] - vertices[None], axis=-1) < 1.1  # an edge is 1.05 long, the next distance 1.7
    faces = []
    for corner in itertools.combinations(range(12), 3):
        if all(near[i, j] for i, j in itertools.combinations(corner, 2)):
            a, b, c = vertices[list(corner)]
            faces.append(corner if np.dot(np.cross(b - a, c - a), a) > 0 else (corner[0], corner[2], corner[1]))
    return vertices, np.array(faces)


def refine(vertices: Array, faces: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Cut every triangle into four; old vertices keep their numbers."""
    pairs = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, place = np.unique(pairs, axis=0, return_inverse=True)
    middles = vertices[edges].sum(1)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    ab, bc, ca = (place.reshape(-1, 3) + len(vertices)).T
    a, b, c = faces.T
    children = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.concatenate([vertices, middles]), np.concatenate([np.stack(child, axis=1) for child in children])


def positions(latitudes_deg: Array, longitudes_deg: Array) -> Array:
    """Unit vectors of all points of a grid, row by row, ``[lat * lon, 3]``."""
    lat, lon = np.meshgrid(np.radians(latitudes_deg), np.radians(longitudes_deg), indexing="ij")
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1).reshape(-1, 3)


def multimesh(latitudes_deg: Array, longitudes_deg: Array, level: int) -> Multimesh:
    """The graphs of a grid and a mesh refined ``level`` times."""
    from scipy.spatial import cKDTree

    vertices, faces = icosahedron()
    kinds = [faces]
    for _ in range(level):
        vertices, faces = refine(vertices, faces)
        kinds.append(faces)
    pairs = np.concatenate(kinds)[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)

    grid = positions(latitudes_deg, longitudes_deg)
    finest = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    longest = np.linalg.norm(vertices[finest[:, 0]] - vertices[finest[:, 1]], axis=1).max()
    distance, node = cKDTree(vertices).query(grid, k=NEAREST)
    near = distance <= REACH * longest
    points = np.broadcast_to(np.arange(len(grid))[:, None], node.shape)[near]

    centres = vertices[faces].mean(1)
    _, inside = cKDTree(centres).query(grid)
    corners = faces[inside]
    receivers = np.repeat(np.arange(len(grid)), 3)

    lon = np.arctan2(vertices[:, 1], vertices[:, 0])
    nodes = np.stack([np.sqrt(np.clip(1 - vertices[:, 2] ** 2, 0, 1)), np.sin(lon), np.cos(lon)], axis=1)
    return Multimesh(
        nodes.astype(np.float32),
        _edges(vertices, vertices, both[:, 0], both[:, 1]),
        _edges(grid, vertices, points, node[near]),
        _edges(vertices, grid, corners.ravel(), receivers),
    )


def _edges(sending: Array, receiving: Array, senders: NDArray[np.int64], receivers: NDArray[np.int64]) -> Edges:
    here, there = receiving[receivers], sending[senders]
    lon, lat = np.arctan2(here[:, 1], here[:, 0]), np.arcsin(np.clip(here[:, 2], -1, 1))
    # Turn about the axis by -lon, then about the y axis by lat: the receiver comes to (1, 0, 0).
    x = np.cos(lon) * there[:, 0] + np.sin(lon) * there[:, 1]
    y = -np.sin(lon) * there[:, 0] + np.cos(lon) * there[:, 1]
    turned = np.stack([np.cos(lat) * x + np.sin(lat) * there[:, 2], y, -np.sin(lat) * x + np.cos(lat) * there[:, 2]], axis=1)
    away = turned - np.array([1.0, 0.0, 0.0])
    length = np.linalg.norm(away, axis=1, keepdims=True)
    features = np.concatenate([away, length], axis=1) / length.max()
    return Edges.sorted(senders.astype(np.int64), receivers.astype(np.int64), features, len(receiving))
