"""bf16 autocast on meta tensors. torch knows none for them, and it is not half of everything: weights are cast and kept in both
types, sums and norms stay in fp32, and a step may hold more than in fp32.

The lists are CUDA's, torch 2.13, ``aten/src/ATen/autocast_mode.h``; those of a CPU leave normalisation in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from models.layers.precision import autocasting_meta, meta_autocasts

# fmt: off
#: Computed in bf16.
LOWER = frozenset([
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution", "linear",
    "matmul", "__matmul__", "__rmatmul__", "mm", "mv", "bmm", "baddbmm", "addmm", "addbmm", "addmv", "addr", "einsum",
    "chain_matmul", "multi_dot", "vecdot", "scaled_dot_product_attention", "prelu",
])
#: Computed in fp32.
FULL = frozenset([
    "layer_norm", "group_norm", "native_layer_norm", "exp", "expm1", "log", "log2", "log10", "log1p", "pow", "__pow__",
    "reciprocal", "rsqrt", "softplus", "tan", "acos", "asin", "cosh", "sinh", "erfinv", "logsumexp", "norm",
    "cosine_similarity", "nll_loss", "cross_entropy", "kl_div", "l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss",
    "binary_cross_entropy_with_logits", "cdist", "dist", "renorm",
])
#: Computed in fp32 unless their caller names a type.
FULL_RESULT = frozenset(["softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod", "vector_norm", "matrix_norm"])
# fmt: on


class _Autocast(TorchFunctionMode):
    """Casts what goes into the listed functions; weights once."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if meta_autocasts() and "out" not in kwargs:  # forms that write into a given tensor are not cast
            if name in LOWER:
                args, kwargs = tree_map(self._lowered, (args, kwargs))
            elif name in FULL:
                args, kwargs = tree_map(_raised, (args, kwargs))
            elif name in FULL_RESULT and kwargs.get("dtype") is None and any(map(_is_half, tree_leaves(args))):
                kwargs = {**kwargs, "dtype": torch.float32}
        return function(*args, **kwargs)

    def _lowered(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float16):
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self._weights:
            self._weights[id(value)] = value.to(torch.bfloat16)
        return self._weights[id(value)]


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def _raised(value: Any) -> Any:
    return value.float() if _is_half(value) else value


@contextmanager
def autocast_on_meta() -> Iterator[None]:
    """What ``torch.autocast(..., dtype=torch.bfloat16)`` does, for meta tensors."""
    with autocasting_meta(True), _Autocast():
        yield
