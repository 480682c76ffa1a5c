"""Finds and opens a user's trajectories in netCDF, as the published generator writes them: one file a set.

A folder holds ``train.nc``, ``val.nc`` and ``test.nc``, or files whose names say how many samples they have, such as
``ns_r1e+03_n1000_t50_s64.nc``: the one with as many as the configuration asks for is taken.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from results.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

#: The number of samples in a published file's name.
_SAMPLES = re.compile(r"_n(\d+)(?=[_.])")


def holds_netcdf(folder: Path) -> bool:
    """Whether a folder holds netCDF files and is no zarr store."""
    return (
        folder.is_dir() and not (folder / "zarr.json").exists() and not (folder / ".zgroup").exists() and any(folder.glob("*.nc"))
    )


def netcdf_file(folder: Path, split: str, samples: int) -> Path:
    """The file of a split.

    Args:
        samples: how many trajectories are wanted; tells sets apart that are not named for their split.

    Raises:
        DataError: no file fits, or several do.
    """
    named = folder / f"{split}.nc"
    if named.exists():
        return named
    counts = {path: int(found.group(1)) for path in sorted(folder.glob("*.nc")) if (found := _SAMPLES.search(path.name))}
    fitting = [path for path, count in counts.items() if count == samples]
    if len(fitting) == 1:
        return fitting[0]
    have = ", ".join(path.name for path in sorted(folder.glob("*.nc")))
    several = f"{len(fitting)} files have" if fitting else "no file has"
    raise DataError(
        f"{several} the {samples} samples of data.{split}; there is {have}",
        where=str(folder),
        next_step=f"call the file {split}.nc, or set data.{split} to the number of samples in its name",
    )


def open_netcdf(path: Path) -> xr.Dataset:
    """Open lazily.

    Raises:
        DataError: it is no netCDF file, or one that was cut off.
    """
    import xarray as xr

    try:
        found: xr.Dataset = xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False, decode_times=False)
    except Exception as error:
        what = f"not a readable netCDF file: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        raise DataError(what, where=str(path), next_step="copy it again, or mend data.path") from error
    return found
