"""Rollouts beyond the leads that errors are rated at: months to decades, in the memory of one block of steps.

Winds, drift and the time to blow-up are summed up on the way; ``data.keep_rollouts`` also writes every field, block by block.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.dlwp.weather.config import Data
from models.dlwp.weather.forecast_store import create, keep
from models.dlwp.weather.forecasting import Forecaster, Scene, climatology_at
from models.dlwp.weather.prepared import Prepared
from models.dlwp.weather.soundness import Soundness
from models.dlwp.weather.windows import forecast_starts, valid_times
from models.system import Context
from results.curves import save_curves
from results.errors import DataError

#: What a long rollout is described by.
_SOUND = ("u10_profile_rmse", "u10_trades_rmse", "u10_westerlies_rmse", "z500_drift")


def rate_long(
    data: Data, forecaster: Forecaster, scene: Scene, ready: Prepared, context: Context, *, steps: int, label: str
) -> dict[str, float]:
    """Roll on from ``data.long_forecasts`` dates: means over them, and the shortest time to blow-up.

    Args:
        steps: of six hours.
        label: names the model in the picture.

    Raises:
        DataError: forecasts are given, and one of the dates is not among them.
    """
    try:
        starts = forecast_starts(scene.weather, data, frames=steps + 1, wanted=data.long_forecasts)
    except DataError:  # it is longer than the period: held against what there is of the truth
        starts = forecast_starts(scene.weather, data, frames=steps + 1, wanted=data.long_forecasts, whole=False)
    place = context.artifacts / "rollout.zarr" if data.keep_rollouts and forecaster.model is not None else None
    if place is not None and context.rank == 0:
        create(place, scene.weather.times[starts], steps, scene.prognostic, scene.weather.grid)
    context.all_gather(np.zeros(1))  # no rank writes before the store is there
    indices, weights = context.shard(len(starts))
    z500, u10 = (scene.prognostic.index(name) for name in ("z500", "u10"))
    rows: list[list[float]] = []
    for index in indices:
        start = int(starts[index])
        sums = Soundness(scene.weather.latitudes)
        blocks = forecaster.blocks(np.array([start]), steps)
        for before, block in blocks if place is None else keep(blocks, place, [int(index)], scene.prognostic, steps):
            count = block.shape[1]
            times = valid_times(scene.weather, start, before + count)[before:]
            reference = torch.from_numpy(climatology_at(times, ready.climatology, scene.prescribed)[:, z500])
            known = scene.has(start, before + 1, count)
            truth = scene.frames(start, before + 1, count)[:, u10] if known else None
            sums.add(block[0, :, z500], block[0, :, u10], reference, truth)
            context.progress("rollout", before + count, steps)
        if context.rank == 0 and not rows:
            _save_wind(context.artifacts, sums, label)
        metrics = sums.metrics()
        days = steps / 4 if sums.broken_after is None else sums.broken_after / 4
        rows.append([days, *(metrics.get(name, np.nan) for name in _SOUND)])
    everyone = context.all_gather(np.column_stack([weights, np.array(rows)]))
    kept = everyone[everyone[:, 0] > 0, 1:]
    found = {"stable_days": float(kept[:, 0].min())}
    for column, name in enumerate(_SOUND, start=1):
        values = kept[np.isfinite(kept[:, column]), column]
        if len(values):
            found[name] = float(values.mean() if name == "z500_drift" else np.sqrt((values**2).mean()))
    return found


def _save_wind(folder: Path, sums: Soundness, label: str) -> None:
    """Zonal mean of u10 over the first long rollout, as far as it is sound."""
    if sums.compared:
        save_curves(
            folder,
            "wind",
            x=sums.latitudes,
            lines={"truth": [sums.truth_profile / sums.compared], "rollout": [sums.profile / sums.compared]},
            panels=[f"mean over {sums.compared / 4:g} d"],
            title=f"zonal-mean u10, {label}",
            x_label="latitude [degrees north]",
            y_labels=["m/s"],
        )
