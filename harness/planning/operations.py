"""What one traced operator call is, in the numbers that its time depends on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from torch import Tensor

#: Operators whose time is that of a matrix product.
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class Family(StrEnum):
    """Operators whose times depend on the same quantities."""

    VIEW = "view"  # new strides on old memory
    PRODUCT = "product"  # dims: batch, rows, columns, inner
    CONVOLUTION = "convolution"  # dims: output points, in channels, out channels, points of the kernel
    CONVOLUTION_BACKWARD = "convolution_backward"  # likewise, with as many gradients as are asked for (1 or 2) last
    FOURIER = "fourier"  # dims: real points of all transforms
    ELEMENTWISE = "elementwise"  # everything else: by bytes


@dataclass(frozen=True, slots=True)
class Operation:
    """Calls of one operator at one shape.

    Attributes:
        name: the operator, without namespace, overload and the underscore of an in-place form.
        backward: called in the backward pass.
        dims: see :class:`Family`.
        moved_bytes: all inputs read and all outputs written once.
        strided: memory is not walked in order (a copy of a transposed tensor, a convolution whose channels lie apart).
    """

    name: str
    family: Family
    backward: bool
    dims: tuple[int, ...] = ()
    flops: int = 0
    moved_bytes: int = 0
    is_complex: bool = False
    strided: bool = False


def describe(function: Any, args: Any, out: Any, *, backward: bool, flops: int) -> Operation:
    """The operation behind one call; ``out`` is what it returned."""
    name = function._overloadpacket.__name__
    inputs = [leaf for argument in args for leaf in (argument if isinstance(argument, list | tuple) else (argument,))]
    tensors = [leaf for leaf in inputs if isinstance(leaf, Tensor)]
    outputs = [leaf for leaf in (out if isinstance(out, list | tuple) else (out,)) if isinstance(leaf, Tensor)]
    if is_view(function):
        return Operation(name, Family.VIEW, backward)
    moved = sum(tensor.numel() * tensor.element_size() for tensor in [*tensors, *outputs])
    is_complex = any(tensor.is_complex() for tensor in [*tensors, *outputs])
    common: dict[str, Any] = {"backward": backward, "flops": flops, "moved_bytes": moved, "is_complex": is_complex}
    if name in PRODUCTS:
        left, right = tensors[-2:]
        batch = left.shape[0] if left.dim() == 3 else 1
        shape = (batch, left.shape[-2], right.shape[-1], left.shape[-1])
        return Operation(name, Family.PRODUCT, dims=shape, **common)
    if name in ("convolution", "_convolution", "convolution_overrideable"):
        dims, plain = _convolution_dims(outputs[0], tensors[0], tensors[1]), _channels_apart(tensors[0])
        return Operation(name, Family.CONVOLUTION, dims=dims, strided=plain, **common)
    if name == "convolution_backward":
        gradient, field, weight = tensors[:3]
        asked = sum(1 for leaf in outputs if leaf.dim() == weight.dim()) or 1
        dims = (*_convolution_dims(gradient, field, weight), asked)
        plain = _channels_apart(gradient) or _channels_apart(field)
        return Operation(name, Family.CONVOLUTION_BACKWARD, dims=dims, strided=plain, **common)
    if name.startswith("_fft"):
        points = max((tensor.numel() * (2 if tensor.is_complex() else 1) for tensor in [*tensors, *outputs]), default=0)
        return Operation(name, Family.FOURIER, dims=(points,), **common)
    return Operation(name.rstrip("_"), Family.ELEMENTWISE, strided=_strided(tensors, outputs), **common)


#: float32 numbers in one AVX-512 vector; kernels pad channels to whole vectors.
LANES = 16


def padded(channels: int) -> int:
    """Channels in whole vectors."""
    return -(-channels // LANES) * LANES


def scratch_bytes(operation: Operation) -> list[int]:
    """Memory that a kernel takes for itself while it runs: a convolution whose channels lie apart works on copies of its field
    and of its result (in backward, of the result's gradient) with whole vectors of channels."""
    if not operation.family.startswith("convolution") or not operation.strided:
        return []
    points, enter, leave, kernel = operation.dims[:4]
    return [4 * points * padded(enter), 4 * points * padded(leave), 4 * kernel * padded(enter) * padded(leave)]


def _convolution_dims(out: Tensor, field: Tensor, weight: Tensor) -> tuple[int, ...]:
    """Points at which the kernel is applied, channels in and out, points of the kernel. A transposed convolution applies its
    kernel at every point of its input."""
    inner, outer = field.shape[0] * field[0, 0].numel(), out.shape[0] * out[0, 0].numel()
    return (min(inner, outer), field.shape[1], out.shape[1], weight[0, 0].numel())


def _channels_apart(field: Tensor) -> bool:
    """Whether the channels of a point lie apart in memory, so that a vector machine has to reorder them."""
    return field.shape[1] > 1 and field.stride(1) != 1


def _strided(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether some large operand is walked in another order than the result is written."""
    if not outputs:
        return False
    order = _order(outputs[0])
    return any(
        tensor.dim() == outputs[0].dim() and tensor.shape == outputs[0].shape and _order(tensor) != order for tensor in inputs
    )


def _order(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions from the slowest to the fastest, those of length one left out."""
    strides = tensor.stride()
    return tuple(sorted((dim for dim in range(tensor.dim()) if tensor.shape[dim] > 1), key=lambda dim: (-strides[dim], dim)))


@cache
def is_view(function: Any) -> bool:
    """Whether an operator returns its input's memory and computes nothing."""
    returns = [item.alias_info for item in function._schema.returns]
    aliases = bool(returns) and all(item is not None and not item.is_write for item in returns)
    return aliases or function._overloadpacket.__name__ == "_unsafe_view"
