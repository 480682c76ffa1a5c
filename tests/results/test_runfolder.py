"""Claiming attempts between processes, and what a run folder tells of itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from results.errors import ResultError
from results.failures import Failure, FailureClass
from results.runfolder import RunFolder, run_folders
from results.store import write_json, write_text

ROOT = Path(__file__).parent.parent.parent
CLAIMS = 20
CLAIMER = f"""
import sys
from pathlib import Path
from results.runfolder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(*[folder.claim_attempt().index for _ in range({CLAIMS})])
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "runs" / "dlwp-unet-tiny-0123abcd"
    path.mkdir(parents=True)
    write_text(path / "config.yaml", "system: dlwp\n")
    return RunFolder(path)


def crash(rank: int) -> Failure:
    return Failure(kind=FailureClass.CRASH, reason=f"rank {rank}", rank=rank)


def test_two_processes_that_claim_at_once_never_share_an_attempt(folder: RunFolder) -> None:
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(folder.path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for claimer in claimers:
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    claimed = [[int(word) for word in claimer.communicate(timeout=30)[0].split()] for claimer in claimers]
    assert [len(indices) for indices in claimed] == [CLAIMS, CLAIMS]
    assert sorted(claimed[0] + claimed[1]) == list(range(2 * CLAIMS))
    assert [attempt.index for attempt in folder.attempts()] == list(range(2 * CLAIMS))  # by number: 10 comes after 9
    assert all((attempt.path / name).is_dir() for attempt in folder.attempts() for name in ("ranks", "steps"))


def test_an_attempt_is_never_claimed_again(folder: RunFolder) -> None:
    assert folder.last_attempt() is None
    first, second = folder.claim_attempt(), folder.claim_attempt()
    assert (first.index, second.index) == (0, 1)
    shutil.rmtree(first.path)
    assert folder.claim_attempt().index == 2
    (folder.path / "attempt-notes").mkdir()
    assert [attempt.index for attempt in folder.attempts()] == [1, 2]
    assert folder.last_attempt().path.name == "attempt-2"  # type: ignore[union-attr]


def test_claiming_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot start an attempt: No such file") as caught:
        RunFolder(tmp_path / "gone").claim_attempt()
    assert caught.value.where.endswith("gone/attempt-0")
    assert caught.value.next_step


def test_the_first_failure_stays(folder: RunFolder) -> None:
    attempt = folder.claim_attempt()
    assert attempt.failure() is None
    assert attempt.fail(crash(1))
    assert not attempt.fail(crash(0))
    failure = attempt.failure()
    assert failure is not None
    assert Failure.from_dict(failure) == crash(1)


def test_completed_is_what_rank_0_said_and_nothing_else(folder: RunFolder) -> None:
    attempt = folder.claim_attempt()
    for text in ("", "[]", '{"status": "running"}', '{"status": "comple'):
        (attempt.path / "outcome.json").write_text(text)
        assert not attempt.completed
        assert not folder.is_completed()
    attempt.write("outcome", {"status": "completed"})
    assert attempt.completed
    folder.claim_attempt()
    assert folder.is_completed()  # a later attempt takes nothing away


def test_ranks_are_in_order_of_their_number(folder: RunFolder) -> None:
    attempt = folder.claim_attempt()
    for rank in (10, 2, 0):
        write_json(attempt.rank_file(rank), {"rank": rank})
    assert [path.stem for path in attempt.rank_files()] == ["0", "2", "10"]
    assert attempt.log(3).name == "log-3.txt"
    assert attempt.read("nothing", 5) == 5


def test_running_is_a_held_lock(folder: RunFolder) -> None:
    assert not folder.is_running()
    lock = folder.lock()
    assert lock.acquire()
    assert folder.is_running()
    lock.release()
    assert not folder.is_running()


def test_only_frozen_configurations_make_a_run(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "runs" / "a-leftover").mkdir()
    (tmp_path / "runs" / "note.txt").touch()
    assert list(run_folders(tmp_path / "runs")) == [folder]
    assert list(run_folders(tmp_path / "nowhere")) == []
    assert folder.read_record() is None
    folder.record_file.write_text("{")
    with pytest.raises(ResultError, match="damaged"):
        folder.read_record()
