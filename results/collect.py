"""The study's table as one labelled xarray Dataset, stored in zarr v3: for notebooks, and for whoever comes after."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from results.metrics import MetricSpec, spec_of
from results.rows import IDENTITY
from results.runfolder import RunFolder
from results.series import read_run_steps
from results.store import cannot_write

if TYPE_CHECKING:
    import xarray as xr

_TEXT = (*(name for name in IDENTITY if name not in {"seed", "repeat", "ranks"}), "status", "stage", "arm")
_WHOLE = ("seed", "repeat", "ranks", "attempts", "shared_with")


def collect_dataset(
    rows: Sequence[Mapping[str, Any]],
    runs_root: Path,
    *,
    specs: Mapping[str, MetricSpec] | None = None,
    steps: bool = True,
) -> xr.Dataset:
    """Gather rows into a dataset.

    Args:
        specs: units and directions of the system's own metrics.
        steps: also read the per-step training loss of every run.

    Returns:
        Dimension ``run`` (its names are the coordinate) with the identity, status, stage and arm as further coordinates; one
        float64 variable per metric over ``run``, NaN where unknown, with attributes ``units``, ``direction``, ``long_name``;
        ``loss[run, step]`` padded with NaN.
    """
    import xarray as xr

    columns: dict[str, Any] = {"run": ("run", np.array([row["run"] for row in rows], dtype=object))}
    for name in _TEXT:
        columns[name] = ("run", np.array([str(row.get(name) or "") for row in rows], dtype=object))
    for name in _WHOLE:
        columns[name] = ("run", np.array([-1 if row.get(name) is None else int(row[name]) for row in rows], dtype=np.int64))
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row["metrics"]):
        values = [row["metrics"].get(name) for row in rows]
        spec = spec_of(name, dict(specs or {}))
        variables[name] = (
            "run",
            np.array([np.nan if value is None else value for value in values], dtype=np.float64),
            {"units": spec.unit, "direction": str(spec.direction), "long_name": spec.title},
        )
    if steps:
        losses = [_losses(RunFolder(runs_root / row["run"])) for row in rows]
        table = np.full((len(rows), max((len(loss) for loss in losses), default=0)), np.nan)
        for index, loss in enumerate(losses):
            table[index, : len(loss)] = loss
        variables["loss"] = (("run", "step"), table, {"units": "1", "long_name": "training loss per optimisation step"})
        columns["step"] = ("step", np.arange(table.shape[1], dtype=np.int64))
    for name in ("ranks", "seed"):
        columns[name] = (*columns[name], {"long_name": name})
    return xr.Dataset(variables, coords=columns, attrs={"title": "tenfold runs", "missing_whole_number": -1})


def _losses(folder: RunFolder) -> NDArray[np.float64]:
    """Loss by step number; a run of one attempt whose lines are whole is parsed in one go (2,000 runs in seconds)."""
    attempts = folder.attempts()
    if len(attempts) == 1:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            lines = attempts[0].steps_file(0).read_text().splitlines()
            plain = json.loads(f"[{','.join(lines)}]")
            steps = np.array([line["step"] for line in plain], dtype=np.int64)
            values = np.array([line.get("loss") for line in plain], dtype=np.float64)  # None becomes NaN
            return _by_step(steps, values)
    series = read_run_steps(folder)
    return _by_step(series["step"].astype(np.int64), series["loss"])


def _by_step(steps: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not steps.size:
        return values
    found = np.full(int(steps.max()) + 1, np.nan)
    found[steps] = values
    return found


def write_dataset(dataset: xr.Dataset, path: Path) -> Path:
    """Write a dataset as zarr v3; readers see the old store or the whole new one.

    Raises:
        ResultError: the folder cannot be written.
    """
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        new, old = folder / "new", folder / "old"
        dataset.to_zarr(new, mode="w", zarr_format=3, consolidated=False)
        if path.exists():
            os.rename(path, old)  # a folder cannot be renamed over one that holds files
        try:
            os.rename(new, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path
