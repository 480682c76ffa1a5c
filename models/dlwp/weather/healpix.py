"""The sphere as twelve square faces (HEALPix, Gorski et al. 2005): resampling from and to a grid, and halos for convolutions.

A field is ``[..., 12, n, n]``, faces 0 to 3 round the north pole, 4 to 7 on the equator, 8 to 11 round the south pole. Within
a face, row 0 and column 0 meet in its northern corner; rows run to the south-west, columns to the south-east. (Pixel (x, y) of
the nested scheme, counted from the southern corner, is row n-1-x, column n-1-y.)

Resampling is bilinear both ways and smooths: from 5.625 degrees to nside 8 and back, a spherical harmonic of degree 1, 4 or 8
changes by 0.6, 5 or 18 % of its root mean square (``tests/models/dlwp/weather/test_healpix.py``).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.dlwp.weather.grid import Grid
from models.layers.healpix import FACES


class Resampler(nn.Module):
    """A linear map to points that are each a weighted mean of four others.

    Args:
        index: ``[4, target points]`` flat indices of source points.
        weights: ``[4, target points]``, of sum 1 over the four.
        source: shape of a source field.
        target: shape of a target field.
    """

    index: Tensor
    weights: Tensor

    def __init__(
        self, index: NDArray[np.integer], weights: NDArray[np.float64], source: tuple[int, ...], target: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.register_buffer("index", torch.from_numpy(index.astype(np.int64)), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights.astype(np.float64)), persistent=False)

    def forward(self, field: Tensor) -> Tensor:
        """``[..., *source] -> [..., *target]``, of the field's precision."""
        points = field.flatten(-len(self.source))
        weights = self.weights.to(field.dtype)
        total = points.index_select(-1, self.index[0]) * weights[0]
        for corner in range(1, 4):
            total = total + points.index_select(-1, self.index[corner]) * weights[corner]
        return total.unflatten(-1, self.target)


def pixels(nside: int) -> NDArray[np.int64]:
    """Nested HEALPix index of every pixel, ``[12, n, n]``.

    Raises:
        ValueError: ``nside`` is not a power of two.
    """
    import healpy

    if nside < 1 or nside & (nside - 1):
        raise ValueError(f"nside {nside} is not a power of two")
    face, row, column = np.indices((FACES, nside, nside))
    index: NDArray[np.int64] = healpy.xyf2pix(nside, nside - 1 - row, nside - 1 - column, face, nest=True)
    return index


def centres(nside: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes and longitudes of the pixels' centres, degrees, ``[12, n, n]`` each."""
    import healpy

    longitudes, latitudes = healpy.pix2ang(nside, pixels(nside), nest=True, lonlat=True)
    return latitudes, longitudes


def to_healpix(grid: Grid, nside: int) -> Resampler:
    """Bilinear interpolation from a grid to the pixels' centres, ``[..., lat, lon] -> [..., 12, n, n]``.

    Beyond the outermost rows lies the same row, half a turn further east.

    Raises:
        ValueError: ``nside`` is not a power of two, or the grid has an odd number of columns.
    """
    rows, columns = grid.shape
    if columns % 2:
        raise ValueError(f"{columns} columns: the other side of the pole lies between two of them")
    latitudes, longitudes = (values.ravel() for values in centres(nside))
    beyond = np.concatenate([[-180.0 - grid.latitudes[0]], grid.latitudes, [180.0 - grid.latitudes[-1]]])
    south = np.clip(np.searchsorted(beyond, latitudes, side="right") - 1, 0, rows)
    north_weight = (latitudes - beyond[south]) / (beyond[south + 1] - beyond[south])
    west = np.floor(longitudes * columns / 360.0).astype(np.int64)
    east_weight = longitudes * columns / 360.0 - west
    index, weights = [], []
    for line, line_weight in ((south, 1.0 - north_weight), (south + 1, north_weight)):
        crossed = np.where((line == 0) | (line == rows + 1), columns // 2, 0)
        row = np.clip(line - 1, 0, rows - 1)
        for column, column_weight in ((west, 1.0 - east_weight), (west + 1, east_weight)):
            index.append(row * columns + (column + crossed) % columns)
            weights.append(line_weight * column_weight)
    return Resampler(np.stack(index), np.stack(weights), grid.shape, (FACES, nside, nside))


def from_healpix(nside: int, grid: Grid) -> Resampler:
    """Bilinear interpolation from pixels to a grid, ``[..., 12, n, n] -> [..., lat, lon]``: along the two rings of pixels north
    and south of a point, then between them.

    Raises:
        ValueError: ``nside`` is not a power of two.
    """
    import healpy

    place = np.empty(FACES * nside**2, np.int64)
    place[pixels(nside).ravel()] = np.arange(FACES * nside**2)
    latitudes, longitudes = np.meshgrid(grid.latitudes, grid.longitudes, indexing="ij")
    index, weights = healpy.get_interp_weights(nside, longitudes.ravel(), latitudes.ravel(), nest=True, lonlat=True)
    return Resampler(place[index], weights, (FACES, nside, nside), grid.shape)
