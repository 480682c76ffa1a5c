"""Faults injected on purpose into real processes: each ends in a record that names class, first rank and next command."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from results.runfolder import RunFolder
from results.store import read_json
from tests.support import Workplace

TINY = ("system=faulty", "scale=tiny")


def failing(workplace: Workplace, variant: str, *words: str) -> dict[str, object]:
    """Run a variant that must fail; its row."""
    done = workplace.tenfold("run", *TINY, f"variant={variant}", *words, expect=1)
    assert "FAILED" in done.stderr
    (row,) = workplace.json("status", f"variant={variant}")
    assert row["status"] == "failed"
    assert row["failure"]["next_step"].startswith(("tenfold", "lower", "give"))
    assert workplace.tenfold("doctor", "--runs").stdout.startswith("1 run folders, 0 with problems")
    return row


def test_nan_loss_is_diverged_and_keeps_the_evidence(workplace: Workplace) -> None:
    row = failing(workplace, "nan")
    assert row["failure"]["class"] == "diverged"
    assert "step 4" in row["failure"]["reason"]
    assert "samples [" in row["failure"]["reason"]


def test_out_of_host_memory(workplace: Workplace) -> None:
    row = failing(workplace, "hungry")
    assert row["failure"]["class"] == "oom-host"
    assert workplace.tenfold("retry", "--only", "oom", "--dry-run").stdout.strip() == row["run"]


@pytest.mark.distributed
@pytest.mark.parametrize(("variant", "reason"), [("killed", "SIGKILL"), ("raising", "a fault on purpose")])
def test_the_first_rank_that_failed_is_named(workplace: Workplace, variant: str, reason: str) -> None:
    row = failing(workplace, variant, "engine=zero1", "ranks=2")
    assert row["failure"]["class"] == "crash"
    assert row["failure"]["rank"] == 1
    assert reason in row["failure"]["reason"]
    shown = workplace.tenfold("logs", row["run"]).stdout
    assert "rank 1" in shown
    assert not RunFolder(workplace.path / "runs" / row["run"]).is_running()


def test_a_worker_that_exits_with_0_and_no_outcome_has_not_completed(workplace: Workplace) -> None:
    row = failing(workplace, "silent")
    assert "no outcome" in row["failure"]["reason"]


def test_one_failing_run_does_not_stop_the_others(workplace: Workplace) -> None:
    done = workplace.tenfold("sweep", "study=faults", expect=1)
    rows = workplace.json("table", "study=faults")
    status = {(row["variant"], row["seed"]): row["status"] for row in rows}
    assert status == {
        ("healthy", 0): "completed", ("healthy", 1): "completed",
        ("nan", 0): "failed", ("nan", 1): "failed", ("raising", 0): "failed", ("raising", 1): "failed",
    }  # fmt: skip
    assert "tenfold retry" in done.stdout
    before = set((workplace.path / "runs").glob("*/attempt-*"))
    workplace.tenfold("sweep", "study=faults", expect=1)  # failed runs are left to `retry`
    assert set((workplace.path / "runs").glob("*/attempt-*")) == before
    workplace.tenfold("retry", "study=faults", "--only", "crash", expect=1)
    attempts = {row["variant"]: row["attempts"] for row in workplace.json("table", "study=faults", "seed=0")}
    assert attempts == {"healthy": 1, "nan": 1, "raising": 2}


def final_state(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint, flattened."""
    step = (folder.checkpoints / "latest").read_text().strip()
    state = torch.load(folder.checkpoints / step / "torch.pt", weights_only=True)
    moments = {f"{i}.{k}": v for i, entry in state["optimizer"]["state"].items() for k, v in entry.items()}
    return {**state["model"], **moments}


def test_killed_and_resumed_ends_with_the_same_bits(workplace: Workplace) -> None:
    """The model has dropout, so random state must come back too."""
    words = (*TINY, "variant=cut")
    workplace.tenfold("run", *words, expect=1)
    (folder,) = workplace.runs()
    assert folder.attempts()[0].failure()["class"] == "crash"
    workplace.tenfold("retry", folder.name)
    whole = Workplace(workplace.path / "whole")
    whole.path.mkdir()
    (whole.path / "cut-once").touch()
    whole.tenfold("run", *words)
    (reference,) = whole.runs()
    assert folder.name == reference.name
    resumed, unbroken = final_state(folder), final_state(reference)
    assert resumed.keys() == unbroken.keys()
    for name, tensor in unbroken.items():
        assert torch.equal(resumed[name], tensor), name
    first = read_json(folder.attempts()[1].path / "ranks" / "0.json")["first_step"]
    assert first == 10  # it went on from the checkpoint and did not start again
    assert read_json(folder.record_file)["metrics"]["score"] == read_json(reference.record_file)["metrics"]["score"]


def test_the_retry_table_is_followed_on_this_machine_too(workplace: Workplace) -> None:
    """Killed once: the same command goes on by itself; raising always: given up after as often as the table says."""
    rule = "launcher.retry.crash.action=resume"
    words = ("sweep", *TINY, "variant=cut,raising", rule, "launcher.max_parallel=2")
    done = workplace.tenfold(*words, expect=1)
    assert "crash 2 times" in done.stderr
    records = {record["variant"]: record for folder in workplace.runs() if (record := read_json(folder.record_file))}
    assert [row["failure"] for row in records["cut"]["attempts"]] == ["crash", None]
    assert records["cut"]["status"] == "completed"
    assert [row["failure"] for row in records["raising"]["attempts"]] == ["crash", "crash"]


def test_two_sweeps_at_once_run_everything_exactly_once(workplace: Workplace) -> None:
    words = ("sweep", *TINY, "seed=0,1,2", "launcher.max_parallel=1")
    sweeps = [workplace.start(*words) for _ in range(2)]
    for sweep in sweeps:
        _, error = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, error
    assert len(workplace.runs()) == 3
    for folder in workplace.runs():
        assert len(folder.attempts()) == 1
        assert folder.read_record()["status"] == "completed"


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.05)


def test_ctrl_c_leaves_and_the_same_command_goes_on(workplace: Workplace) -> None:
    words = ("sweep", *TINY, "variant=slow", "seed=0,1,2", "launcher.max_parallel=1")
    sweep = workplace.start(*words)
    wait_for(lambda: any((workplace.path / "runs").glob("*/attempt-0/steps/0.jsonl")))
    sweep.send_signal(signal.SIGINT)
    (workplace.path / "go").touch()
    _, error = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, error
    status = sorted(row["status"] for row in workplace.json("status"))
    assert status == ["completed", "pending", "pending"]
    workplace.tenfold(*words)
    assert {row["status"] for row in workplace.json("status")} == {"completed"}
    assert {len(folder.attempts()) for folder in workplace.runs()} == {1}


def test_second_ctrl_c_cancels_with_a_checkpoint_and_it_resumes(workplace: Workplace) -> None:
    words = ("run", *TINY, "variant=slow", "train.checkpoint_every=0")
    run = workplace.start(*words)
    wait_for(lambda: any((workplace.path / "runs").glob("*/attempt-0/steps/0.jsonl")))
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGTERM)
    (folder,) = workplace.runs()
    wait_for(lambda: folder.attempts()[0].failure() is not None)
    (workplace.path / "go").touch()
    _, error = run.communicate(timeout=120)
    assert run.returncode == 1, error
    assert folder.attempts()[0].failure()["class"] == "cancelled"
    assert (folder.checkpoints / "latest").exists()
    workplace.tenfold(*words)
    assert read_json(folder.record_file)["status"] == "completed"
    assert read_json(folder.attempts()[1].path / "ranks" / "0.json")["first_step"] > 0


def test_time_limit(workplace: Workplace) -> None:
    run = workplace.start("run", *TINY, "variant=slow", "launcher.time_limit_s=6")
    wait_for(lambda: any(folder.attempts() and folder.attempts()[0].failure() for folder in workplace.runs()))
    (workplace.path / "go").touch()
    run.communicate(timeout=120)
    assert run.returncode == 1
    (row,) = workplace.json("status")
    assert row["failure"]["class"] == "timeout"


def test_a_full_disk_loses_nothing_that_was_completed(workplace: Workplace, tmpfs: Callable[[str], Path]) -> None:
    disk = tmpfs("size=3m")
    runs = f"paths.runs={disk}/runs"
    workplace.tenfold("run", *TINY, runs)
    (disk / "ballast").write_bytes(b"x" * (disk_free(disk) - 60_000))
    done = workplace.tenfold("run", *TINY, "seed=1", runs, expect=None)
    assert done.returncode in (1, 2)
    assert "free space" in done.stderr or "No space" in done.stderr + done.stdout
    rows = workplace.json("status", runs)
    assert {row["seed"]: row["status"] for row in rows}[0] == "completed"
    assert all(row["status"] != "completed" for row in rows if row["seed"] == 1)
    assert not list(disk.rglob("*.tmp"))
    (disk / "ballast").unlink()
    workplace.tenfold("retry", runs)
    workplace.tenfold("run", *TINY, "seed=1", runs)
    assert {row["status"] for row in workplace.json("status", runs)} == {"completed"}


def disk_free(path: Path) -> int:
    import os

    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


def test_a_read_only_folder_is_refused_before_anything_starts(workplace: Workplace, tmpfs: Callable[[str], Path]) -> None:
    disk = tmpfs("size=1m,ro")
    done = workplace.tenfold("run", *TINY, f"paths.runs={disk}/runs", expect=1)
    assert "cannot make the run folder" in done.stderr
    assert "paths.runs=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_corrupt_record_is_shown_and_can_be_rebuilt(workplace: Workplace) -> None:
    workplace.tenfold("run", *TINY)
    (folder,) = workplace.runs()
    sound = folder.record_file.read_text()
    folder.record_file.write_text(sound[: len(sound) // 2])
    (row,) = workplace.json("table")
    assert row["status"] == "damaged"
    assert "--repair" in row["failure"]["next_step"]
    workplace.tenfold("doctor", "--runs", expect=1)
    workplace.tenfold("doctor", "--runs", "--repair")
    assert folder.record_file.read_text() == sound
    workplace.tenfold("run", *TINY)  # still known as completed: not run again
    assert len(folder.attempts()) == 1
