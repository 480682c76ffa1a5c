"""Gaussian random fields on the torus: the initial vorticity (Karlbauer et al. 2024, section 3.1, after Li et al. 2021).

The Fourier coefficient at wavenumber k (in cycles) is ``sqrt_eigenvalue(k) (a + i b)`` with a, b ~ N(0, 1) independent at
every k, and the field is the real part of the inverse transform. A field is a pure function of its seed, set and index.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from results.errors import ConfigError

#: Sets of trajectories and the number each enters its random key with.
SPLITS = {"train": 0, "val": 1, "test": 2}


def sqrt_eigenvalues(resolution: int, *, alpha: float = 2.5, tau: float = 7.0) -> NDArray[np.float64]:
    """Spectral standard deviation ``[s, s]``, zero at k = 0::

        s^2 sqrt(2) tau^(alpha - 1) (4 pi^2 |k|^2 + tau^2)^(-alpha / 2)

    Args:
        resolution: grid points s along each side.
        alpha: fall-off of the spectrum; 2.5 for the published data.
        tau: inverse correlation length, in 1/length.

    Raises:
        ConfigError: alpha <= 1 (the variance would grow without bound as the grid is refined) or tau <= 0.
    """
    if not alpha > 1.0:
        raise ConfigError(f"alpha {alpha} is not above 1: the field would have no finite variance", where="data.alpha")
    if not tau > 0.0:
        raise ConfigError(f"tau {tau} is not positive", where="data.tau")
    k = np.fft.fftfreq(resolution, 1.0 / resolution)
    squared = k[:, None] ** 2 + k[None, :] ** 2
    sigma = tau ** (0.5 * (2.0 * alpha - 2.0))
    spectrum: NDArray[np.float64] = (
        resolution**2 * math.sqrt(2.0) * sigma * (4.0 * math.pi**2 * squared + tau**2) ** (-alpha / 2.0)
    )
    spectrum[0, 0] = 0.0
    return spectrum


def pointwise_std(resolution: int, *, alpha: float = 2.5, tau: float = 7.0) -> float:
    """Standard deviation of the field at any point, in 1/time: 0.26195 for alpha 2.5 on 64 x 64."""
    return float(np.sqrt((sqrt_eigenvalues(resolution, alpha=alpha, tau=tau) ** 2).sum())) / resolution**2


def gaussian_fields(
    resolution: int, split: str, samples: Iterable[int], *, seed: int, alpha: float = 2.5, tau: float = 7.0
) -> NDArray[np.float64]:
    """Fields of the named samples, ``[len(samples), s, s]``, each with zero mean, in 1/time.

    Args:
        resolution: grid points s along each side.
        split: ``train``, ``val`` or ``test``.
        samples: indices within the set; each is a stream of its own, whatever else is drawn.
        seed: of the whole store, 0 .. 2^64 - 1.
        alpha: see :func:`sqrt_eigenvalues`.
        tau: see :func:`sqrt_eigenvalues`.

    Raises:
        ConfigError: an unknown set, or a seed or parameter out of range.
    """
    if split not in SPLITS:
        raise ConfigError(f"there is no set '{split}'; known: {', '.join(SPLITS)}", where="split")
    if not 0 <= seed < 2**64:
        raise ConfigError(f"store seed {seed} is not in 0 .. 2^64 - 1", where="data.store_seed")
    spectrum = sqrt_eigenvalues(resolution, alpha=alpha, tau=tau)
    coefficients = [_draw(resolution, (SPLITS[split] << 56) | sample, seed) for sample in samples]
    if not coefficients:
        return np.empty((0, resolution, resolution))
    fields: NDArray[np.float64] = np.fft.ifft2(np.stack(coefficients) * spectrum).real
    return fields


def _draw(resolution: int, stream: int, seed: int) -> NDArray[np.complex128]:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
    real, imaginary = generator.standard_normal((2, resolution, resolution))
    drawn: NDArray[np.complex128] = real + 1j * imaginary
    return drawn
