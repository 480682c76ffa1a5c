"""Reads trajectories: a split of a generated store (:mod:`models.dlwp.data`) or of a user's own in the same layout.

Needed is one variable, ``u[sample, time, dim, height, width]`` with ``dim`` of length 1, in a zarr group (v2 or v3) named for
the split, or in a netCDF file (:mod:`models.dlwp.netcdf`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.dlwp.netcdf import holds_netcdf, netcdf_file, open_netcdf
from results.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

DIMS = ("sample", "time", "dim", "height", "width")
#: A split below this is read into memory at once.
MEMORY_LIMIT_BYTES = 2 * 2**30


class Trajectories:
    """One split, opened for reading.

    Attributes:
        num_samples: trajectories in use.
        frames: frames of each.
        resolution: grid points along each side.
    """

    def __init__(
        self,
        u: xr.DataArray,
        folder: Path,
        split: str,
        *,
        samples: int,
        frames: int,
        memory_limit: int,
        training: Path | None = None,
    ) -> None:
        self._folder, self._training = folder, training
        self._split = split
        self._u = u.isel(sample=slice(samples), time=slice(frames))
        self.num_samples = samples
        self.frames = frames
        self.resolution = int(u.sizes["height"])
        self._memory: NDArray[np.float32] | None = None
        if self.num_bytes <= memory_limit:
            self._memory = self._read()

    @property
    def num_bytes(self) -> int:
        """Bytes the split takes in memory as float32."""
        return self.num_samples * self.frames * self.resolution**2 * 4

    @property
    def in_memory(self) -> bool:
        """Whether the whole split was read when it was opened."""
        return self._memory is not None

    def window(self, sample: int, start: int, length: int) -> NDArray[np.float32]:
        """Frames ``start .. start + length - 1`` of a trajectory, float32 ``[length, 1, height, width]``, in 1/time.

        Raises:
            IndexError: there is no such sample or frame.
            DataError: the chunk is damaged, or a value is not finite.
        """
        if not 0 <= sample < self.num_samples or start < 0 or length < 1 or start + length > self.frames:
            raise IndexError(
                f"window {start}..{start + length - 1} of sample {sample} lies outside {self.num_samples} samples"
                f" of {self.frames} frames"
            )
        trajectory = self._read_sample(sample) if self._memory is None else self._memory[sample]
        window = trajectory[start : start + length]
        if not np.isfinite(window).all():
            raise self._error(f"variable 'u' has a value that is not finite in sample {sample}; its chunk may be missing")
        return window

    @cached_property
    def climatology(self) -> NDArray[np.float32]:
        """Mean over the training trajectories and frames, ``[1, height, width]``: as stored, else computed from the split
        ``train`` beside this one.

        Raises:
            DataError: neither can be read.
        """
        if (self._folder / "statistics").exists():
            stored = _read(_open_group(self._folder, "statistics"), "climatology", self._folder, "statistics", DIMS[2:])
            return np.asarray(_values(stored, self._folder, "statistics"), dtype=np.float32)
        opened = _open_group(self._folder, "train") if self._training is None else open_netcdf(self._training)
        u = _read(opened, "u", self._folder, "train", DIMS)
        total = np.zeros(tuple(u.sizes[name] for name in DIMS[2:]))
        for sample in range(u.sizes["sample"]):
            total += np.asarray(_values(u.isel(sample=sample), self._folder, "train"), dtype=np.float64).sum(0)
        return np.asarray(total / (u.sizes["sample"] * u.sizes["time"]), dtype=np.float32)

    def _read(self) -> NDArray[np.float32]:
        try:
            return np.asarray(self._u.values, dtype=np.float32)
        except Exception:
            for sample in range(self.num_samples):  # one of these fails and is named
                self._read_sample(sample)
            raise

    def _read_sample(self, sample: int) -> NDArray[np.float32]:
        where = f"{self._split}, sample {sample}"
        return np.asarray(_values(self._u.isel(sample=sample), self._folder, where), dtype=np.float32)

    def _error(self, what: str) -> DataError:
        return _error(what, self._folder, self._split)


def open_trajectories(data: Any, folder: str | Path, split: str, *, memory_limit: int = MEMORY_LIMIT_BYTES) -> Trajectories:
    """Open one split of a generated store or of a user's own in the same layout.

    Args:
        data: the ``data`` section: how many trajectories and frames are wanted, and their resolution.
        folder: the store.
        split: ``train``, ``val`` or ``test``.
        memory_limit: bytes up to which the split is read at once; a larger one is read trajectory by trajectory.

    Raises:
        DataError: the store, group or variable is missing; dimensions, type, resolution or sizes are not as wanted; a chunk is
            damaged. The message names store, split and variable.
    """
    folder, wanted = Path(folder), int(getattr(data, split))
    if holds_netcdf(folder):
        folder = netcdf_file(folder, split, wanted)
        u = _read(open_netcdf(folder), "u", folder, split, DIMS)
    else:
        u = _read(_open_group(folder, split), "u", folder, split, DIMS)
    problem = ""
    if 0 in u.sizes.values():
        problem = "variable 'u' is empty"
    elif u.sizes["dim"] != 1:
        problem = f"variable 'u' has {u.sizes['dim']} components along 'dim' instead of 1"
    elif {u.sizes["height"], u.sizes["width"]} != {data.resolution}:
        problem = f"variable 'u' has {u.sizes['height']} x {u.sizes['width']} points, data.resolution is {data.resolution}"
    elif u.sizes["sample"] < wanted:
        problem = f"variable 'u' has {u.sizes['sample']} samples, data.{split} asks for {wanted}"
    elif u.sizes["time"] < data.sequence:
        problem = f"variable 'u' has {u.sizes['time']} frames, data.sequence asks for {data.sequence}"
    if problem:
        raise _error(problem, folder, split)
    frames = min(int(u.sizes["time"]), data.frames)
    training = netcdf_file(folder.parent, "train", int(data.train)) if folder.suffix == ".nc" else None
    return Trajectories(u, folder, split, samples=wanted, frames=frames, memory_limit=memory_limit, training=training)


def _open_group(folder: Path, split: str) -> xr.Dataset:
    import xarray as xr

    if not folder.exists():
        raise DataError("there is no such data store", where=str(folder), next_step="check data.path")
    try:
        found: xr.Dataset = xr.open_zarr(
            str(folder), group=split, consolidated=False, chunks=None, mask_and_scale=False, decode_times=False
        )
    except Exception as error:
        raise _error(f"the store has no readable group '{split}': {_first_line(error)}", folder, split) from error
    return found


def _read(dataset: xr.Dataset, variable: str, folder: Path, split: str, dims: tuple[str, ...]) -> xr.DataArray:
    """A variable of a dataset, its dimensions and type checked."""
    if variable not in dataset:
        names = ", ".join(sorted(map(str, dataset.variables))) or "nothing"
        raise _error(f"variable '{variable}' is missing; the group has {names}", folder, split)
    found = dataset[variable]
    if found.dims != dims:
        what = f"variable '{variable}' has dimensions {', '.join(map(str, found.dims))} instead of {', '.join(dims)}"
        raise _error(what, folder, split)
    if not np.issubdtype(found.dtype, np.floating):
        raise _error(f"variable '{variable}' holds {found.dtype} instead of floating-point numbers", folder, split)
    return found


def _values(array: xr.DataArray, folder: Path, where: str) -> NDArray[Any]:
    """Read; whatever a damaged chunk makes the libraries below raise becomes a DataError."""
    try:
        values: NDArray[Any] = array.values
    except Exception as error:
        what = f"variable '{array.name}' cannot be read, a chunk is damaged: {_first_line(error)}"
        raise _error(what, folder, where) from error
    return values


def _error(what: str, folder: Path, split: str) -> DataError:
    return DataError(
        what,
        where=f"{folder} ({split})",
        next_step=f"if it was generated, rm -r {folder} and type the same command again; if it is your own, mend it or data.path",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
