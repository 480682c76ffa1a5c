"""Walks: the optimum without retrieval is known in closed form, and everything is a function of the seed."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.chunks.sequences import Sequences
from models.piperag.chunks.synthetic import Walks
from results.errors import ConfigError, DataError
from tests.models.piperag.chunks_samples import WALKS


def transition(walks: Walks) -> np.ndarray:
    """Probability of the next token given the present one, ``[V, V]``."""
    found = np.zeros((walks.vocabulary, walks.vocabulary))
    for token, successors in enumerate(walks.table[1:], start=1):
        found[token, successors] += 1 / walks.successors
    return found


def test_the_default_corpus_is_that_of_the_sizes_given() -> None:
    walks = Walks()
    assert (walks.vocabulary, walks.num_documents, walks.tokens, walks.num_training) == (65, 400, 192, 320)
    assert walks.table.shape == (65, 8)
    assert walks.walk(399).shape == (192,)


def test_every_token_has_distinct_successors_and_pad_is_none() -> None:
    for successors in WALKS.table[1:]:
        assert len(set(successors.tolist())) == 8
        assert 1 <= successors.min() <= successors.max() <= 64


def test_perplexity_without_retrieval_is_8() -> None:
    """The entropy rate of the generator in closed form, and the likelihood of each document under it."""
    p = transition(WALKS)[1:, 1:]
    assert np.allclose(p.sum(1), 1)
    stationary = np.full(64, 1 / 64)
    for _ in range(2000):
        stationary = stationary @ (p + np.eye(64)) / 2  # lazy: converges where the walk is periodic
    entropy = -(stationary[:, None] * np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)).sum()
    assert math.exp(entropy) == pytest.approx(8, rel=1e-12)
    for number in range(WALKS.num_documents):
        walk = WALKS.walk(number)
        likelihood = transition(WALKS)[walk[:-1], walk[1:]]
        assert math.exp(-np.log(likelihood).mean()) == pytest.approx(8, rel=1e-12)
    assert WALKS.optimum_perplexity == 8


def test_successors_are_chosen_evenly() -> None:
    walks = Walks(seed=1, num_documents=200, tokens=200, num_training=160)
    counts = np.zeros((65, 65))
    for number in range(walks.num_documents):
        walk = walks.walk(number)
        np.add.at(counts, (walk[:-1], walk[1:]), 1)
    assert set(zip(*np.nonzero(counts), strict=True)) == set(zip(*np.nonzero(transition(walks)), strict=True))
    used = counts[transition(walks) > 0].reshape(64, 8)
    share = used / used.sum(1, keepdims=True)
    assert abs(share - 1 / 8).max() < 0.08


def test_everything_is_a_function_of_the_seed() -> None:
    again = pickle.loads(pickle.dumps(WALKS))
    assert np.array_equal(again.walk(7), WALKS.walk(7))
    other = Walks(seed=4, num_documents=40, tokens=100, num_training=32)
    assert not np.array_equal(other.table, WALKS.table)
    assert not np.array_equal(WALKS.walk(7), WALKS.walk(8))
    for split in ("train", "eval"):
        assert np.array_equal(WALKS.sequences(split, length=64).take([5, 2]), again.sequences(split, length=64).take([5, 2]))


def test_sequences_come_from_their_own_documents_at_starts_of_chance() -> None:
    train, evaluation = WALKS.sequences("train", length=64), WALKS.sequences("eval", length=64)
    assert (train.num_documents, evaluation.num_documents) == (32, 8)
    starts = set()
    for number in range(100):
        document, start = train.place(number)
        assert document == number % 32
        starts.add(start)
        assert np.array_equal(train.take([number])[0], WALKS.walk(document)[start : start + 64])
    assert starts == set(range(16))
    document, start = evaluation.place(3)
    assert np.array_equal(evaluation.take([3])[0], WALKS.walk(32 + document)[start : start + 64])
    assert [evaluation.place(n)[1] for n in range(8)] != [train.place(n)[1] for n in range(8)]
    assert {WALKS.sequences("train", length=64, last_start=0).place(n)[1] for n in range(40)} == {0}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 8))
def test_starts_anywhere_leave_room_and_reach_everything(lengths: list[int], length: int) -> None:
    documents = [np.arange(size) + 100 * number for number, size in enumerate(lengths)]
    if max(lengths) < length:
        with pytest.raises(DataError, match="none of"):
            Sequences(documents, length, seed=0)
        return
    sequences = Sequences(documents, length, seed=0)
    taken = sequences.take(range(400))
    assert np.array_equal(taken, taken[:, :1] + np.arange(length))
    wanted = {100 * number + start for number, size in enumerate(lengths) for start in range(size - length + 1)}
    assert set(taken[:, 0].tolist()) <= wanted
    if len(wanted) <= 20:
        assert set(taken[:, 0].tolist()) == wanted


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="distinct successors"):
        Walks(vocabulary=8)
    with pytest.raises(ConfigError, match="make no corpus"):
        Walks(num_training=500)
    with pytest.raises(ConfigError, match="seed"):
        Walks(seed=-1)
    with pytest.raises(ConfigError, match="no split 'test'"):
        WALKS.sequences("test")
    with pytest.raises(DataError, match="none of 32 documents has the 200 tokens"):
        WALKS.sequences("train", length=200)
