"""Faults injected into runs on a real Slurm. All are injected at once and waited for together; each test then reads one outcome.

No fault may lose a completed run, run one twice, or show a false state; what was interrupted ends with the same bits.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from launchers.cluster import LoopbackCluster
from results.merge import build_record
from results.runfolder import RunFolder
from tests.slurm.conftest import require_slurm
from tests.slurm.support import slurm_words, sweep_study, wait_for
from tests.support import Workplace

pytestmark = pytest.mark.slurm

#: Same experiment, same seed, other repeat: their metrics must agree bit for bit.
PACED = ("system=faulty", "scale=tiny", "variant=paced", "engine=zero1", "ranks=2", "train.steps=1500", "tracker=none")
PACE_S = 0.1
#: Steps from checkpoint to checkpoint of runs that lose a node without a word.
CHECKPOINT_EVERY = 20


@dataclass
class Storm:
    """Everything that was started, interrupted and waited for.

    Attributes:
        seen: statuses that ``tenfold status`` showed of a run, in the order they were first seen.
        noted: what was measured while faults were injected.
    """

    work: Workplace
    cluster: LoopbackCluster
    names: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=dict)
    noted: dict[str, Any] = field(default_factory=dict)

    def submit(self, label: str, *words: str) -> None:
        before = {folder.name for folder in self.work.runs()}
        told = self.work.json("sweep", *words, "launcher=slurm")
        self.noted[f"{label} jobs"] = [job["job"] for job in told["jobs"]]
        (name,) = {folder.name for folder in self.work.runs()} - before
        self.names[label] = name

    def folder(self, label: str) -> RunFolder:
        return RunFolder(self.work.path / "runs" / self.names[label])

    def steps(self, label: str) -> int:
        """Steps done by the newest attempt, 0 before it trains."""
        last = self.folder(label).last_attempt()
        progress = last.read("progress", {}) if last else {}
        return int(progress.get("done", 0)) if progress.get("phase") == "train" else 0

    def wait_between_checkpoints(self, label: str) -> None:
        """Until what a sudden end would lose is neither nothing nor nearly everything since the last checkpoint."""
        wait_for(lambda: 5 <= self.steps(label) % CHECKPOINT_EVERY <= 9, f"{label} is between two checkpoints", 60, 0.05)

    def job(self, label: str) -> str:
        job: str = self.noted[f"{label} jobs"][0]
        return job

    def look(self) -> dict[str, str]:
        """Statuses now; remembered."""
        rows = {row["run"]: row["status"] for row in self.work.json("status")}
        for name, status in rows.items():
            history = self.seen.setdefault(name, [])
            if not history or history[-1] != status:
                history.append(status)
        return rows

    def worker(self, label: str, rank: int) -> psutil.Process:
        """The process of one rank."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "harness.worker" in words and words[-1].endswith(self.names[label]) and process.environ().get("RANK") == str(rank):
                return process
        raise AssertionError(f"rank {rank} of {label} is not there")

    def record(self, label: str) -> dict[str, Any]:
        """As the files say now: the last word may not have been written down yet when a run ends."""
        return build_record(self.folder(label)).as_dict()

    def settled(self) -> bool:
        """Whether everything that was submitted has ended and been accounted for."""
        folders = (self.work.path / "runs" / ".submissions").glob("*/submission.json")
        return all((path.parent / "settled.json").exists() for path in folders)


@pytest.fixture(scope="module")
def cluster(slurm_folder: Path) -> Iterator[LoopbackCluster]:
    """Eight nodes of its own: two of them are there to be lost."""
    require_slurm()
    made = LoopbackCluster(slurm_folder / "storm")
    before = os.environ["TENFOLD_CONFIG"]
    os.environ["TENFOLD_CONFIG"] = str(slurm_folder / "storm-config")
    made.up(nodes=8, preempt=True)
    try:
        yield made
    finally:
        made.down()
        os.environ["TENFOLD_CONFIG"] = before


@pytest.fixture(scope="module")
def storm(cluster: LoopbackCluster, tmp_path_factory: pytest.TempPathFactory) -> Storm:
    work = Workplace(tmp_path_factory.mktemp("storm"))
    found = Storm(work, cluster)
    (work.path / "pace").write_text(str(PACE_S))
    _start(found)
    _inject(found)
    (work.path / "pace").unlink()
    _more(found)
    deadline = time.monotonic() + 300
    while any(status in ("queued", "running", "unknown") for status in found.look().values()) or not found.settled():
        assert time.monotonic() < deadline, found.look()
        time.sleep(1)
    return found


def _start(storm: Storm) -> None:
    """Each on nodes of its own, so that a fault meets nobody else."""
    places = {
        "preempted": "n1",
        "requeued": "n2",
        "one rank signalled": "n3",
        "out of time": "n4",
        "node lost": "",
        "only node lost": "",
    }
    for repeat, (label, nodes) in enumerate(places.items(), 1):
        words = [*PACED, f"repeat={repeat}", f"site.nodelist={nodes}"]
        if label == "node lost":  # two of n5 to n8
            words = [*words[:-1], "site.exclude='n[1-4]'", "launcher.nodes=2", f"train.checkpoint_every={CHECKPOINT_EVERY}"]
        if label == "only node lost":  # with everything that could say why
            words = [*words[:-1], "site.exclude='n[1-6]'", f"train.checkpoint_every={CHECKPOINT_EVERY}"]
        if label == "out of time":
            words += ["launcher.time_limit_s=60"]
        storm.submit(label, *words)


def _inject(storm: Storm) -> None:
    cluster = storm.cluster
    for label in storm.names:
        wait_for(lambda label=label: storm.steps(label) >= 30, f"{label} trains", 120)
    storm.look()
    for label, fault in {
        "requeued": lambda: slurm_words(cluster, "scontrol", "requeue", storm.job("requeued")),
        "one rank signalled": lambda: storm.worker("one rank signalled", 1).send_signal(signal.SIGUSR2),
        "preempted": lambda: slurm_words(
            cluster, "sbatch", "-p", "high", "-w", "n1", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 2"
        ),
    }.items():
        begun = time.time()
        fault()
        path = storm.folder(label).path / "attempt-0" / "leave.json"
        wait_for(path.exists, f"{label}: its ranks leave", 30)
        wait_for(lambda label=label: not _workers(storm, label), f"{label}: its ranks are gone", 30, 0.02)
        storm.noted[f"{label} exit_s"] = time.time() - begun
    storm.wait_between_checkpoints("node lost")
    cluster.stop_node("n6")
    storm.wait_between_checkpoints("only node lost")
    cluster.stop_node(storm.folder("only node lost").attempts()[0].read("attempt")["job"]["nodes"])
    cluster.stop_accounting()
    storm.noted["without accounting"] = storm.look()
    cluster.stop_controller()
    storm.noted["without controller"] = storm.look()
    refused = storm.work.tenfold("sweep", *PACED, "seed=9", "launcher=slurm", expect=None)
    storm.noted["submitting without controller"] = (refused.returncode, refused.stderr)
    cluster.start_controller()
    cluster.start_accounting()
    cluster.wait_ready()
    path = storm.folder("out of time").path / "attempt-0" / "leave.json"
    wait_for(path.exists, "the run that is out of time leaves by itself", 90)


def _workers(storm: Storm, label: str) -> list[int]:
    """Processes of a run's ranks."""
    name = storm.names[label]
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "harness.worker" in words and words[-1].endswith(name):
            found.append(process.pid)
    return found


def _more(storm: Storm) -> None:
    """Faults that need nobody to inject them, and the undisturbed run that interrupted ones are compared with."""
    here = "site.exclude='n[5-8]'"
    storm.submit("undisturbed", *PACED, here)
    storm.noted["twenty"] = _twenty(storm, here)
    storm.submit("greedy", "system=faulty", "scale=tiny", "variant=greedy", here)
    storm.submit("starved", "system=faulty", "scale=tiny", "variant=starved", here)
    storm.submit("killed", "system=faulty", "scale=tiny", "variant=killed", "engine=zero1", "ranks=2", here)
    storm.submit("nan", "system=faulty", "scale=tiny", "variant=nan", here)
    _kill_the_launcher(storm, here)


def _twenty(storm: Storm, here: str) -> list[str]:
    """Nineteen runs that are well and, among them, one that is not; their names."""
    before = {folder.name for folder in storm.work.runs()}
    points = 'points: [[variant=healthy, "seed=range(9)"], [variant=raising], [variant=healthy, "seed=range(9,19)"]]'
    text = f"common: [system=faulty, scale=tiny, tracker=none]\nstages:\n  - {{name: all, {points}}}\n"
    sweep_study(storm.work, "twenty", text, here)
    return sorted({folder.name for folder in storm.work.runs()} - before)


def _kill_the_launcher(storm: Storm, here: str) -> None:
    """An sbatch that submits and then kills whoever called it: the number is never written down."""
    words = ["sweep", "system=faulty", "scale=tiny", "variant=healthy", "seed=77", "launcher=slurm", here]
    folder = storm.work.path / "bin"
    folder.mkdir()
    wrapper = folder / "sbatch"
    wrapper.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" > said\nkill -9 $PPID\n')
    wrapper.chmod(0o755)
    before = {run.name for run in storm.work.runs()}
    environment = {**storm.work.environment(), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(storm.work.command(*words), cwd=storm.work.path, env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (storm.names["launcher killed"],) = {run.name for run in storm.work.runs()} - before
    token = max((storm.work.path / "runs" / ".submissions").glob("*/submission.json"), key=lambda path: path.stat().st_mtime)
    storm.noted["number was written"] = (token.parent / "job.json").exists()
    storm.noted["submitted again"] = storm.work.json(*words)


INTERRUPTED = ("preempted", "requeued", "one rank signalled", "out of time", "node lost", "only node lost")


@pytest.mark.parametrize("label", INTERRUPTED)
def test_an_interrupted_run_ends_with_the_same_bits(storm: Storm, label: str) -> None:
    record, reference = storm.record(label), storm.record("undisturbed")
    assert record["status"] == "completed"
    assert len(record["attempts"]) >= 2
    assert record["metrics"]["score"] == reference["metrics"]["score"]
    samples = [np.load(storm.folder(name).path / "samples.npz")["score_squared"] for name in (label, "undisturbed")]
    assert np.array_equal(*samples)
    assert "failed" not in storm.seen[storm.names[label]]


@pytest.mark.parametrize(
    ("label", "kind", "reason"),
    [
        ("preempted", "preempted", "requeued the job"),
        ("requeued", "preempted", "requeued the job"),
        ("one rank signalled", "preempted", "while the job went on"),
        ("out of time", "timeout", "time limit is near"),
        ("node lost", "node-fail", "vanished with node n6"),
        ("only node lost", "node-fail", "before its restart 1"),
    ],
)
def test_the_attempt_says_why(storm: Storm, label: str, kind: str, reason: str) -> None:
    failure = storm.folder(label).attempts()[0].failure()
    assert failure is not None
    assert failure["class"] == kind
    assert reason in failure["reason"]


@pytest.mark.parametrize("label", ["preempted", "requeued", "one rank signalled", "out of time"])
def test_who_is_asked_to_leave_loses_no_step(storm: Storm, label: str) -> None:
    metrics = storm.record(label)["metrics"]
    assert metrics["lost_steps"]["value"] == 0
    left = storm.folder(label).attempts()[0].read("leave")
    assert left["step"] == storm.folder(label).attempts()[0].failure()["step"]


@pytest.mark.parametrize("label", ["preempted", "requeued", "one rank signalled"])
def test_from_the_signal_to_the_exit(storm: Storm, label: str) -> None:
    """Not a matter of speed but of the scheduler's patience (KillWait is 10 s here): half of it is left for a checkpoint."""
    assert storm.noted[f"{label} exit_s"] < 5, storm.noted[f"{label} exit_s"]


@pytest.mark.parametrize("label", ["node lost", "only node lost"])
def test_a_lost_node_costs_what_lies_behind_the_last_checkpoint(storm: Storm, label: str) -> None:
    record = storm.record(label)
    assert 0 < record["metrics"]["lost_steps"]["value"] <= 2 * CHECKPOINT_EVERY
    assert record["attempts"][0]["failure"] == "node-fail"


def test_the_lost_node_is_named_and_not_used_again(storm: Storm) -> None:
    record = storm.record("node lost")
    assert record["attempts"][0]["lost_nodes"] == ["n6"]
    assert "6" not in record["attempts"][-1]["job"]["nodes"]


def test_accounting_is_joined(storm: Storm) -> None:
    for label in ("requeued", "preempted", "undisturbed"):
        record = storm.record(label)
        assert record["accounting"]["unknown"] == "", label
        assert record["accounting"]["max_rss_gib"] > 0.05
        assert record["accounting"]["restarts"] == (0 if label == "undisturbed" else 1)
        lives = [row["accounting"] for row in record["attempts"]]
        assert all(life["queue_wait_s"] is not None and life["elapsed_s"] is not None for life in lives)
        assert record["metrics"]["queue_wait_s"]["value"] == sum(life["queue_wait_s"] for life in lives)


def test_no_false_state_while_the_scheduler_is_away(storm: Storm) -> None:
    for name in (storm.names[label] for label in INTERRUPTED):
        assert storm.noted["without accounting"][name] in ("queued", "running")
        assert storm.noted["without controller"][name] == "unknown"
    status, said = storm.noted["submitting without controller"]
    assert status != 0
    assert "does not answer" in said


def test_one_failing_run_in_an_array_of_twenty(storm: Storm) -> None:
    assert len(storm.noted["twenty"]) == 20
    records = [RunFolder(storm.work.path / "runs" / name).read_record() or {} for name in storm.noted["twenty"]]
    assert [record["status"] for record in records].count("failed") == 1
    for record in records:
        assert record["status"] == ("failed" if record["variant"] == "raising" else "completed"), record["run"]
        assert len(record["attempts"]) == 1
    (failed,) = (record for record in records if record["status"] == "failed")
    assert (failed["failure"]["class"], failed["failure"]["rank"]) == ("crash", 0)
    assert failed["attempts"][0]["accounting"]["state"] == "FAILED"
    tasks = {record["attempts"][0]["job"]["job_id"] for record in records}
    (array,) = {task.split("_")[0] for task in tasks}
    assert tasks == {f"{array}_{index}" for index in range(20)}


def test_a_killed_rank_is_named_and_nobody_tries_again(storm: Storm) -> None:
    record = storm.record("killed")
    assert (record["status"], len(record["attempts"])) == ("failed", 1)
    assert (record["failure"]["class"], record["failure"]["rank"]) == ("crash", 1)
    assert "SIGKILL" in record["failure"]["reason"]


def test_out_of_device_memory_goes_on_with_half_the_micro_batch(storm: Storm) -> None:
    record = storm.record("greedy")
    assert record["status"] == "completed"
    assert [row["micro_batch"] for row in record["attempts"]] == [8, 4, 2]
    assert [row["failure"] for row in record["attempts"]] == ["oom-device", "oom-device", None]
    assert len({row["job"]["job_id"] for row in record["attempts"]}) == 1  # inside one allocation
    assert record["timing_valid"] is False


def test_out_of_host_memory_gets_a_job_with_more(storm: Storm) -> None:
    record = storm.record("starved")
    assert record["status"] == "completed"
    assert record["attempts"][0]["failure"] == "oom-host"
    memory = [row["accounting"]["alloc_tres"]["mem_bytes"] for row in record["attempts"]]
    assert len(memory) == 2
    assert memory[1] >= 1.5 * memory[0]


def test_diverged_stops_and_keeps_the_evidence(storm: Storm) -> None:
    record = storm.record("nan")
    assert (record["status"], len(record["attempts"])) == ("failed", 1)
    assert record["failure"]["class"] == "diverged"
    assert storm.folder("nan").attempts()[0].log(0).exists()


def test_a_launcher_killed_between_sbatch_and_the_number(storm: Storm) -> None:
    assert storm.noted["number was written"] is False
    assert storm.noted["submitted again"]["jobs"] == []
    record = storm.record("launcher killed")
    assert (record["status"], len(record["attempts"])) == ("completed", 1)
    comments = slurm_words(storm.cluster, "sacct", "-X", "-n", "-P", "--format=JobName").splitlines()
    assert comments.count(storm.names["launcher killed"]) == 1


def test_nothing_completed_was_run_twice(storm: Storm) -> None:
    for folder in storm.work.runs():
        assert sum(attempt.completed for attempt in folder.attempts()) <= 1, folder.name
