"""Data order: a pure function, the same on any number of ranks and from any step on."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sampler import draw, micro_batches
from harness.schedule import learning_rate
from harness.schema import TrainConfig


@given(seed=st.integers(0, 10**6), count=st.integers(1, 50), epoch=st.integers(0, 3))
def test_every_epoch_visits_every_sample_once(seed: int, count: int, epoch: int) -> None:
    visited = [draw(seed, position, count).sample for position in range(epoch * count, (epoch + 1) * count)]
    assert sorted(visited) == list(range(count))


@given(
    seed=st.integers(0, 100),
    step=st.integers(0, 30),
    world=st.sampled_from([1, 2, 3, 4]),
    micro=st.sampled_from([1, 2]),
    count=st.integers(5, 40),
)
def test_ranks_and_micro_batches_only_cut_the_same_stream(seed: int, step: int, world: int, micro: int, count: int) -> None:
    parts = [
        micro_batches(seed=seed, step=step, count=count, global_batch=24, micro_batch=micro, rank=rank, world=world)
        for rank in range(world)
    ]
    flat = [one for rank in parts for batch in rank for one in batch]
    assert flat == [draw(seed, 24 * step + i, count) for i in range(24)]
    assert {len(batch) for rank in parts for batch in rank} == {micro}


def test_visits_of_one_sample_differ_and_seeds_differ() -> None:
    keys = [draw(0, position, 4).key for position in range(400)]
    assert len(set(keys)) == 400
    assert draw(0, 7, 1000).key != draw(1, 7, 1000).key
    orders = [tuple(draw(seed, i, 30).sample for i in range(30)) for seed in range(3)] + [
        tuple(draw(0, 30 + i, 30).sample for i in range(30))
    ]
    assert len(set(orders)) == 4


def test_the_generator_of_a_visit_belongs_to_it() -> None:
    one = draw(3, 5, 10)
    assert one.generator().integers(1 << 60) == one.generator().integers(1 << 60)
    starts = Counter(int(draw(0, position, 10).generator().integers(10)) for position in range(5000))
    assert max(starts.values()) < 600  # uniform: 500 +- 4.7 standard deviations
    assert min(starts.values()) > 400


def test_schedules_are_the_closed_forms() -> None:
    cosine = TrainConfig(steps=200, lr=2e-3, schedule="cosine")
    assert learning_rate(cosine, 0) == 2e-3
    assert learning_rate(cosine, 100) == pytest.approx(1e-3)
    assert 0 < learning_rate(cosine, 199) < 2e-3 * 1e-4
    linear = TrainConfig(steps=10, lr=1.0, schedule="linear", lr_warmup_steps=2)
    assert [round(learning_rate(linear, s), 6) for s in (0, 1, 2, 9)] == [0.5, 1.0, 0.8, 0.1]
    assert learning_rate(TrainConfig(steps=10, lr=0.3), 7) == 0.3
