"""The equality gate: an engine is listed beside the reference only where its loss curve is the reference's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Gate:
    """Outcome of one comparison.

    Attributes:
        passed: both curves have all steps, all finite, and nowhere differ by more than the tolerance.
        largest_relative_difference: over the steps that both have; None where a loss is not finite or there is none.
        step: index of that largest difference, or of the first loss that is not finite; None where there is no step.
        detail: what is wrong, in words, when it did not pass.
    """

    passed: bool
    largest_relative_difference: float | None
    step: int | None
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def gate(reference_losses: ArrayLike, other_losses: ArrayLike, tolerance: float) -> Gate:
    """Compare loss curves step by step: ``|other - reference| <= tolerance * |reference|``.

    Args:
        reference_losses, other_losses: loss per optimisation step, from step 0 (``results.series.read_run_steps``).
        tolerance: largest relative difference allowed.
    """
    reference, other = (np.asarray(losses, dtype=np.float64).ravel() for losses in (reference_losses, other_losses))
    steps = min(reference.size, other.size)
    if steps == 0:
        return Gate(False, None, None, "a loss curve is empty")
    bad = ~(np.isfinite(reference[:steps]) & np.isfinite(other[:steps]))
    if bad.any():
        step = int(np.argmax(bad))
        return Gate(False, None, step, f"the loss at step {step} is not finite")
    scale = np.maximum(np.abs(reference[:steps]), np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        difference = np.abs(other[:steps] - reference[:steps]) / scale
    step = int(np.argmax(difference))
    largest = float(difference[step])
    if reference.size != other.size:
        return Gate(False, largest, step, f"{other.size} steps against {reference.size}")
    if largest > tolerance:
        return Gate(False, largest, step, f"step {step} differs by {largest:.2g}, more than {tolerance:.0e}")
    return Gate(True, largest, step)
