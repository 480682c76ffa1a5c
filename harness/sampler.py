"""Data order as a pure function of (seed, position): the same on any number of ranks and after any resume.

Position ``g`` of the run's endless sample stream lies in epoch ``g // n`` at place ``g % n``; the epoch's order is a permutation
drawn from (seed, epoch). Step ``s`` with global batch ``B`` takes positions ``sB .. (s+1)B - 1``; rank ``r`` of ``R`` takes the
``r``-th of ``R`` equal slices. The only state is the step number.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.system import Draw

#: Streams of randomness that must never coincide.
_ORDER, _VISIT = 1, 2


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Order of ``count`` samples in one epoch."""
    bits = np.random.SeedSequence([_ORDER, seed, epoch, count])
    order: NDArray[np.int64] = np.random.Generator(np.random.Philox(bits)).permutation(count)
    return order


def visit_key(seed: int, position: int) -> int:
    """64-bit key of one visit, for whatever else is random about it."""
    return int(np.random.SeedSequence([_VISIT, seed, position]).generate_state(1, np.uint64)[0])


def draw(seed: int, position: int, count: int) -> Draw:
    """The sample at one position of the stream."""
    epoch, place = divmod(position, count)
    return Draw(sample=int(permutation(seed, epoch, count)[place]), key=visit_key(seed, position))


def micro_batches(
    *, seed: int, step: int, count: int, global_batch: int, micro_batch: int, rank: int, world: int
) -> list[list[Draw]]:
    """The micro-batches of one rank at one step, in order."""
    share = global_batch // world
    start = step * global_batch + rank * share
    draws = [draw(seed, position, count) for position in range(start, start + share)]
    return [draws[i : i + micro_batch] for i in range(0, share, micro_batch)]
