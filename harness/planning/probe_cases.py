"""The operators that a machine's profile is measured with, and their shapes: what forward and backward passes are made of.

Operators are called as autograd calls them (``torch.ops.aten``), forward and backward ones alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Probe:
    """One operator with operands of one shape, several sets of them."""

    function: Any
    operands: list[tuple[Any, ...]]
    options: dict[str, Any]


def probe(function: Any, make: Callable[[], tuple[Any, ...]], **options: Any) -> Probe:
    """A probe of ``function(*make(), **options)``."""
    return Probe(function if isinstance(function, torch._ops.OpOverload) else function.default, [make(), make()], options)


# Products -------------------------------------------------------------------------------------------------------------------

#: batch, rows, columns, inner; 't' walks the left operand along its columns, as the gradient of a weight does.
PRODUCTS = (
    (1, 8, 8, 8, ""), (1, 16, 4096, 16, ""), (1, 64, 4096, 4, ""), (1, 64, 4096, 64, ""), (1, 4096, 64, 64, ""),
    (1, 64, 64, 4096, "t"), (1, 10, 32768, 32, ""), (1, 32, 32768, 10, ""), (1, 256, 256, 256, ""), (1, 1024, 1024, 256, ""),
    (1, 4096, 16, 64, "t"), (1, 12, 64, 4096, "t"), (1, 1, 4096, 64, ""), (1, 4096, 4, 4, ""), (1, 1024, 96, 24, ""),
    (5, 16, 512, 64, ""), (5, 64, 512, 16, "t"), (40, 4, 12, 12, ""), (40, 16, 48, 48, ""), (16, 64, 64, 64, ""),
    (4, 256, 24, 6, ""), (5, 16, 48, 64, ""), (5, 64, 96, 16, ""), (9, 34, 128, 34, ""), (32, 8, 8, 8, ""), (40, 12, 12, 16, "t"),
    (8, 256, 64, 64, ""),
)  # fmt: skip
COMPLEX = (
    (40, 4, 4, 4, ""), (40, 4, 12, 12, ""), (40, 4, 24, 24, "t"), (40, 16, 48, 48, ""), (40, 12, 12, 16, "t"), (4, 512, 6, 6, ""),
    (4, 6, 6, 512, "t"), (4, 1024, 24, 24, ""), (1, 160, 12, 12, ""), (1, 640, 24, 24, "t"), (1, 12, 12, 640, "t"),
    (1, 8, 256, 8, ""), (1, 40, 6, 6, ""), (1, 256, 64, 64, ""), (1, 5, 7, 64, ""), (4, 144, 10, 10, ""), (4, 10, 10, 144, "t"),
)  # fmt: skip


def _operands(batch: int, rows: int, columns: int, inner: int, walk: str, kind: torch.dtype) -> tuple[Any, ...]:
    left = torch.randn(batch, inner, rows, dtype=kind).mT if walk else torch.randn(batch, rows, inner, dtype=kind)
    right = torch.randn(batch, inner, columns, dtype=kind)
    return (left[0], right[0]) if batch == 1 else (left, right)


def products() -> Iterator[Probe]:
    """Real and complex matrix products, single and batched."""
    for shapes, kind in ((PRODUCTS, torch.float32), (COMPLEX, torch.complex64)):
        for shape in shapes:
            yield probe(aten.mm if shape[0] == 1 else aten.bmm, partial(_operands, *shape, kind))


# Convolutions ---------------------------------------------------------------------------------------------------------------

#: batch, channels in and out, points per side, points of the kernel per side.
CONVOLUTIONS = (
    (4, 1, 2, 34, 3), (4, 4, 3, 36, 3), (4, 2, 2, 34, 3), (4, 8, 8, 18, 3), (4, 16, 8, 34, 3), (4, 24, 24, 10, 3),
    (4, 48, 48, 4, 3), (4, 96, 48, 6, 3), (4, 64, 64, 34, 3), (16, 13, 52, 34, 3), (4, 26, 52, 34, 3), (4, 8, 1, 34, 3),
    (4, 4, 1, 32, 1), (4, 32, 64, 16, 1),
)  # fmt: skip


#: Stride, padding, dilation, not transposed, output padding, groups.
_PLAIN = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)


def _field_and_kernel(layout: Any, batch: int, enter: int, leave: int, side: int, kernel: int) -> tuple[Any, ...]:
    field = torch.randn(batch, enter, side, side).contiguous(memory_format=layout)
    return (field, torch.randn(leave, enter, kernel, kernel), torch.randn(leave), *_PLAIN)


def _gradients(layout: Any, *shape: int) -> tuple[Any, ...]:
    field, weight, bias, *_ = _field_and_kernel(layout, *shape)
    grad = torch.randn_like(aten.convolution(field, weight, bias, *_PLAIN)).contiguous(memory_format=layout)
    return (grad, field, weight, [weight.shape[0]], *_PLAIN, [True, True, True])


def convolutions(layout: torch.memory_format) -> Iterator[Probe]:
    """Convolutions and their gradients, of fields laid out as ``layout``."""
    for shape in CONVOLUTIONS:
        yield probe(aten.convolution, partial(_field_and_kernel, layout, *shape))
        yield probe(aten.convolution_backward, partial(_gradients, layout, *shape))


def transforms() -> Iterator[Probe]:
    """Fourier transforms over two dimensions of real and of complex fields."""
    for batch, side in ((4, 16), (16, 64), (64, 64), (4, 256)):
        shape = (batch, side, side)
        yield probe(aten._fft_r2c, lambda shape=shape: (torch.randn(shape), [1, 2], 0, True))  # type: ignore[misc]
        yield probe(aten._fft_c2c, lambda shape=shape: (torch.randn(shape, dtype=torch.complex64), [1, 2], 0, True))  # type: ignore[misc]


def views() -> Iterator[Probe]:
    """Operators that compute nothing."""
    for _ in range(8):
        yield probe(aten.t, lambda: (torch.randn(4, 4),))
        yield probe(aten.view, lambda: (torch.randn(4, 4), [2, 8]))
        yield probe(aten.slice.Tensor, lambda: (torch.randn(4, 4), 0, 1, 3))
        yield probe(aten.permute, lambda: (torch.randn(4, 4, 4), [2, 0, 1]))


# Elementwise ----------------------------------------------------------------------------------------------------------------

#: Elements of an operand: fixed cost, inner caches, outer cache, memory.
ELEMENTS = (64, 1 << 14, 1 << 18, 1 << 21)
#: Operands that a group of probes goes round: more than the inner caches hold.
POOL_ELEMENTS = 1 << 21


def elementwise(elements: int) -> Iterator[Probe]:
    """Operators whose time goes by bytes, on fields of so many elements; all share a pool of operands."""
    rows = max(elements // 64, 1)
    held = max(min(POOL_ELEMENTS // elements, 64), 4)
    pool = itertools.cycle([torch.randn(rows, elements // rows) for _ in range(held)])

    def field() -> Any:
        return next(pool)

    def grid() -> Any:
        height, width = max(elements // 256, 2), max(min(elements // 8, 64), 2)
        return torch.randn(1, 4, height, width).contiguous(memory_format=torch.channels_last)

    def normed() -> tuple[Any, ...]:
        x, width = field(), elements // rows
        _, mean, scale = aten.native_layer_norm(x, [width], None, None, 1e-5)
        return (field(), x, [width], mean, scale, torch.ones(width), torch.zeros(width), [True, True, True])

    one, two = (lambda: (field(),)), (lambda: (field(), field()))
    yield probe(aten.mul.Tensor, two)
    yield probe(aten.add.Tensor, two)
    yield probe(aten.relu, one)
    yield probe(aten.threshold_backward, lambda: (field(), field(), 0))
    for name in ("gelu", "tanh", "sigmoid", "exp", "silu"):
        yield probe(getattr(aten, name), one)
    for name in ("gelu_backward", "tanh_backward", "sigmoid_backward", "silu_backward"):
        yield probe(getattr(aten, name), two)
    yield probe(aten.clone, one)
    yield probe(aten.clone, lambda: (field().t(),), memory_format=torch.contiguous_format)
    yield probe(aten.cat, lambda: ([field(), field()], 0))
    yield probe(aten.sum, one)
    yield probe(aten.slice_backward, lambda: (field(), [rows + 2, elements // rows], 0, 1, rows + 1, 1))
    yield probe(aten.native_layer_norm, lambda: (field(), [elements // rows], None, None, 1e-5))
    yield probe(aten.native_layer_norm_backward, normed)
    yield probe(aten._softmax, lambda: (field(), 1, False))
    yield probe(aten.avg_pool2d, lambda: (grid(), [2, 2]))
    yield probe(aten.softshrink, lambda: (field(), 0.01))
