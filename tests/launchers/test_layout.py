"""The layout that the next attempt really has, as its file keeps it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.layout import FILE, Layout
from results.errors import ResultError
from results.store import write_json

LAYOUTS = st.builds(
    Layout,
    engine=st.none() | st.sampled_from(["zero1", "zero2"]),
    ranks=st.none() | st.integers(1, 4096),
    micro_batch=st.none() | st.integers(1, 4096),
    memory_gib=st.none() | st.floats(0.01, 1e4),
    exclude_nodes=st.lists(st.text("abn0123456789-", min_size=1), max_size=4).map(tuple),
    reason=st.text(max_size=20),
)


@given(LAYOUTS)
def test_it_comes_back_as_it_was_written(layout: Layout) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout.write(Path(folder))
        assert Layout.read(Path(folder)) == layout


def test_no_file_is_no_change(tmp_path: Path) -> None:
    assert Layout.read(tmp_path) == Layout()
    assert not Layout().changed


@pytest.mark.parametrize("change", [{"engine": "zero2"}, {"ranks": 4}, {"micro_batch": 1}])
def test_engine_ranks_and_micro_batch_are_changes(change: dict[str, object]) -> None:
    assert Layout(**change).changed  # type: ignore[arg-type]


def test_more_memory_and_other_nodes_change_no_measurement() -> None:
    assert not Layout(memory_gib=3.0, exclude_nodes=("n1",), reason="more memory").changed


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    write_json(tmp_path / FILE, {"ranks": 2, "invented_later": True})
    assert Layout.read(tmp_path) == Layout(ranks=2)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"exclude_nodes": 5}', "3"])
def test_a_damaged_file_is_said_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ResultError, match=r"layout\.json is damaged") as caught:
        Layout.read(tmp_path)
    assert caught.value.where == str(tmp_path / FILE)
    assert caught.value.next_step
