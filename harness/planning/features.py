"""What the time of an operation is linear in, family by family. The coefficients are measured (:mod:`harness.planning.probes`).

Every feature has a cause. A product of ``m x k`` by ``k x n`` costs its ``m n k`` multiply-adds at full speed, and per row,
column and inner index what a kernel cannot overlap: ``m n`` results written, ``m k`` and ``k n`` operands packed (the half-
performance lengths of Hockney and Jesshope 1988, written out). A convolution on a vector machine works on whole vectors of
channels, so that one channel costs as much as sixteen. Coefficients are not negative, so that no quantity can make an
operation faster.
"""

from __future__ import annotations

import math

from harness.planning.operations import Family, Operation, padded


def features(operation: Operation) -> list[float]:
    """Quantities that the seconds of one call are linear in; the first is 1, for the fixed cost."""
    match operation.family:
        case Family.PRODUCT:
            batch, rows, columns, inner = operation.dims
            each = [rows * columns * inner, rows * columns, rows * inner, columns * inner]
            return [1.0, *(float(batch * number) for number in [1, *each])]
        case Family.CONVOLUTION:
            points, enter, leave, kernel = operation.dims
            work = points * kernel
            return [1.0, float(work * enter * leave), float(work * enter * padded(leave)), float(operation.moved_bytes)]
        case Family.CONVOLUTION_BACKWARD:
            points, enter, leave, kernel, asked = operation.dims
            work = asked * points * kernel
            both = padded(enter) * leave + enter * padded(leave)
            return [1.0, float(work * enter * leave), float(work * both), float(operation.moved_bytes)]
        case Family.FOURIER:
            points = operation.dims[0]
            return [1.0, float(points), points * math.log2(max(points, 2)), float(operation.moved_bytes)]
    return [1.0, float(operation.moved_bytes)]


def fit_name(operation: Operation) -> str:
    """Which set of coefficients belongs to an operation: complex products, and convolutions that reorder, run other code."""
    if operation.family is Family.PRODUCT:
        kind = "batched" if operation.name in ("bmm", "baddbmm") else "single"
        return f"product_{'complex' if operation.is_complex else 'real'}_{kind}"
    return f"{operation.family}{'_plain' if operation.strided else ''}"


def table_name(operation: Operation) -> str:
    """Under which name the times of an elementwise operator are kept."""
    return operation.name + ("_strided" if operation.strided else "")
