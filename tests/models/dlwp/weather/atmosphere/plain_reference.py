"""The quasi-geostrophic model as one would first write it: one member, one field at a time, complex coefficients ``[l, m]``.

It shares no code with the fast model: Legendre functions by recurrence, sums over degrees by ``einsum``, sums over orders by a
fast Fourier transform, a linear solve for each degree. It checks the fast model's results and is what its speed is compared with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.complex128]
Real = NDArray[np.float64]

RADIUS, OMEGA, DAY = 6.371e6, 7.292e-5, 86400.0
T, LAT, LON = 21, 32, 64
R1, R2 = 700e3, 450e3
PEAKS = [(3000.0, 35.0, 90.0, 15.0), (2000.0, 45.0, 250.0, 12.0), (2000.0, -25.0, 290.0, 8.0), (2500.0, -80.0, 90.0, 20.0)]


def legendre(degrees: int, x: Real) -> tuple[Real, Real]:
    """Orthonormal functions with the phase (-1)^m and cos(lat) times their derivative by latitude, ``[m, l, lat]`` each."""
    p = np.zeros((degrees + 1, degrees + 2, len(x)))
    e = np.array([[np.sqrt(max(n * n - m * m, 0) / (4 * n * n - 1)) for n in range(degrees + 2)] for m in range(degrees + 1)])
    sectoral = np.full(len(x), np.sqrt(1 / (4 * np.pi)))
    for m in range(degrees + 1):
        if m:
            sectoral = -sectoral * np.sqrt((2 * m + 1) / (2 * m) * (1 - x**2))
        p[m, m] = sectoral
        p[m, m + 1] = x * sectoral / e[m, m + 1]
        for n in range(m + 2, degrees + 2):
            p[m, n] = (x * p[m, n - 1] - e[m, n - 1] * p[m, n - 2]) / e[m, n]
    slope = np.zeros_like(p)
    for m in range(degrees + 1):
        for n in range(m, degrees + 1):
            slope[m, n] = -n * e[m, n + 1] * p[m, n + 1] + ((n + 1) * e[m, n] * p[m, n - 1] if n > m else 0)
    return p[:, :-1], slope[:, :-1]


class PlainModel:
    """Default parameters of the fast model; ``damped`` False leaves advection alone."""

    def __init__(self, damped: bool = True, step_h: float = 1.0) -> None:
        self.damped, self.step = damped, 3600.0 * step_h
        self.x, self.weight = np.polynomial.legendre.leggauss(LAT)
        self.p, self.slope = legendre(T, self.x)
        self.order = np.arange(T + 1)
        self.lap = np.array([-n * (n + 1) / RADIUS**2 for n in range(T + 1)])
        i1, i2 = R1**-2, R2**-2
        self.coupling = np.array([[i1, -i1, 0], [-i1, i1 + i2, -i2], [0, -i2, i2]])
        f = 2 * OMEGA * self.x[:, None] + np.zeros((1, LON))
        self.background = [self.analysis(f), self.analysis(f), self.analysis(f * (1 + self.ground() / 9000.0))]

    def ground(self) -> Real:
        lat, lon = np.arcsin(self.x)[:, None], 2 * np.pi / LON * np.arange(LON)[None, :]
        total = np.zeros((LAT, LON))
        for height, lat0, lon0, radius in PEAKS:
            a, b = np.radians(lat0), np.radians(lon0)
            cosine = np.sin(lat) * np.sin(a) + np.cos(lat) * np.cos(a) * np.cos(lon - b)
            total += height * np.exp(-((np.degrees(np.arccos(np.clip(cosine, -1, 1))) / radius) ** 2))
        return total

    def synthesis(self, c: Array, functions: Real) -> Real:
        orders = np.einsum("lm,mlj->jm", c, functions)
        return np.fft.irfft(np.pad(orders, ((0, 0), (0, LON // 2 - T))), n=LON, norm="forward")

    def analysis(self, field: Real, functions: Real | None = None, weight: Real | None = None) -> Array:
        orders = np.fft.rfft(field, norm="forward")[:, : T + 1]
        weight = self.weight if weight is None else weight
        return 2 * np.pi * np.einsum("j,jm,mlj->lm", weight, orders, self.p if functions is None else functions)

    def advection(self, psi: Array, q: Array) -> Array:
        """``-div(v q)`` by the components of the wind and the flux form."""
        wind_east = -self.synthesis(psi, self.slope) / RADIUS
        wind_north = self.synthesis(1j * self.order * psi, self.p) / RADIUS
        tracer = self.synthesis(q, self.p)
        divided = self.weight / (1 - self.x**2)
        east = self.analysis(wind_east * tracer, self.p, divided)
        north = self.analysis(wind_north * tracer, self.slope, divided)
        return -(1j * self.order * east - north) / RADIUS

    def shear(self, season: float) -> Array:
        """Streamfunction whose zonal wind is the profile of the forcing with a maximum of 1 m/s in the yearly mean."""
        lat = np.arcsin(self.x)
        wind = np.sin(2 * lat) ** 2 * (1 + 0.35 * season * np.sign(lat) * np.tanh(4 * np.abs(np.sin(lat))))
        field = (wind * np.cos(lat))[:, None] + np.zeros((1, LON))
        vorticity = self.analysis(field, self.slope, self.weight / (1 - self.x**2)) / RADIUS
        return np.concatenate([np.zeros((1, T + 1)), vorticity[1:] / self.lap[1:, None]])

    def streamfunctions(self, q: Array) -> Array:
        psi = np.zeros_like(q)
        for n in range(1, T + 1):
            psi[:, n] = np.linalg.solve(self.lap[n] * np.eye(3) - self.coupling, q[:, n])
        return psi

    def vorticities(self, psi: Array) -> Array:
        return self.lap[:, None] * psi - np.einsum("ij,jlm->ilm", self.coupling, psi)

    def tendency(self, q: Array, day: float) -> Array:
        """dq/dt, ``[3, l, m]``, ``day`` days after 1 January 2000."""
        psi = self.streamfunctions(q)
        rate = np.array([self.advection(psi[i], q[i] + self.background[i]) for i in range(3)])
        if self.damped:
            shear = self.shear(np.cos(2 * np.pi * (day - 15) / 365.2425))
            upper = (psi[0] - psi[1] - 20 * shear) / (25 * DAY * R1**2)
            lower = (psi[1] - psi[2] - 14 * shear) / (25 * DAY * R2**2)
            rate[0] += upper
            rate[1] += lower - upper
            rate[2] -= lower + self.lap[:, None] * psi[2] / (3 * DAY)
        return rate

    def advance(self, psi: Array, day: float, steps: int) -> Array:
        """Streamfunctions after some steps."""
        q, h = self.vorticities(psi), self.step
        degree = np.arange(T + 1)
        decay = np.exp(-h / (2 * DAY) * (degree * (degree + 1) / (T * (T + 1))) ** 4)[:, None]
        for step in range(steps):
            now = day + step * h / DAY
            k1 = self.tendency(q, now)
            k2 = self.tendency(q + h / 2 * k1, now + h / 2 / DAY)
            k3 = self.tendency(q + h / 2 * k2, now + h / 2 / DAY)
            k4 = self.tendency(q + h * k3, now + h / DAY)
            q = (q + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)) * (decay if self.damped else 1)
        return self.streamfunctions(q)
