"""A short climate that several files look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dlwp.weather.atmosphere.quasi_geostrophic import simulate

torch.set_num_threads(1)

FRAMES = 120


@dataclass(frozen=True)
class Climate:
    """30 days of spun-up members: two in January, two in July.

    Attributes:
        psi: ``[4, frames, 3, l, m]``.
        times: ``[4, frames]``.
    """

    psi: Tensor
    times: NDArray[np.datetime64]

    def each(self, look: Callable[[Tensor, NDArray[np.datetime64]], NDArray[np.float32]]) -> NDArray[np.float64]:
        """What ``look`` sees of each member, stacked."""
        return np.stack([look(psi, times) for psi, times in zip(self.psi, self.times, strict=True)]).astype(np.float64)


@pytest.fixture(scope="package")
def climate() -> Climate:
    starts = np.array(["2001-01-10", "2002-01-10", "2001-07-10", "2002-07-10"], dtype="datetime64[ns]")
    states = torch.stack(list(simulate([1, 2, 3, 4], starts, FRAMES, spin_up_days=90.0)), 1)
    return Climate(states, starts[:, None] + np.arange(FRAMES) * np.timedelta64(6, "h"))
