"""Files that are whole or absent, first writers that win, and locks that die with their holders: between real processes."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import store
from results.errors import BusyError, ResultError

ROOT = Path(__file__).parent.parent.parent
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=6))
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=12
)


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A real process that has imported the module and said so; it goes on when told a line."""
    head = "import os, sys\nfrom pathlib import Path\nfrom results import store\npath = Path(sys.argv[1])\n"
    child = subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        with child:
            yield child
            child.kill()
    finally:
        child.kill()


def wait_for_end(pid: int, kill: Callable[[], None]) -> None:
    """Kill a process that need not be ours and return once it has ended."""
    handle = os.pidfd_open(pid)
    kill()
    assert select.select([handle], [], [], 30)[0], "the process did not end"
    os.close(handle)


@given(TREES)
def test_every_value_becomes_json_that_any_reader_takes(value: Any) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    def finite(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, list):
            return [finite(inner) for inner in item]
        return {key: finite(inner) for key, inner in item.items()} if isinstance(item, dict) else item

    assert json.loads(store.dumps(value), parse_constant=refuse) == finite(value)


def test_numpy_scalars_and_paths_are_plain() -> None:
    value = {"a": np.float32(0.5), "b": np.int64(3), "c": Path("x/y"), "d": (1, 2), "e": np.bool_(True), 4: np.nan}
    assert json.loads(store.dumps(value)) == {"a": 0.5, "b": 3, "c": "x/y", "d": [1, 2], "e": True, "4": None}


@given(TREES)
def test_canonical_text_is_a_fixed_point_without_spaces_or_order(value: Any) -> None:
    text = store.canonical_json({"value": value})
    assert store.canonical_json(json.loads(text)) == text
    keys = json.loads(text, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    assert keys == ["value"]


@given(st.dictionaries(st.text(max_size=4), PLAIN, max_size=6))
def test_canonical_text_forgets_insertion_order_only(tree: dict[str, Any]) -> None:
    text = store.canonical_json(tree)
    assert text == store.canonical_json(dict(reversed(list(tree.items()))))
    assert list(json.loads(text)) == sorted(tree)


@given(st.integers(-(2**52), 2**52))
def test_an_integral_float_is_that_integer_and_a_boolean_is_not_a_number(number: int) -> None:
    assert store.canonical_json([float(number)]) == store.canonical_json([number]) == f"[{number}]"
    assert store.canonical_json([number + 0.25]) != store.canonical_json([number]) or abs(number) > 2**50
    assert store.canonical_json([True]) == "[true]"


def test_checksums_are_those_of_the_standard(tmp_path: Path) -> None:
    """SHA-256 of "abc", FIPS 180-2 appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert store.sha256_file(tmp_path / "abc") == store.sha256_text("abc") == expected


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    store.write_json(path, ["a"] * 40_000)
    code = "print('ready', flush=True)\nwhile True:\n    for word in 'ba':\n        store.write_json(path, [word] * 40_000)"
    seen = set()
    with process(code, path) as writer:
        writer.stdout.readline()
        for _ in range(100_000):
            words = store.read_json(path)
            assert len(words) == 40_000
            assert len(set(words)) == 1
            seen.add(words[0])
            if seen == {"a", "b"}:
                break
        wait_for_end(writer.pid, writer.kill)
    assert seen == {"a", "b"}
    assert len(set(store.read_json(path))) == 1  # whatever moment the kill struck


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    store.write_json(path, 1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (store.write_json, store.create_json):
        with pytest.raises(ResultError, match="No space left") as caught:
            write(path, 2)
        assert caught.value.where == str(path)
        assert "free space" in caught.value.next_step
    assert store.read_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_targets_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "x", tmp_path / "folder"):
        with pytest.raises(ResultError) as caught:
            store.write_text(path, "text")
        assert caught.value.where == str(path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder"]


def test_missing_and_damaged_json_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ResultError, match="missing"):
        store.read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(ResultError, match="damaged") as caught:
        store.read_json(path)
    assert "--repair" in caught.value.next_step
    assert store.read_json_or(path, 7) == 7


def test_the_first_of_many_processes_wins(tmp_path: Path) -> None:
    code = "print('ready', flush=True)\nsys.stdin.readline()\nprint(store.create_json(path, {'by': os.getpid()}), flush=True)"
    path = tmp_path / "x.json"
    with process(code, path) as a, process(code, path) as b, process(code, path) as c, process(code, path) as d:
        children = (a, b, c, d)
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        won = {child.pid: child.stdout.readline().strip() for child in children}
    assert sorted(won.values()) == ["False", "False", "False", "True"]
    assert won[store.read_json(path)["by"]] == "True"
    assert list(tmp_path.iterdir()) == [path]


HOLDER = """
import subprocess
lock = store.FileLock(path)
assert lock.acquire()
child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
print(child.pid, flush=True)
{then}
sys.stdin.readline()
"""


def test_a_child_goes_on_holding_when_its_parent_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not store.is_locked(path)  # no file yet
    with process(HOLDER.format(then="import signal; signal.pause()"), path) as holder:
        child = int(holder.stdout.readline())
        assert store.is_locked(path)
        handle = os.pidfd_open(child)
        # The child reads a pipe of its parent and ends with it: stopped first, it cannot.
        os.kill(child, signal.SIGSTOP)
        wait_for_end(holder.pid, holder.kill)
        assert store.is_locked(path)
        assert not store.FileLock(path).acquire()
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        assert select.select([handle], [], [], 30)[0]
        os.close(handle)
    assert not store.is_locked(path)
    lock = store.FileLock(path)
    assert lock.acquire()
    lock.release()


def test_release_lets_go_of_this_process_only(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with process(HOLDER.format(then="lock.release(); print('released', flush=True)"), path) as holder:
        child = int(holder.stdout.readline())
        assert holder.stdout.readline() == "released\n"
        assert store.is_locked(path)
        wait_for_end(child, lambda: os.kill(child, signal.SIGKILL))
        assert not store.is_locked(path)


def test_a_held_lock_is_busy_without_waiting_and_comes_free_with_waiting(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with process("with store.locked(path):\n    print('held', flush=True)\n    sys.stdin.readline()", path) as holder:
        holder.stdout.readline()
        with (
            pytest.raises(BusyError, match="the data store") as caught,
            store.locked(path, blocking=False, what="the data store"),
        ):
            raise AssertionError("two hold it")
        assert caught.value.exit_code == 75
        order: list[str] = []

        def wait() -> None:
            with store.locked(path):
                order.append("second")

        second = threading.Thread(target=wait)
        second.start()
        order.append("first still holds it")
        holder.stdin.write("go\n")
        holder.stdin.flush()
        second.join(30)
    assert order == ["first still holds it", "second"]


def test_asking_never_disturbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question takes the lock in shared mode for an instant: two questions do not meet, it never frees a held lock, and whoever
    wants the lock in that instant tries again."""
    path = tmp_path / "x.lock"
    path.touch()
    asking = os.open(path, os.O_RDWR)
    fcntl.flock(asking, fcntl.LOCK_SH)
    assert not store.is_locked(path)
    waits: list[float] = []

    def answered(seconds: float) -> None:
        waits.append(seconds)
        fcntl.flock(asking, fcntl.LOCK_UN)

    monkeypatch.setattr(store.time, "sleep", answered)
    lock = store.FileLock(path)
    assert lock.acquire()
    assert len(waits) == 1
    assert all(store.is_locked(path) for _ in range(3))
    assert not store.FileLock(path).acquire()
    lock.release()
    assert not store.is_locked(path)
    os.close(asking)


def test_a_lock_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot write run.lock"):
        store.FileLock(tmp_path / "missing" / "run.lock").acquire()
