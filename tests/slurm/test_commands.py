"""The verbs on a real Slurm: scripts shown are scripts taken, sweeps are left and found again, packed runs share jobs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.cluster import LoopbackCluster
from results.merge import build_record
from results.runfolder import RunFolder
from tests.slurm.support import slurm_words, sweep_study, wait_for
from tests.support import Workplace

pytestmark = pytest.mark.slurm
HEALTHY = ("system=faulty", "scale=tiny", "variant=healthy", "tracker=none")


def records(work: Workplace) -> list[dict[str, Any]]:
    """As the files say now: the last word may not have been written down yet when a run ends."""
    return [build_record(folder).as_dict() for folder in work.runs()]


def test_scripts_of_a_dry_run_are_accepted_unchanged(slurm: LoopbackCluster, workplace: Workplace) -> None:
    shown = workplace.tenfold("sweep", "study=dlwp_scaling", "launcher=slurm", "site=loopback", "--dry-run", "--check")
    scripts = ["#!" + part for part in shown.stdout.split("#!")[1:]]
    assert len(scripts) >= 2  # one rank, two ranks, alone
    assert len(set(scripts)) == len(scripts)
    assert "".join(scripts) == shown.stdout
    assert shown.stderr.count("to start at") == len(scripts)
    assert not (workplace.path / "runs").exists()
    for number, script in enumerate(scripts):
        path = workplace.path / f"{number}.sh"
        path.write_text(script)
        job = slurm_words(slurm, "sbatch", "--parsable", "--hold", str(path))
        fields = slurm_words(slurm, "scontrol", "show", "job", "--oneliner", job)
        assert "JobState=PENDING" in fields
        slurm_words(slurm, "scancel", job)


def test_a_sweep_is_left_and_found_again(slurm: LoopbackCluster, workplace: Workplace) -> None:
    told = workplace.json("sweep", *HEALTHY, "seed=0,1,2", "launcher=slurm")
    (job,) = told["jobs"]
    assert len(job["runs"]) == 3
    text = Path(job["script"]).read_text()
    assert "#SBATCH --array=0-2" in text
    assert "wckey" not in text
    again = workplace.json("sweep", *HEALTHY, "seed=0,1,2", "launcher=slurm")
    assert again["jobs"] == []
    (study,) = (path.parent.name for path in workplace.path.glob("reports/*/study.json"))
    watched = workplace.tenfold("watch", f"study={study}")
    assert "3 completed" in watched.stdout
    assert (workplace.path / "reports" / study / "report.html").exists()
    for record in records(workplace):
        assert record["site"] == "loopback"
        assert record["attempts"][0]["job"]["job_id"].startswith(job["job"] + "_")
    names = slurm_words(slurm, "sacct", "-X", "-n", "-P", "--format=JobName", "-j", job["job"]).splitlines()
    assert sorted(names) == sorted(job["runs"])  # the queue is an index of runs


def test_runs_of_a_pack_share_a_job(slurm: LoopbackCluster, workplace: Workplace) -> None:
    told = workplace.json("sweep", *HEALTHY, "seed=range(4)", "launcher=slurm", "launcher.pack=2", "launcher.max_parallel=2")
    (job,) = told["jobs"]
    assert "#SBATCH --array=0-1" in Path(job["script"]).read_text()
    workplace.tenfold("watch")
    jobs = [record["attempts"][0]["job"]["job_id"] for record in records(workplace)]
    assert sorted(jobs) == [f"{job['job']}_0"] * 2 + [f"{job['job']}_1"] * 2
    steps = {(record["attempts"][0]["job"]["job_id"], record["attempts"][0]["job"]["step"]) for record in records(workplace)}
    assert len(steps) == 4


def test_paired_arms_share_one_allocation(slurm: LoopbackCluster, workplace: Workplace) -> None:
    sweep_study(
        workplace,
        "pairs",
        "common: [system=faulty, scale=tiny, variant=healthy, tracker=none]\n"
        "stages:\n  - {name: pairs, exclusive: true, paired: true,\n"
        '     points: [["engine=zero1", "ranks=1,2", "repeat=0,1"]]}\n',
    )
    workplace.tenfold("watch")
    found = records(workplace)
    assert [record["status"] for record in found] == ["completed"] * 4
    assert len({record["attempts"][0]["job"]["job_id"] for record in found}) == 1
    assert {record["shared_with"] for record in found} == {0}
    spans = sorted((record["attempts"][0]["started"], record["attempts"][0]["ended"]) for record in found)
    assert all(ended <= started for (_, ended), (started, _) in zip(spans, spans[1:], strict=False))


def test_cancel_what_waits_and_what_runs(slurm: LoopbackCluster, workplace: Workplace) -> None:
    (workplace.path / "pace").write_text("0.1")
    paced = ("system=faulty", "scale=tiny", "variant=paced", "train.steps=2000", "tracker=none")
    workplace.json("sweep", *paced, "seed=range(3)", "launcher=slurm", "site.array_throttle=1")

    def trains() -> bool:
        attempts = [folder.last_attempt() for folder in workplace.runs()]
        return any(attempt and attempt.read("progress", {}).get("phase") == "train" for attempt in attempts)

    wait_for(trains, "one trains", 90)
    pending = next(row["run"] for row in workplace.json("status") if row["status"] == "queued")
    assert "it waits in the queue" in workplace.tenfold("logs", pending).stdout
    assert workplace.tenfold("cancel", "--all", "--pending").stdout.startswith("2 jobs cancelled")
    statuses = sorted(row["status"] for row in workplace.json("status"))
    assert statuses == ["failed", "failed", "running"]
    workplace.tenfold("cancel", "--all")
    wait_for(lambda: all(row["status"] == "failed" for row in workplace.json("status")), "all have stopped", 60, 1)
    rows = workplace.json("status")
    assert {row["failure"]["class"] for row in rows} == {"cancelled"}
    left = [folder for folder in workplace.runs() if (folder.checkpoints / "latest").exists()]
    assert len(left) == 1
    (workplace.path / "pace").unlink()
    workplace.tenfold("retry")
    workplace.tenfold("watch")
    assert {row["status"] for row in workplace.json("status")} == {"completed"}
    resumed = RunFolder(left[0].path).attempts()[-1]
    first = resumed.rank_file(0).read_text()
    assert '"first_step": 0' not in first


def trains(folder: RunFolder) -> bool:
    last = folder.last_attempt()
    return bool(last and last.read("progress", {}).get("done", 0) > 5)


def test_a_job_preempted_by_cancellation_goes_on(slurm: LoopbackCluster, workplace: Workplace) -> None:
    """A site whose PreemptMode is CANCEL: Slurm gives nothing back. It goes on from its checkpoint, as one job, with the same
    limit, whoever of job and looks comes first."""
    (workplace.path / "pace").write_text("0.1")
    words = ("system=faulty", "scale=tiny", "variant=paced", "train.steps=300", "tracker=none", "site.nodelist=n4")
    told = workplace.json("sweep", *words, "launcher=slurm", "launcher.time_limit_s=1800")
    (folder,) = workplace.runs()
    wait_for(lambda: trains(folder), "it trains", 90)
    slurm_words(slurm, "scontrol", "update", "PartitionName=main", "PreemptMode=CANCEL")
    try:
        other = ("-p", "high", "-w", "n4", "-N", "1", "-n", "2")  # wants both of its cores
        slurm_words(slurm, "sbatch", *other, "-o", "/dev/null", "--wrap", "sleep 2")
        wait_for(lambda: (folder.path / "attempt-0" / "leave.json").exists(), "its ranks leave", 30)
        (workplace.path / "pace").unlink()
        workplace.tenfold("watch")
    finally:
        slurm_words(slurm, "scontrol", "update", "PartitionName=main", "PreemptMode=REQUEUE")
    (record,) = records(workplace)
    assert [row["failure"] for row in record["attempts"]] == ["preempted", None]
    assert record["metrics"]["lost_steps"]["value"] == 0
    rows = slurm_words(
        slurm, "sacct", "-X", "-n", "-P", "--format=JobID,State,TimelimitRaw", f"--name={folder.name}"
    ).splitlines()
    mine = [row.split("|") for row in rows]
    assert [(row[1], row[2]) for row in mine] == [("PREEMPTED", "30"), ("COMPLETED", "30")]
    assert mine[0][0] == told["jobs"][0]["job"]


def test_a_later_stage_waits_for_runs_that_are_tried_again(slurm: LoopbackCluster, workplace: Workplace) -> None:
    """The first stage's run gets a job with more memory; the exclusive stage after it began to wait for the old one."""
    sweep_study(
        workplace,
        "stages",
        "common: [system=faulty, scale=tiny, tracker=none]\nstages:\n"
        "  - {name: grid, points: [[variant=starved]]}\n"
        "  - {name: alone, exclusive: true, points: [[variant=healthy]]}\n",
    )
    workplace.tenfold("watch")
    found = {record["variant"]: record for record in records(workplace)}
    assert [row["failure"] for row in found["starved"]["attempts"]][:1] == ["oom-host"]
    assert {record["status"] for record in found.values()} == {"completed"}
    assert found["healthy"]["attempts"][0]["started"] >= found["starved"]["attempts"][-1]["ended"]


def test_a_full_scratch_folder(slurm: LoopbackCluster, workplace: Workplace, tmpfs: Callable[[str], Path]) -> None:
    """What cannot be written down is not made up: the run is not completed, and completes once there is space."""
    scratch = tmpfs("size=4m")
    (workplace.path / "pace").write_text("0.1")
    words = ("system=faulty", "scale=tiny", "variant=paced", "train.steps=200", "train.checkpoint_every=10", "tracker=none")
    here = f"paths.runs={scratch}"
    workplace.json("sweep", *words, "launcher=slurm", here)
    (folder,) = (RunFolder(path.parent) for path in scratch.glob("*/config.yaml"))
    wait_for(lambda: (folder.checkpoints / "latest").exists(), "the first checkpoint", 90)
    filler = scratch / "filler"
    free = os.statvfs(scratch).f_bfree * os.statvfs(scratch).f_frsize
    filler.write_bytes(b"0" * free)
    wait_for(lambda: not slurm_words(slurm, "squeue", "-h", "-n", folder.name), "the job has ended", 90)
    (row,) = workplace.json("status", here)
    assert row["status"] == "failed"
    filler.unlink()
    (workplace.path / "pace").unlink()
    (row,) = workplace.json("status", here)
    assert row["status"] == "failed"
    workplace.tenfold("retry", here)
    workplace.tenfold("watch", here)
    (row,) = workplace.json("status", here)
    assert row["status"] == "completed"
    assert row["attempts"] >= 2


def test_another_number_of_ranks_on_the_cluster(slurm: LoopbackCluster, workplace: Workplace) -> None:
    (workplace.path / "pace").write_text("0.1")
    words = ("system=faulty", "scale=tiny", "variant=paced", "train.steps=200", "engine=zero2", "ranks=2", "tracker=none")
    workplace.json("sweep", *words, "launcher=slurm", "launcher.nodes=2")
    (folder,) = workplace.runs()
    wait_for(lambda: bool((last := folder.last_attempt()) and last.read("progress", {}).get("done", 0) > 5), "it trains", 90)
    workplace.tenfold("cancel", folder.name)
    wait_for(lambda: workplace.json("status")[0]["status"] == "failed", "it has stopped", 60, 1)
    (workplace.path / "pace").unlink()
    refused = workplace.tenfold("retry", folder.name, "--with", "engine=zero3", expect=1)
    assert "zero3 cannot go on from it" in refused.stderr
    workplace.tenfold("retry", folder.name, "--with", "ranks=4")
    workplace.tenfold("watch")
    (record,) = records(workplace)
    assert record["status"] == "completed"
    assert [row["ranks"] for row in record["attempts"]] == [2, 4]
    assert record["timing_valid"] is False
    assert record["metrics"]["lost_steps"]["value"] == 0


def test_without_a_site_the_error_says_what_to_do(workplace: Workplace) -> None:
    environment = {**workplace.environment(), "TENFOLD_CONFIG": str(workplace.path / "nothing")}
    command = workplace.command("sweep", *HEALTHY, "launcher=slurm")
    done = subprocess.run(command, cwd=workplace.path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "tenfold cluster up" in done.stderr
    assert not (workplace.path / "runs").exists()
    assert os.environ.get("TENFOLD_SITE") is None
