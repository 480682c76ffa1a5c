"""What queries and replies must be, and how a backend is built from its recipe."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.retrieving.backends import MAX_REPLY_TOKENS, MAX_TOKEN, BackendSpec, answer, check_query, check_reply
from models.piperag.retrieving.faults import QueryRefused
from models.piperag.types import Reply, RetrievalError
from results.errors import ConfigError
from tests.models.piperag.retrieving_backends import Flat
from tests.models.piperag.retrieving_support import BACKENDS, C, query, spec


def windows(*shape: int, dtype: Any = np.int64, token: int = 1) -> np.ndarray[Any, Any]:
    return np.full(shape, token, dtype)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 300), st.integers(0, C), st.integers(0, 2**63 - 1))
def test_what_lies_within_the_limits_passes(batch: int, k: int, nprobe: int, shift: int, number: int) -> None:
    asked = query(batch=batch, k=k, nprobe=nprobe, shift=shift)
    check_query(replace(asked, number=number), C)
    check_query(replace(asked, k=np.int32(k), nprobe=np.int64(nprobe)), C)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"windows": windows(1, C - 1)}, "shorter than the window: 15 tokens instead of 16"),
        ({"windows": windows(1, C + 1)}, "longer than the window"),
        ({"windows": windows(C)}, r"not int64 \[16\]"),
        ({"windows": windows(1, 1, C)}, "int64 token ids, not"),
        ({"windows": windows(0, C)}, "no window"),
        ({"windows": windows(1, C, dtype=np.int32)}, "not int32"),
        ({"windows": windows(1, C, dtype=np.float32)}, "not float32"),
        ({"windows": [[1] * C]}, "not list"),
        ({"windows": windows(1, C, token=-1)}, "token ids lie in"),
        ({"windows": windows(1, C, token=MAX_TOKEN + 1)}, "token ids lie in"),
        ({"k": 0}, "k is a whole number"),
        ({"k": 1.5}, "k is a whole number"),
        ({"nprobe": 0}, "nprobe is a whole number"),
        ({"shift": -1}, "shift is a whole number in 0 .. 16"),
        ({"shift": C + 1}, "shift is a whole number in 0 .. 16"),
        ({"number": -1}, "number is a whole number"),
        ({"k": MAX_REPLY_TOKENS // (2 * C) + 1}, "more than"),
    ],
)
def test_what_lies_outside_is_refused_and_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(QueryRefused, match=said) as caught:
        check_query(replace(query(), **changes), C)
    assert caught.value.where.startswith("query ")
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": windows(1, 2, 2 * C, dtype=np.int32)}, "values of int32"),
        ({"values": windows(1, 2, C)}, r"instead of int64 \[1, 2, 32\]"),
        ({"values": windows(1, 2, 2 * C, token=MAX_TOKEN + 1)}, "token ids outside"),
        ({"values": windows(1, 2, 2 * C, token=-1)}, "token ids outside"),
        ({"ids": windows(1, 3)}, "ids of int64"),
        ({"ids": windows(1, 2, token=-2)}, "below -1"),
        ({"ids": windows(1, 2, token=-1)}, "tokens for a neighbour that was not found"),
        ({"nprobe": 0}, "lists scanned"),
        ({"nprobe": 2}, "2 lists scanned of 1"),
        ({"seconds": {"search": float("nan")}}, "times"),
        ({"seconds": {"search": -1.0}}, "times"),
        ({"number": -1}, "number -1"),
    ],
)
def test_replies_are_held_against_what_they_promise(changes: dict[str, Any], said: str) -> None:
    asked, backend = query(7), Flat()
    good = backend.retrieve(asked)
    check_reply(good, asked, C)
    with pytest.raises(RetrievalError, match=said) as caught:
        check_reply(replace(good, **changes), asked, C)
    assert caught.value.where == "query 7"
    with pytest.raises(RetrievalError, match="a NoneType instead of a Reply"):
        check_reply(None, asked, C)  # type: ignore[arg-type]


def test_neighbours_that_are_not_there_are_pad() -> None:
    reply = answer(Flat(chunks=3), query(k=5))
    assert isinstance(reply, Reply)
    assert (reply.ids[0] < 0).tolist() == [False] * 3 + [True] * 2
    assert not reply.values[0, 3:].any()
    assert reply.values[0, :3].all()


def test_a_recipe_is_plain_and_builds_where_it_is_used() -> None:
    recipe = pickle.loads(pickle.dumps(spec(chunk_tokens=8)))
    assert recipe == spec(chunk_tokens=8)
    assert recipe.build().chunk_tokens == 8


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (BackendSpec("Flat"), "no dotted path"),
        (BackendSpec("tests.nowhere.Flat"), "cannot be imported"),
        (BackendSpec(f"{BACKENDS}.Flatt"), "has no callable 'Flatt'; did you mean 'Flat'"),
        (BackendSpec(f"{BACKENDS}.VOCABULARY"), "has no callable 'VOCABULARY'"),
        (BackendSpec(f"{BACKENDS}.Flat", {"chunck_tokens": 8}), "unexpected keyword argument 'chunck_tokens'"),
        (BackendSpec(f"{BACKENDS}.without_method"), r"without chunk_tokens, retrieve\(\) or close\(\)"),
    ],
)
def test_a_wrong_recipe_is_said(recipe: BackendSpec, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe.build()
