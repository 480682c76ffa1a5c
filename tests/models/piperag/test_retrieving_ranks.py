"""An index sharded over ranks under a real mpiexec (PyPI's mpich): two shards and a generator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.environment import without_foreign
from launchers.mpi import find_mpiexec
from models.piperag.retrieving.hosting import host_environment
from tests.models.piperag.retrieving_support import ROOT, gone, until

pytestmark = pytest.mark.distributed


def play(scene: str, folder: Path, ranks: int = 3) -> tuple[int, Any, str]:
    """Exit status, what rank 0 printed, and errors; no rank is left."""
    done = subprocess.run(
        [find_mpiexec(), "-n", str(ranks), sys.executable, "-m", "tests.models.piperag.retrieving_ranks", scene, str(folder)],
        cwd=ROOT, env=host_environment(without_foreign(os.environ), 1), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    for rank in range(ranks):
        pid = int((folder / f"pid-{rank}").read_text())
        until(lambda pid=pid: gone(pid))  # type: ignore[misc]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, json.loads(lines[0]) if lines else None, done.stderr


@pytest.mark.parametrize("count", [2, 3])
def test_shards_answer_as_the_whole_index(count: int, tmp_path: Path) -> None:
    code, found, errors = play("equal", tmp_path, count)
    assert code == 0, errors
    assert (found["transport"], found["pids"]) == ("ranks", count)
    assert (found["counts"]["asked"], found["counts"]["answered"]) == (24, 24)


def test_a_fault_of_one_shard_concerns_its_query(tmp_path: Path) -> None:
    code, found, errors = play("faults", tmp_path)
    assert code == 0, errors
    said = found["said"]
    assert "the backend raised ValueError: on purpose" in said["1"]
    assert "where: rank 1" in said["1"]
    assert "query 3 was answered with the number of query 4" in said["3"]
    assert "query 5 was not answered within 0.1 s" in said["5"]
    counts = found["counts"]
    assert (counts["asked"], counts["answered"], counts["failed"], counts["late"], counts["foreign"]) == (6, 3, 2, 1, 1)
    # What the sound shard answered to a failed query: before or after the other one failed it.
    assert 1 <= counts["dropped"] <= 4


def test_polling_is_enough_and_closing_twice_is_safe(tmp_path: Path) -> None:
    code, found, errors = play("polled", tmp_path)
    assert code == 0, errors
    assert found["number"] == 1
    assert "RetrieverGone: the retriever is closed" in found["closed"]


def test_a_rank_that_ends_ends_all(tmp_path: Path) -> None:
    code, found, _ = play("lost", tmp_path)
    assert code != 0
    assert found is None


def test_a_rank_that_hangs_is_aborted_with_the_rest(tmp_path: Path) -> None:
    code, found, errors = play("hangs", tmp_path)
    assert code != 0
    assert "RetrievalLate: query 1 was not answered within 0.3 s" in found["said"]
    assert "ranks [2] did not end within 0.3 s" in errors


def test_a_shard_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    code, found, errors = play("unbuilt", tmp_path)
    assert code == 0, errors
    assert "the backend raised ValueError: on purpose" in found["error"]
    assert "where: rank 2" in found["error"]


def test_one_rank_is_too_few(tmp_path: Path) -> None:
    code, found, _ = play("equal", tmp_path, 1)
    assert code == 0
    assert "two ranks or more" in found["error"]
