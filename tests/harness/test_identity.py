"""Identity: the same for equal meanings, different for different ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.identity import identity, run_name

SCALARS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(max_size=8),
    st.none(),
    st.booleans(),
)
TREES = st.dictionaries(st.text(min_size=1, max_size=6), st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=5)


def config(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "system": "dlwp", "variant": "fno2d", "size": "50k", "scale": "small", "seed": 0, "repeat": 0, "ranks": 1,
        "precision": "fp32", "device": "auto", "engine": {"name": "torch", "stage": None},
        "train": {"steps": 200, "lr": 2e-3, "checkpoint_every": 0}, "data": {"resolution": 32, "path": None},
        "model": {"width": 12}, "site": {"name": "local", "description": ""}, "keep": "last",
        "launcher": {"name": "local", "max_parallel": 2}, "tracker": {"name": "offline"}, "paths": {"runs": "runs"},
    }  # fmt: skip
    for key, value in changes.items():
        target = plain
        *path, leaf = key.split("__")
        for part in path:
            target = target[part]
        target[leaf] = value
    return plain


def of(plain: dict[str, Any], inputs: tuple[str, ...] = ("d",), version: int = 1) -> str:
    return identity(plain, system_version=version, inputs=inputs)


def reordered(value: Any) -> Any:
    """The same content with every mapping's keys in reverse order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return value


@given(TREES)
def test_key_order_does_not_matter(tree: dict[str, Any]) -> None:
    plain = config(model=tree)
    assert of(plain) == of(reordered(plain))


@given(st.integers(-(2**50), 2**50))
def test_1_equals_1_point_0(number: int) -> None:
    assert of(config(model={"width": number})) == of(config(model={"width": float(number)}))


@given(TREES, TREES)
def test_different_model_keys_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    def meaning(tree: dict[str, Any]) -> Any:
        def plain(v: Any) -> Any:
            if isinstance(v, list):
                return [plain(i) for i in v]
            return int(v) if isinstance(v, float) and v.is_integer() else v

        return json.dumps({k: plain(v) for k, v in tree.items()}, sort_keys=True)

    same = meaning(one) == meaning(other)
    assert (of(config(model=one)) == of(config(model=other))) == same


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("launcher__max_parallel", 7), ("tracker__name", "none"), ("paths__runs", "/elsewhere"), ("keep", "none"),
        ("train__checkpoint_every", 5), ("data__path", "/other/place"), ("site__description", "a text"),
    ],
)  # fmt: skip
def test_excluded_keys_do_not_matter(key: str, value: Any) -> None:
    assert of(config(**{key: value})) == of(config())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1), ("repeat", 1), ("precision", "bf16"), ("ranks", 2), ("engine__name", "zero1"), ("train__lr", 1e-3),
        ("variant", "unet"), ("size", "20k"), ("scale", "tiny"), ("data__resolution", 64), ("model__width", 13),
        ("site__name", "elsewhere"), ("device", "cuda"),
    ],
)  # fmt: skip
def test_semantic_keys_matter(key: str, value: Any) -> None:
    assert of(config(**{key: value})) != of(config())


def test_data_and_system_versions_matter() -> None:
    assert of(config(), inputs=("e",)) != of(config())
    assert of(config(), version=2) != of(config())
    assert of(config(), inputs=("a", "b")) == of(config(), inputs=("b", "a"))


def test_hashing_changes_nothing_and_names_are_readable() -> None:
    plain = config()
    before = copy.deepcopy(plain)
    name = run_name(plain, of(plain))
    assert plain == before
    assert name.startswith("dlwp-fno2d-small-")
    assert len(name.rsplit("-", 1)[1]) == 8
