"""What a backbone is applied to: how many channels go in and come out, on which grid, and what lies beyond its borders."""

from __future__ import annotations

from dataclasses import dataclass

from models.layers.boundary import Boundary


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Shapes around a backbone.

    Attributes:
        inputs: channels that go in, all frames of the context together.
        frame_inputs: channels of one frame, which is what a recurrent backbone takes.
        outputs: channels that come out.
        height, width: grid points; of one face on a HEALPix mesh.
        boundary: what lies beyond the borders.
        latitudes_deg: of the rows, ascending; empty on a plane.
        zero_output: the last layer starts at zero, and a residual model at persistence.
    """

    inputs: int
    frame_inputs: int
    outputs: int
    height: int
    width: int
    boundary: Boundary = Boundary.TORUS
    latitudes_deg: tuple[float, ...] = ()
    zero_output: bool = False

    @classmethod
    def torus(cls, resolution: int, context: int) -> Fields:
        """Scalar frames on a square doubly periodic grid, the Navier-Stokes experiment's."""
        return cls(inputs=context, frame_inputs=1, outputs=1, height=resolution, width=resolution)
