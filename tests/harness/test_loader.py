"""The loader: the same batches in the same order whether they are read at once or by the thread, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from harness.loader import INLINE_BELOW_S, Loader
from harness.sampler import micro_batches
from models.system import Batch, Draw

CPU = torch.device("cpu")


class Samples:
    """Samples that name themselves; reading them takes real work when ``costly``."""

    num_samples = 12

    def __init__(self, *, costly: bool, fails_at: int | None = None) -> None:
        self.costly, self.fails_at = costly, fails_at
        self.readers: set[str] = set()
        self.read = 0

    def batch(self, draws: Sequence[Draw]) -> Batch:
        self.read += 1
        self.readers.add(threading.current_thread().name)
        if self.fails_at is not None and self.read > self.fails_at:
            raise OSError("the disk is gone")
        if self.costly:
            np.linalg.svd(np.random.default_rng(0).standard_normal((150, 150)))  # several milliseconds
        return {"sample": torch.tensor([draw.sample for draw in draws]), "key": torch.tensor([draw.key >> 1 for draw in draws])}


def plan(step: int) -> list[list[Draw]]:
    return micro_batches(seed=3, step=step, count=12, global_batch=4, micro_batch=2, rank=0, world=1)


def expected(first: int, last: int) -> list[list[int]]:
    return [[draw.sample for draws in plan(step) for draw in draws] for step in range(first, last)]


def visited(loader: Loader) -> list[list[int]]:
    return [[int(sample) for batch in batches for sample in batch["sample"]] for batches in loader]


@pytest.mark.parametrize("costly", [False, True])
@pytest.mark.parametrize(("first", "last"), [(0, 7), (5, 9), (4, 4)])
def test_every_step_is_handed_out_once_in_order(costly: bool, first: int, last: int) -> None:
    data = Samples(costly=costly)
    loader = Loader(data, plan, first=first, last=last, device=CPU)
    assert visited(loader) == expected(first, last)
    loader.close()
    threaded = costly and first < last
    assert ("loader" in data.readers) == threaded  # the thread where reading costs, and only there
    assert all(thread.name != "loader" for thread in threading.enumerate())


def test_an_error_of_the_thread_is_raised_where_the_batch_is_asked_for() -> None:
    data = Samples(costly=True, fails_at=8)  # two readings of the first step to time it, then four batches
    loader = Loader(data, plan, first=0, last=7, device=CPU)
    handed_out = iter(loader)
    assert [next(handed_out) is not None for _ in range(2)] == [True, True]
    with pytest.raises(OSError, match="the disk is gone"):
        next(handed_out)
    loader.close()


def test_an_error_of_the_first_reading_is_raised_at_once() -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        Loader(Samples(costly=False, fails_at=0), plan, first=0, last=7, device=CPU)


def test_closing_early_ends_the_thread_and_reads_no_further_than_its_depth() -> None:
    data = Samples(costly=True)
    loader = Loader(data, plan, first=0, last=1000, device=CPU, depth=2)
    next(iter(loader))
    loader.close()
    assert all(thread.name != "loader" for thread in threading.enumerate())
    assert data.read < 40


def test_the_costly_samples_are_costly() -> None:
    """Else the thread would not be tested above."""
    loader = Loader(Samples(costly=False), plan, first=0, last=0, device=CPU)
    loader._data, loader._steps = Samples(costly=True), range(1)
    assert loader._reading_s() > INLINE_BELOW_S
