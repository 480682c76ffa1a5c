"""What lies beyond the borders of a grid. No torch: configuration reads it."""

from __future__ import annotations

from enum import StrEnum


class Boundary(StrEnum):
    """Topology of a grid."""

    TORUS = "torus"  # periodic along both sides
    CYLINDER = "cylinder"  # periodic in longitude; zeros beyond the first and the last latitude
    HEALPIX = "healpix"  # twelve square faces on the sphere, in the batch dimension: each continues in its neighbours
