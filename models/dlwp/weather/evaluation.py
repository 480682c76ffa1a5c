"""Evaluates a trained model, given weights or given forecasts over the test dates: scores by lead, winds of longer rollouts."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.dlwp.weather.config import CATALOGUE, FRAMES_PER_DAY, HOURS_PER_FRAME, LEADS_HOURS, Data
from models.dlwp.weather.forecast_store import ForecastStore, create, keep
from models.dlwp.weather.forecasting import Blocks, Forecaster, Scene, by_model, climatology_at, forecast, perturbations
from models.dlwp.weather.grid import latitude_weights
from models.dlwp.weather.long_rollout import rate_long
from models.dlwp.weather.prepared import Prepared, prepared, test_scene
from models.dlwp.weather.soundness import OUTLIER_Z500_RMSE
from models.dlwp.weather.verification import QUANTITIES, Verification, crps, mid_latitudes, rate, spectral_ratio, zonal_power
from models.dlwp.weather.windows import forecast_starts, thinned, valid_times
from models.system import Context, Outcome, Point
from results.curves import save_curves

#: Forecasts of one call of the model.
EVAL_BATCH = 8
#: Wavenumbers from here on are the small scales of the spectral ratio.
SMALL_SCALES = 10
#: Steps to three days, where ensembles are rated, and to five, where spectra are.
THREE_DAYS, FIVE_DAYS = 12, 20

#: Lines of the picture of errors, and what they show.
_LINES = {"forecast": "error", "persistence": "persistence", "climatology": "climatology"}

Starts = NDArray[np.int64]


def evaluate(point: Point, model: nn.Module | None, context: Context) -> Outcome:
    """Forecasts from the test dates, rated by lead; persistence and climatology on the same targets.

    Args:
        model: None to rate the forecasts of ``data.rate``.
    """
    data: Data = point.data
    ready, scene = prepared(point), test_scene(point, context.device)
    label = f"{CATALOGUE.variant(point.variant).title} {point.size}"
    if model is None:
        stored = ForecastStore(Path(str(data.rate)), scene.prognostic, scene.weather.grid)
        forecaster, label = stored.forecaster(scene), "given forecasts"
    else:
        forecaster = by_model(model, scene)
    steps = forecaster.reach(FRAMES_PER_DAY * data.forecast_days)
    starts = forecast_starts(scene.weather, data, frames=steps + 1, wanted=data.forecasts)
    found, extra, days_per_s = _rated(data, forecaster, scene, ready, starts, steps, context)
    metrics, samples = _scores(found, acc_wb2=data.acc_wb2)
    if extra is not None and np.isfinite(extra).all():  # a diverged ensemble has no scores
        score, error, spread = extra.T
        metrics["crps_z500_72h"] = float(score.mean())
        metrics["spread_skill_z500_72h"] = float(np.sqrt(spread.mean() / error.mean()))
        samples["crps_z500_72h"] = score.copy()
    metrics["stable_days"] = _stable_days(found)
    if model is not None:
        metrics["rollout_days_per_s"] = days_per_s
    long = forecaster.reach(FRAMES_PER_DAY * data.long_days)
    if long > (0 if forecaster.longest is None else steps):  # given forecasts may end before they are long
        metrics |= rate_long(data, forecaster, scene, ready, context, steps=long, label=label)
    if steps >= FIVE_DAYS:
        metrics |= _spectrum(forecaster, scene, starts, context, label)
    if context.rank == 0:
        _save_errors(context.artifacts, found, label)
    return Outcome(metrics=metrics, samples=samples)


def _rated(
    data: Data, forecaster: Forecaster, scene: Scene, ready: Prepared, starts: Starts, steps: int, context: Context
) -> tuple[Verification, NDArray[np.float64] | None, float]:
    """Scores of all dates, the ensemble's of each where there is one, and simulated days per second."""
    place = context.artifacts / "forecast.zarr" if data.keep_forecasts and forecaster.model is not None else None
    if place is not None and context.rank == 0:
        create(place, scene.weather.times[starts], steps, scene.prognostic, scene.weather.grid)
    context.all_gather(np.zeros(1))  # no rank writes before the store is there
    area = torch.from_numpy(latitude_weights(scene.weather.latitudes)).unsqueeze(-1).to(context.device)
    indices, weights = context.shard(len(starts))
    rows, began = [], time.perf_counter()
    for first in range(0, len(indices), EVAL_BATCH):
        which = indices[first : first + EVAL_BATCH]
        blocks = forecaster.blocks(starts[which], steps)
        if place is not None:
            blocks = keep(blocks, place, which.tolist(), scene.prognostic, steps)
        rated = [_rate_block(scene, ready, starts[which], before, block, area) for before, block in blocks]
        scores = [torch.cat(rated, dim=1).cpu().numpy().reshape(len(which), -1)]
        if data.ensemble > 1 and forecaster.model is not None:
            scores.append(_ensemble(data, forecaster.model, scene, starts[which], area))
        rows.append(np.concatenate(scores, axis=1))
        context.progress("evaluate", first + len(which), len(indices))
    days_per_s = len(indices) * steps / 4 / (time.perf_counter() - began)
    everyone = context.all_gather(np.column_stack([indices.astype(np.float64), weights, np.concatenate(rows)]))
    kept = everyone[everyone[:, 1] > 0]
    kept = kept[np.argsort(kept[:, 0], kind="stable"), 2:]
    size = steps * len(scene.prognostic) * len(QUANTITIES)
    hours = [HOURS_PER_FRAME * (step + 1) for step in range(steps)]
    values = kept[:, :size].reshape(len(kept), steps, len(scene.prognostic), len(QUANTITIES))
    return Verification(values, scene.prognostic, hours), kept[:, size:] if kept.shape[1] > size else None, days_per_s


def _rate_block(scene: Scene, ready: Prepared, starts: Starts, before: int, block: Tensor, area: Tensor) -> Tensor:
    truth, climatology, first = [], [], []
    for start in starts:
        truth.append(scene.frames(int(start), before + 1, block.shape[1]))
        times = valid_times(scene.weather, int(start), before + block.shape[1])[before:]
        climatology.append(torch.from_numpy(climatology_at(times, ready.climatology, scene.prescribed)))
        first.append(scene.frames(int(start), 0, 1)[0])
    return rate(block, torch.stack(truth), torch.stack(first), torch.stack(climatology).to(block.device), area)


def _ensemble(data: Data, model: nn.Module, scene: Scene, starts: Starts, area: Tensor) -> NDArray[np.float64]:
    """CRPS, squared error of the mean and variance of z500 at three days by date, ``[date, 3]``."""
    shape = (len(scene.prognostic), *scene.weather.grid.shape)
    members = []
    for member in range(data.ensemble):
        seeds = [int(start) * 1000 + member for start in starts]  # of the date, so that ranks do not matter
        noise = torch.stack([perturbations(1, shape, data.perturbation, seed)[0] for seed in seeds])
        members.append(_last(forecast(model, scene, starts, THREE_DAYS, noise=noise.to(scene.device)), scene, "z500"))
    truth = _truth_at(scene, starts, THREE_DAYS, "z500")
    return torch.stack(crps(torch.stack(members), truth, area), dim=1).cpu().numpy()


def _last(blocks: Blocks, scene: Scene, channel: str) -> Tensor:
    """One channel of forecasts at their last step, ``[date, lat, lon]``."""
    for _, block in blocks:
        last = block[:, -1, scene.prognostic.index(channel)]
    return last


def _truth_at(scene: Scene, starts: Starts, steps: int, channel: str) -> Tensor:
    return torch.stack([scene.frames(int(start), steps, 1)[0, scene.prognostic.index(channel)] for start in starts])


def _spectrum(forecaster: Forecaster, scene: Scene, starts: Starts, context: Context, label: str) -> dict[str, float]:
    """Zonal power of five-day forecasts from some of the dates against the truth's; all ranks compute the same."""
    some = thinned(starts, EVAL_BATCH)
    made = _last(forecaster.blocks(some, FIVE_DAYS), scene, "z500").cpu()
    truth = _truth_at(scene, some, FIVE_DAYS, "z500").cpu()
    band = torch.from_numpy(mid_latitudes(scene.weather.latitudes))
    powers = [zonal_power(fields)[:, band].mean((0, 1)).numpy()[1:-1] for fields in (truth, made)]
    if context.rank == 0 and all(np.isfinite(power).all() for power in powers):
        save_curves(
            context.artifacts,
            "spectrum",
            x=np.arange(1, len(powers[0]) + 1),
            lines={"truth": powers[0][None], "forecast at 5 d": powers[1][None]},
            panels=["30 to 60 degrees, both hemispheres"],
            title=f"zonal power of z500, {label}",
            x_label="zonal wavenumber",
            y_labels=["m4/s4"],
            log="xy",
        )
    ratio = spectral_ratio(made, truth, scene.weather.latitudes, first=SMALL_SCALES)
    return {"spectral_ratio_z500": ratio} if np.isfinite(ratio) else {}


def _save_errors(folder: Path, found: Verification, label: str) -> None:
    """RMSE by lead of z500 and t850, beside persistence and climatology."""
    curves = found.curves()
    columns = [found.channels.index(name) for name in ("z500", "t850")]
    save_curves(
        folder,
        "rmse",
        x=np.array(found.hours) / 24,
        lines={name: curves[key][:, columns].T for name, key in _LINES.items()},
        panels=["z500", "t850"],
        title=f"RMSE by lead, {label}",
        x_label="days",
        y_labels=["m2/s2", "K"],
    )


def _scores(found: Verification, *, acc_wb2: bool) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Metrics by name, and per-date values of those that intervals are drawn for; a diverged lead has none."""
    metrics: dict[str, float] = {}
    samples: dict[str, NDArray[np.float64]] = {}
    for hours in [lead for lead in LEADS_HOURS if lead in found.hours]:
        for channel in ("z500", "t850"):
            metrics[f"rmse_{channel}_{hours}h"] = found.rmse(channel, hours)
        metrics[f"persistence_rmse_z500_{hours}h"] = found.rmse("z500", hours, "persistence")
        metrics[f"acc_z500_{hours}h"] = (found.acc_wb2 if acc_wb2 else found.acc_pooled)("z500", hours)
        samples[f"rmse_z500_{hours}h_squared"] = found.of("error", "z500", hours).copy()
        samples[f"persistence_rmse_z500_{hours}h_squared"] = found.of("persistence", "z500", hours).copy()
    if LEADS_HOURS[0] in found.hours:
        metrics["skill_ratio_24h"] = metrics["rmse_z500_24h"] / metrics["persistence_rmse_z500_24h"]
    metrics["climatology_rmse_z500"] = found.rmse("z500", found.hours[-1], "climatology")
    finite = {name: value for name, value in metrics.items() if np.isfinite(value)}
    return finite, {name: values for name, values in samples.items() if np.isfinite(values).all()}


def _stable_days(found: Verification) -> float:
    """Days until the first forecast leaves the published bound of outliers."""
    broken = np.sqrt(found.values[:, :, found.channels.index("z500"), 0]) > OUTLIER_Z500_RMSE
    firsts = np.where(broken.any(1), broken.argmax(1), len(found.hours))
    return float(firsts.min()) / 4
