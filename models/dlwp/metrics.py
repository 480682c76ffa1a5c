"""Closed-loop error of Navier-Stokes forecasts, kept per sample so that intervals can be drawn from it.

RMSE = sqrt(mean over samples, points and closed-loop outputs TF .. L-2 of the squared error) (paper, Navier-Stokes results).
All windows have equally many outputs and points, so the mean over samples of per-sample means is that mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def squared_error(forecast: Tensor, frames: Tensor, first_output: int) -> Tensor:
    """Mean squared error of each sample over outputs ``first_output`` and later.

    Args:
        forecast: ``[batch, length - 1 - first_output, 1, height, width]``: forecasts of frames first_output+1 .. L-1.
        frames: the truth, ``[batch, length, 1, height, width]``.

    Returns:
        float64 ``[batch]``.
    """
    truth = frames[:, first_output + 1 :]
    if forecast.shape != truth.shape:
        raise ValueError(f"forecast {tuple(forecast.shape)} is not rated on targets {tuple(truth.shape)}")
    return (forecast.double() - truth.double()).square().flatten(1).mean(1)


def root_mean(squared: NDArray[np.float64]) -> float:
    """Root of the mean of per-sample squared errors."""
    return float(np.sqrt(np.mean(squared)))


def scores(samples: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The system's metrics from ``rmse_squared``, ``persistence_rmse_squared`` and ``climatology_rmse_squared`` per sample."""
    out = {name.removesuffix("_squared"): root_mean(values) for name, values in samples.items()}
    out["skill_ratio"] = out["rmse"] / out["persistence_rmse"]
    return out
