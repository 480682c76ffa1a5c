"""How good forecasts are: area-weighted squared errors and anomaly products of every date, lead and channel.

RMSE = sqrt(mean over dates of the area-weighted mean of the squared error): the root is taken last. Anomaly correlation, pooled:
sum of f' o' over dates and area / sqrt(sum f'^2 sum o'^2), anomalies against the monthly climatology of the training period; as
WeatherBench 2 has it: the correlation of every date, then the mean over dates (there against a climatology of days and hours).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

#: What is kept of a date, a lead and a channel.
QUANTITIES = ("error", "persistence", "climatology", "product", "forecast_power", "truth_power")


@dataclass(frozen=True, eq=False)
class Verification:
    """Sums over area, in SI units squared.

    Attributes:
        values: ``[date, lead, channel, quantity]``, quantities as in :data:`QUANTITIES`.
        channels: ids.
        hours: lead times.
    """

    values: Array
    channels: tuple[str, ...]
    hours: Sequence[int]

    def of(self, quantity: str, channel: str, hours: int) -> Array:
        """One quantity by date, ``[date]``.

        Raises:
            ValueError: the channel or lead was not rated.
        """
        return self.values[:, list(self.hours).index(hours), self.channels.index(channel), QUANTITIES.index(quantity)]

    def rmse(self, channel: str, hours: int, quantity: str = "error") -> float:
        """Root of the mean over dates."""
        return float(np.sqrt(self.of(quantity, channel, hours).mean()))

    def acc_pooled(self, channel: str, hours: int) -> float:
        """Anomaly correlation with sums over dates; NaN where a forecast is infinitely wrong."""
        product, forecast, truth = (self.of(name, channel, hours).sum() for name in QUANTITIES[3:])
        with np.errstate(invalid="ignore"):  # what is infinite has no correlation
            return float(product / np.sqrt(forecast * truth))

    def acc_wb2(self, channel: str, hours: int) -> float:
        """Mean over dates of the anomaly correlation of each."""
        product, forecast, truth = (self.of(name, channel, hours) for name in QUANTITIES[3:])
        with np.errstate(invalid="ignore"):
            return float((product / np.sqrt(forecast * truth)).mean())

    def curves(self) -> Mapping[str, Array]:
        """RMSE by lead and channel, ``[lead, channel]``, of the forecast, of persistence and of climatology."""
        return {name: np.sqrt(self.values[..., index].mean(0)) for index, name in enumerate(QUANTITIES[:3])}


def rate(forecast: Tensor, truth: Tensor, first: Tensor, climatology: Tensor, weights: Tensor) -> Tensor:
    """Sums of one batch.

    Args:
        forecast, truth: ``[date, lead, channel, lat, lon]``, SI units.
        first: the state forecasts start from, ``[date, channel, lat, lon]``.
        climatology: of each valid time, shaped as ``truth``.
        weights: area weights of mean 1, ``[lat, 1]``.

    Returns:
        float64 ``[date, lead, channel, quantity]``; an error that is not finite is infinite.
    """
    weights = weights.double()

    def mean(values: Tensor) -> Tensor:
        return (values * weights).mean((-2, -1))

    channels = []
    for channel in range(truth.shape[2]):  # one at a time: double precision of all would be the largest arrays of a run
        made, real, usual = (fields[:, :, channel].double() for fields in (forecast, truth, climatology))
        start = first[:, channel].double().unsqueeze(1)
        anomaly, true_anomaly = made - usual, real - usual
        sums = [
            mean((made - real).square()),
            mean((start - real).square()),
            mean(true_anomaly.square()),
            mean(anomaly * true_anomaly),
            mean(anomaly.square()),
            mean(true_anomaly.square()),
        ]
        channels.append(torch.stack(sums, dim=-1))
    found = torch.stack(channels, dim=2)
    return torch.where(found.isfinite(), found, math.inf)


def crps(members: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ensemble scores of one lead (fair form, Ferro 2014).

    Args:
        members: ``[member, date, lat, lon]``.
        truth: ``[date, lat, lon]``.

    Returns:
        per date: area-weighted mean CRPS, squared error of the mean, and variance of the members (unbiased).
    """
    count = members.shape[0]
    wide, weights = members.double(), weights.double()
    apart = (wide - truth.double()).abs().mean(0)
    ordered = wide.sort(0).values
    # The mean absolute difference of all pairs from ranks: sum over i of (2 i - n + 1) x_(i).
    ranks = (2 * torch.arange(count, device=wide.device, dtype=torch.float64) - count + 1).view(-1, 1, 1, 1)
    between = (ranks * ordered).sum(0) / (count * max(count - 1, 1))
    score = (apart - between) * weights
    error = (wide.mean(0) - truth.double()).square() * weights
    spread = wide.var(0, unbiased=True) * weights if count > 1 else torch.zeros_like(error)
    return score.mean((-2, -1)), error.mean((-2, -1)), spread.mean((-2, -1))


def zonal_power(field: Tensor) -> Tensor:
    """Power of zonal wavenumbers, ``[.., lat, lon] -> [.., lat, lon // 2 + 1]``: the sum over wavenumbers is the mean square of
    the row. The highest wavenumber of an even number of points is its own mirror image and counts once."""
    points = field.shape[-1]
    power = torch.fft.rfft(field.double(), norm="forward").abs().square()
    power[..., 1 : (points + 1) // 2] *= 2
    return power


def mid_latitudes(latitudes_deg: Array) -> NDArray[np.bool_]:
    """Which rows lie between 30 and 60 degrees, in either hemisphere."""
    return np.asarray((np.abs(latitudes_deg) >= 30) & (np.abs(latitudes_deg) <= 60))


def spectral_ratio(forecast: Tensor, truth: Tensor, latitudes_deg: Array, *, first: int) -> float:
    """Power at wavenumbers ``first`` and up between 30 and 60 degrees, both hemispheres, forecast over truth.

    Args:
        forecast, truth: ``[.., lat, lon]``, averaged over leading dimensions.
    """
    band = torch.from_numpy(mid_latitudes(latitudes_deg))
    powers = [zonal_power(field)[..., band, first:].sum() for field in (forecast, truth)]
    return float(powers[0] / powers[1])
