"""The mesh a model's state lives on: latitudes and longitudes, or the twelve faces of HEALPix.

Resampling is linear, and done once on the way in and once on the way out, never between steps.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models.dlwp.weather.config import ON_HEALPIX
from models.dlwp.weather.data import grid_of
from models.dlwp.weather.grid import latitude_weights


class Mesh:
    """Latitudes and longitudes as they are.

    Attributes:
        area_weights: of mean 1, ``[lat, 1]`` or one number.
    """

    def __init__(self, data: Any) -> None:
        self.area_weights = torch.tensor(latitude_weights(grid_of(data).latitudes), dtype=torch.float32).unsqueeze(-1)

    def enter(self, fields: Tensor) -> Tensor:
        """``[..., lat, lon]`` on the mesh."""
        return fields

    def leave(self, fields: Tensor) -> Tensor:
        """Fields on the mesh as ``[..., lat, lon]``."""
        return fields


class Healpix(Mesh):
    """Twelve faces of equal area: ``[..., 12, n, n]``."""

    def __init__(self, data: Any) -> None:
        from models.dlwp.weather.healpix import from_healpix, to_healpix

        super().__init__(data)
        self.area_weights = torch.ones(1)
        self._maps = to_healpix(grid_of(data), data.nside), from_healpix(data.nside, grid_of(data))
        self._on: dict[torch.device, tuple[nn.Module, ...]] = {}

    def enter(self, fields: Tensor) -> Tensor:
        out: Tensor = self._there(fields.device)[0](fields)
        return out

    def leave(self, fields: Tensor) -> Tensor:
        out: Tensor = self._there(fields.device)[1](fields)
        return out

    def _there(self, device: torch.device) -> tuple[nn.Module, ...]:
        if device not in self._on:
            self._on[device] = tuple(copy.deepcopy(part).to(device) for part in self._maps)
        return self._on[device]


_cache: dict[tuple[object, ...], Mesh] = {}


def mesh_of(data: Any, variant: str) -> Mesh:
    """The mesh of a variant, made once."""
    key = (variant in ON_HEALPIX, data.grid, data.latitudes, data.nside)
    if key not in _cache:
        with torch.device("cpu"):
            _cache[key] = Healpix(data) if key[0] else Mesh(data)
    return _cache[key]
