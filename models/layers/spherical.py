"""Spherical-harmonic transforms on any rows of latitudes, as matrix products, and the spectral layer of spherical neural
operators (Bonev et al. 2023).

A field is ``[width, height, batch, channel]``, coefficients ``[degree, part, order * batch, channel]``, real and imaginary parts
apart: what a layer multiplies by one matrix per degree lies together, and no step has to reorder what the one before it wrote.

Analysis solves the least-squares problem of every order under the rows' area weights. On Gaussian latitudes that is nearly the
usual quadrature (matrices differ by a thousandth, what they give of a field that has no more degrees by nothing); on cell
centres, where a quadrature of the areas is not exact, fields of up to as many degrees as there are rows still come back as they
were.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.layers.precision import full_precision


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

    def adjoint(self) -> SphericalTransform:
        """Whose analysis is the adjoint of this one's synthesis, and the other way round."""
        return SphericalTransform(self.out_of_orders.T, self.out_of_degrees.mT, self.into_degrees.mT, self.into_orders.T)


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


def analyse(field: Tensor, basis: SphericalTransform, work: Tensor | None = None) -> Tensor:
    """Coefficients of a real field: ``[width, height, batch, channel]`` to ``[L, 2, M * batch, channel]``.

    Args:
        work: memory for what lies in between, used if it is enough; not that of the argument.
    """
    width, height, batch, channels = field.shape
    orders, _, degrees, _ = basis.into_degrees.shape
    rows = _memory(work, field, (2 * orders, height * batch * channels))
    torch.mm(basis.into_orders, field.reshape(width, -1), out=rows)
    parts = rows.view(orders, 2, height, -1)
    modes = field.new_empty(degrees, 2, orders, batch * channels)
    for part in range(2):
        torch.bmm(basis.into_degrees[:, 0], parts[:, part], out=modes[:, part].transpose(0, 1))
    return modes.view(degrees, 2, orders * batch, channels)


def synthesise(
    modes: Tensor, basis: SphericalTransform, batch: int, *, out: Tensor | None = None, work: Tensor | None = None
) -> Tensor:
    """The real field of coefficients, ``[width, height, batch, channel]``; see :func:`analyse`.

    Args:
        out: memory for the result.
    """
    orders, _, height, degrees = basis.out_of_degrees.shape
    if out is None:
        out = modes.new_empty(basis.out_of_orders.shape[0], height, batch, modes.shape[-1])
    wide = modes.view(degrees, 2, orders, -1)
    rows = _memory(work, modes, (2 * orders, height * wide.shape[-1]))
    parts = rows.view(orders, 2, height, -1)
    for part in range(2):
        torch.bmm(basis.out_of_degrees[:, 0], wide[:, part].transpose(0, 1), out=parts[:, part])
    torch.mm(basis.out_of_orders, rows, out=out.view(out.shape[0], -1))
    return out


def _memory(work: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor to be written to, in ``work`` if that is large enough."""
    if work is None or work.numel() < math.prod(shape):
        return like.new_empty(shape)
    return work.view(-1)[: math.prod(shape)].view(shape)


def _multiply(modes: Tensor, weight: Tensor, work: Tensor) -> Tensor:
    """Complex products ``[L, 2, row, in]`` by ``[2, L, in, out]`` in real ones."""
    (a, b), (real, imaginary) = modes.unbind(1), weight.unbind(0)
    out = _memory(work, modes, (*modes.shape[:3], weight.shape[-1]))
    first, second = out.unbind(1)
    torch.baddbmm(torch.bmm(a, real, out=first), b, imaginary, alpha=-1, out=first)
    torch.baddbmm(torch.bmm(a, imaginary, out=second), b, real, out=second)
    return out


class _Convolution(torch.autograd.Function):
    """Analyse, multiply by one complex matrix per degree, synthesise. Only coefficients are kept for backward, which is the same
    with the adjoint transforms and matrices; what lies in between is written into memory of what comes after it."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, weight: Tensor, *matrices: Tensor) -> Tensor:
        """``[width, height, batch, in]`` and ``[L, in, out, 2]``, both float32; ``matrices`` are those of the transform."""
        basis = SphericalTransform(*matrices)
        out = field.new_empty(*field.shape[:3], weight.shape[2])
        modes = analyse(field, basis, out)
        ctx.save_for_backward(modes, weight, *matrices)
        product = _multiply(modes, weight.permute(3, 0, 1, 2).contiguous(), out)
        return synthesise(product, basis, field.shape[2], out=out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        modes, weight, *matrices = ctx.saved_tensors
        basis = SphericalTransform(*matrices).adjoint()
        with full_precision(grad.device):
            grad_field = grad.new_empty(*grad.shape[:3], weight.shape[1])
            grad_modes = analyse(grad, basis, grad_field)
            (a, b), (real, imaginary) = modes.mT.unbind(1), grad_modes.unbind(1)
            grad_weight = torch.empty_like(weight)
            grad_weight[..., 0] = torch.baddbmm(torch.bmm(a, real), b, imaginary)
            grad_weight[..., 1] = torch.baddbmm(torch.bmm(a, imaginary), b, real, alpha=-1)
            adjoint = weight.permute(3, 0, 1, 2).clone(memory_format=torch.contiguous_format).mT
            adjoint[1].neg_()
            product = _multiply(grad_modes, adjoint, grad_field)
            synthesise(product, basis, grad.shape[2], out=grad_field, work=grad_modes)
        return grad_field, grad_weight, None, None, None, None


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
            out: Tensor = _Convolution.apply(field.float(), self.weight.float(), *basis)  # type: ignore[no-untyped-call]
            return out.to(field.dtype)
