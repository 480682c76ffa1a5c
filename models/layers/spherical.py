"""Spherical-harmonic transforms on any rows of latitudes, as matrix products, and the spectral layer of spherical neural
operators (Bonev et al. 2023).

A field is ``[width, height, batch, channel]``, coefficients ``[degree, order * batch, channel]``: what a layer multiplies by one
matrix per degree lies together.

Analysis solves the least-squares problem of every order under the rows' area weights. On Gaussian latitudes that is nearly the
usual quadrature (matrices differ by a thousandth, what they give of a field that has no more degrees by nothing); on cell
centres, where a quadrature of the areas is not exact, fields of up to as many degrees as there are rows still come back as they
were.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.layers.precision import full_precision
from models.layers.spectral import as_complex


class SphericalTransform(NamedTuple):
    """Matrices of one transform, float32.

    Attributes:
        into_orders: ``[2 M, W]``, rows (order, part).
        into_degrees: ``[M, 1, L, H]``.
        out_of_degrees: ``[M, 1, H, L]``.
        out_of_orders: ``[W, 2 M]``, columns (order, part).
    """

    into_orders: Tensor
    into_degrees: Tensor
    out_of_degrees: Tensor
    out_of_orders: Tensor


def legendre(latitudes_deg: NDArray[np.float64], degrees: int, orders: int) -> NDArray[np.float64]:
    """Orthonormal associated Legendre functions, ``[order, latitude, degree]``, zero where the order exceeds the degree.

    ``2 pi`` times the integral of their squares over the sine of latitude is 1 (so that a harmonic is ``P e^{i m lon}``).
    Computed by the three-term recurrence from the diagonal, which is stable upwards in degree.
    """
    x = np.sin(np.radians(latitudes_deg))
    cosine = np.sqrt(1 - x * x)
    table = np.zeros((orders, x.size, degrees))
    diagonal = np.full(x.size, np.sqrt(1 / (4 * np.pi)))
    for m in range(min(orders, degrees)):
        if m:
            diagonal = -np.sqrt((2 * m + 1) / (2 * m)) * cosine * diagonal
        table[m, :, m] = diagonal
        if m + 1 < degrees:
            table[m, :, m + 1] = np.sqrt(2 * m + 3) * x * diagonal
        for degree in range(m + 2, degrees):
            a = np.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            b = np.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
            table[m, :, degree] = a * (x * table[m, :, degree - 1] - b * table[m, :, degree - 2])
    return table


def matrices(latitudes_deg: NDArray[np.float64], width: int, degrees: int, orders: int) -> tuple[NDArray[np.float64], ...]:
    """The matrices of :class:`SphericalTransform` in float64.

    Raises:
        ValueError: more degrees than rows, or more orders than half the columns hold.
    """
    height = latitudes_deg.size
    if degrees > height or orders > width // 2 + 1:
        raise ValueError(f"{degrees} degrees and {orders} orders do not fit {height} rows of {width} points")
    m = np.arange(orders)
    angle = 2 * np.pi * np.outer(m, np.arange(width)) / width
    into_orders = np.stack([np.cos(angle), -np.sin(angle)], axis=1).reshape(2 * orders, width) / width
    twice = np.where((m == 0) | (2 * m == width), 1.0, 2.0)[:, None]
    out_of_orders = np.stack([twice * np.cos(angle), -twice * np.sin(angle)], axis=1).reshape(2 * orders, width).T
    functions = legendre(latitudes_deg, degrees, orders)
    root = np.sqrt(np.cos(np.radians(latitudes_deg)))[:, None]
    into_degrees = np.zeros((orders, degrees, height))
    for order in range(min(orders, degrees)):
        into_degrees[order, order:] = np.linalg.pinv(root * functions[order, :, order:], rcond=1e-10) * root.T
    return into_orders, into_degrees[:, None], functions[:, None], out_of_orders


_cache: dict[tuple[object, ...], SphericalTransform] = {}


def transform(
    latitudes_deg: tuple[float, ...], width: int, degrees: int, orders: int, device: torch.device
) -> SphericalTransform:
    """The transform on a device, made once; constants of the grid (see :func:`models.layers.spectral.transform`)."""
    key = (latitudes_deg, width, degrees, orders, device)
    found = _cache.get(key)
    if found is None and device.type == "meta":  # for planning: shapes alone, since the matrices of a large grid take minutes
        height = len(latitudes_deg)
        shapes = (2 * orders, width), (orders, 1, degrees, height), (orders, 1, height, degrees), (width, 2 * orders)
        return SphericalTransform(*(torch.empty(shape, device=device) for shape in shapes))
    if found is None:
        arrays = matrices(np.asarray(latitudes_deg), width, degrees, orders)
        with torch.inference_mode(False):
            found = SphericalTransform(*(torch.tensor(array, dtype=torch.float32, device=device) for array in arrays))
        if type(found.into_orders) is Tensor:  # never a tensor of a tracing or counting mode
            _cache[key] = found
    return found


def analyse(field: Tensor, basis: SphericalTransform) -> Tensor:
    """Coefficients of a real field: float32 ``[width, height, batch, channel]`` to complex64 ``[L, M * batch, channel]``."""
    width, height, batch, channels = field.shape
    orders, degrees = basis.into_degrees.shape[0], basis.into_degrees.shape[2]
    rows = torch.mm(basis.into_orders, field.reshape(width, -1)).view(orders, 2, height, batch * channels)
    pairs = torch.matmul(basis.into_degrees, rows).view(orders, 2, degrees, batch, channels)
    return torch.view_as_complex(pairs.permute(2, 0, 3, 4, 1).contiguous()).view(degrees, orders * batch, channels)


def synthesise(coefficients: Tensor, basis: SphericalTransform, batch: int) -> Tensor:
    """The real field of coefficients, float32 ``[width, height, batch, channel]``."""
    degrees, orders = coefficients.shape[0], basis.into_degrees.shape[0]
    pairs = torch.view_as_real(coefficients).view(degrees, orders, batch, -1, 2).permute(1, 4, 0, 2, 3)
    rows = torch.matmul(basis.out_of_degrees, pairs.reshape(orders, 2, degrees, -1))
    field = torch.mm(basis.out_of_orders, rows.view(2 * orders, -1))
    return field.view(field.shape[0], rows.shape[2], batch, -1)


class SphericalConv(nn.Module):
    """A convolution on the sphere: one complex matrix per degree (Driscoll and Healy 1994), shared by all orders.

    Real parameters: ``2 in out degrees``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, latitudes_deg: tuple[float, ...], width: int, *, degrees: int, orders: int
    ) -> None:
        super().__init__()
        self.grid = latitudes_deg, width, degrees, orders
        self.weight = nn.Parameter(torch.empty(degrees, in_channels, out_channels, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Complex normal numbers of variance 2 / in (twice that of a linear layer: an activation follows)."""
        nn.init.normal_(self.weight, 0.0, self.weight.shape[1] ** -0.5)

    def forward(self, field: Tensor) -> Tensor:
        """``[width, height, batch, in] -> [width, height, batch, out]``."""
        with full_precision(field.device):
            basis = transform(*self.grid, field.device)
            modes = torch.bmm(analyse(field.float(), basis), as_complex(self.weight))
            return synthesise(modes, basis, field.shape[2]).to(field.dtype)
