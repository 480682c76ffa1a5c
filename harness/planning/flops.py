"""FLOP formulas for operations that torch's counter leaves out or counts as if they were real.

torch counts a multiply-add as 2. A complex multiply-add is four real ones: 8. An FFT of n points counts 5 n log2(n), one of
real data half of that (the textbook split-radix figure, used by benchFFT), times the number of transforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils import flop_counter

aten = torch.ops.aten


def _complex_factor(*tensors: Any) -> int:
    return 4 if any(isinstance(tensor, torch.Tensor) and tensor.is_complex() for tensor in tensors) else 1


def _mm(a: Any, b: Any, *rest: Any, out_val: Any = None, **_: Any) -> int:
    return int(_complex_factor(a, b) * 2 * a.shape[0] * a.shape[1] * b.shape[1])


def _addmm(c: Any, a: Any, b: Any, *rest: Any, out_val: Any = None, **_: Any) -> int:
    return _mm(a, b)


def _bmm(a: Any, b: Any, *rest: Any, out_val: Any = None, **_: Any) -> int:
    return int(_complex_factor(a, b) * 2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2])


def _baddbmm(c: Any, a: Any, b: Any, *rest: Any, out_val: Any = None, **_: Any) -> int:
    return _bmm(a, b)


def _fft(shape: Any, dims: Any, *, real: bool) -> int:
    points = math.prod(shape[dim] for dim in dims)
    transforms = math.prod(shape) // max(points, 1)
    total = 5 * points * math.log2(max(points, 2)) * transforms
    return int(total / 2 if real else total)


def _fft_r2c(x: Any, dims: Any, *rest: Any, out_val: Any = None, **_: Any) -> int:
    return _fft(x.shape, dims, real=True)


def _fft_c2r(x: Any, dims: Any, *rest: Any, out_val: Any = None, **_: Any) -> int:
    return _fft(out_val.shape, dims, real=True)


def _fft_c2c(x: Any, dims: Any, *rest: Any, out_val: Any = None, **_: Any) -> int:
    return _fft(x.shape, dims, real=False)


@cache
def formulas() -> dict[Any, Callable[..., Any]]:
    """From operator packet to a function ``(*args, out_val=output, **kwargs) -> FLOPs``: torch's registry with ours on top."""
    ours: dict[Any, Callable[..., Any]] = {
        aten.mm: _mm,
        aten.addmm: _addmm,
        aten.bmm: _bmm,
        aten.baddbmm: _baddbmm,
        aten._fft_r2c: _fft_r2c,
        aten._fft_c2r: _fft_c2r,
        aten._fft_c2c: _fft_c2c,
    }
    return {**flop_counter.flop_registry, **ours}
