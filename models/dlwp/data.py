"""Navier-Stokes trajectories on disk: the generated store. Its reader, which takes users' own stores too, is in
:mod:`models.dlwp.trajectories`.

Layout (that of the published data, Karlbauer et al. 2024): one zarr group each for ``train``, ``val`` and ``test`` with

* ``u[sample, time, dim, height, width]``: vorticity at t = 1 .. T, in 1/time, ``dim`` of length 1;
* ``a[sample, height, width]``: vorticity at t = 0;
* ``t[time]``: time of each frame.

Each opens with ``xarray.open_zarr(folder, group="train", consolidated=False)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from models.dlwp.random_fields import SPLITS, gaussian_fields
from models.dlwp.trajectories import DIMS, Trajectories, open_trajectories
from models.fingerprint import fingerprint
from models.stores import StoreSpec

if TYPE_CHECKING:
    import zarr

__all__ = ["NavierStokesStore", "Trajectories", "fingerprint", "open_trajectories"]

#: Trajectories that one part of the store holds.
PART_SAMPLES = 16

_RECIPE_KEYS = ("viscosity", "resolution", "frames", "train", "val", "test", "alpha", "tau", "forcing", "store_seed")
_COORDINATES = {
    "sample": ("trajectory", "1"),
    "time": ("frame, one per unit of time", "1"),
    "dim": ("component; 0 is the vorticity", "1"),
    "height": ("row; x = height / resolution", "grid cell"),
    "width": ("column; y = width / resolution", "grid cell"),
}


@dataclass(frozen=True)
class NavierStokesStore(StoreSpec):
    """The store that a ``data`` section describes.

    Attributes:
        data: the section; only the keys that determine trajectories enter the recipe.
    """

    name: ClassVar[str] = "dlwp-navier-stokes"  # type: ignore[misc]
    version: ClassVar[int] = 1  # type: ignore[misc]

    data: Any
    recipe: Mapping[str, Any] = field(init=False)
    parts: int = field(init=False)

    def __post_init__(self) -> None:
        recipe = {key: getattr(self.data, key) for key in _RECIPE_KEYS}
        step = self.data.time_step
        recipe["time_step"] = "adaptive" if step is None else float(step)
        recipe["precision"] = "float64" if self.data.float64 else "float32"
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "parts", len(self._blocks()))

    def _blocks(self) -> list[tuple[str, range]]:
        """What each part holds: a set and a block of its samples."""
        return [
            (split, range(first, min(first + PART_SAMPLES, count)))
            for split in SPLITS
            for count in [getattr(self.data, split)]
            for first in range(0, count, PART_SAMPLES)
        ]

    def create(self, folder: Path) -> None:
        """Lay out groups, arrays, coordinates and attributes."""
        import zarr

        zarr.open_group(str(folder), mode="a", zarr_format=3, attributes=self._attributes())
        for split in SPLITS:
            self._create_split(zarr.open_group(str(folder / split), mode="w", zarr_format=3), split)

    def _attributes(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "title": "Two-dimensional incompressible Navier-Stokes flow on the unit torus, vorticity form",
            "equation": "dw/dt + u . grad w = viscosity Laplace w + forcing (sin 2 pi (x+y) + cos 2 pi (x+y)), "
            "u = (psi_y, -psi_x), Laplace psi = -w",
            "initial_field": "Gaussian random field, spectral standard deviation "
            "s^2 sqrt(2) tau^(alpha-1) (4 pi^2 |k|^2 + tau^2)^(-alpha/2), k in cycles",
            "source": "Karlbauer et al. 2024, arXiv 2407.14129, section 3.1",
            "units": {"w": "1/time", "viscosity": "length^2/time", "forcing": "1/time^2", "tau": "1/length", "frames": "time"},
            "recipe": dict(self.recipe),
            "store_version": self.version,
            "versions": {package: version(package) for package in ("numpy", "torch", "zarr", "xarray")},
        }

    def _create_split(self, group: zarr.Group, split: str) -> None:
        from zarr.codecs import Crc32cCodec

        samples, frames, s = getattr(self.data, split), self.data.frames, self.data.resolution
        group.update_attributes({**self._attributes(), "split": split})

        def array(name: str, dtype: str, shape: tuple[int, ...], dims: tuple[str, ...], attributes: dict[str, Any]) -> Any:
            whole = len(shape) == 1
            return group.create_array(
                name,
                shape=shape,
                chunks=shape if whole else (1, *shape[1:]),
                dtype=dtype,
                # Turbulent floats do not compress; a checksum in every chunk tells damage at the first read.
                compressors=Crc32cCodec(),
                fill_value=0 if whole else np.nan,
                dimension_names=dims,
                attributes=attributes,
            )

        vorticity = {"units": "1/time", "long_name": "vorticity"}
        array("u", "float32", (samples, frames, 1, s, s), DIMS, vorticity)
        array("a", "float32", (samples, s, s), ("sample", "height", "width"), {**vorticity, "long_name": "initial vorticity"})
        times = array("t", "float64", (frames,), ("time",), {"units": "time", "long_name": "time since the initial field"})
        times[:] = np.arange(1.0, frames + 1)
        lengths = {"sample": samples, "time": frames, "dim": 1, "height": s, "width": s}
        for name, (long_name, units) in _COORDINATES.items():
            coordinate = array(name, "int64", (lengths[name],), (name,), {"units": units, "long_name": long_name})
            coordinate[:] = np.arange(lengths[name]) + (name == "time")

    def build_part(self, folder: Path, part: int) -> None:
        """Integrate one block of trajectories and write its chunks.

        Raises:
            DivergedError: the solution left the finite numbers.
        """
        import torch
        import zarr

        from models.dlwp.navier_stokes import NavierStokesSolver

        data = self.data
        split, samples = self._blocks()[part]
        initial = gaussian_fields(data.resolution, split, samples, seed=data.store_seed, alpha=data.alpha, tau=data.tau)
        solver = NavierStokesSolver(
            data.resolution,
            data.viscosity,
            forcing=data.forcing,
            time_step=data.time_step,
            dtype=torch.float64 if data.float64 else torch.float32,
        )
        frames = solver.solve(torch.from_numpy(initial), data.frames).float().numpy()
        group = zarr.open_group(str(folder / split), mode="r+")
        rows = slice(samples.start, samples.stop)
        _array(group, "u")[rows] = frames[:, :, None]
        _array(group, "a")[rows] = initial.astype(np.float32)

    def finish(self, folder: Path) -> None:
        """Store the mean and standard deviation of the training set and its mean field, the climatology ``[1, s, s]``."""
        import zarr

        frames = _array(zarr.open_group(str(folder / "train"), mode="r"), "u")
        total, squares, count = np.zeros(frames.shape[2:]), 0.0, 0
        for first in range(0, frames.shape[0], PART_SAMPLES):
            block = np.asarray(frames[first : first + PART_SAMPLES], dtype=np.float64)
            total += block.sum((0, 1))
            squares += float((block**2).sum())
            count += block.shape[0] * block.shape[1]
        mean = float(total.mean()) / count
        group = zarr.open_group(str(folder / "statistics"), mode="w", zarr_format=3)
        group.update_attributes({"of": "train", "mean": mean, "std": float(np.sqrt(squares / (count * total.size) - mean**2))})
        group.create_array(
            "climatology",
            data=(total / count).astype(np.float32),
            dimension_names=DIMS[2:],
            attributes={"units": "1/time", "long_name": "mean vorticity over training trajectories and frames"},
        )


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]
