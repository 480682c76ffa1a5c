"""Accounting asked of a real Slurm: a requeued job, an array, and the database taken away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from launchers.accounting import Accounting, match_attempt, sacct_rows
from launchers.cluster import LoopbackCluster
from tests.slurm.support import slurm_words, submit, wait_for, wait_state

pytestmark = pytest.mark.slurm


def test_lives_tasks_and_memory(slurm: LoopbackCluster, tmp_path: Path) -> None:
    environment = slurm.command_environment()
    folder = tmp_path
    code = "import time; held = bytearray(80_000_000); time.sleep(2)"
    twice = submit(
        slurm, "date -u +%s >> starts; [ $(wc -l < starts) = 2 ] || sleep 60", f"--chdir={folder}", "--requeue", folder=folder
    )
    array = submit(slurm, f"srun python3 -c '{code}'", "--array=1-2", "--time=3", "--comment=a|b", folder=folder)
    waiting = submit(slurm, "true", "--hold", "--array=3-5%1", folder=folder)
    wait_for(lambda: (folder / "starts").exists(), "the first life of the job")
    slurm_words(slurm, "scontrol", "requeue", twice)
    wait_state(slurm, twice, "COMPLETED")
    for task in (1, 2):
        wait_state(slurm, f"{array}_{task}", "COMPLETED")
    accounting = Accounting(environment)
    wanted = [twice, f"{array}_1", f"{array}_2", f"{waiting}_4"]

    def told() -> bool:  # the controller tells the database in its own time
        states = [job.state for job in accounting.rows(wanted).jobs]
        return states.count("COMPLETED") == 3 and "PENDING" in states

    wait_for(told, "the database knows the ends")
    found = accounting.rows(wanted)
    assert found.unknown == ""
    lives = [job for job in found.jobs if job.job_id == twice]
    assert [(job.state, job.restarts) for job in lives] == [("REQUEUED", 0), ("COMPLETED", 1)]
    starts = [datetime.fromtimestamp(int(line), UTC) for line in (folder / "starts").read_text().split()]
    assert [match_attempt(found.jobs, twice, start) for start in starts] == lives
    assert all(job.queue_wait_s is not None and 0 <= job.queue_wait_s < 120 for job in lives)
    tasks = [job for job in found.jobs if job.id.index is not None]
    assert sorted(job.job_id for job in tasks) == [f"{array}_1", f"{array}_2"]
    for job in tasks:
        assert (job.comment, job.timelimit_s, job.nodes) == ("a|b", 180.0, 1)
        assert job.max_rss_bytes is not None
        assert 80_000_000 < job.max_rss_bytes < 200_000_000
        assert job.alloc_tres["cpu"] >= 1
    (rest,) = [job for job in found.jobs if job.id.pending]
    assert (rest.id.pending, rest.queue_wait_s) == ((3, 4, 5), None)
    slurm_words(slurm, "scancel", waiting)


def test_a_database_that_is_down_and_comes_back(slurm: LoopbackCluster) -> None:
    environment = slurm.command_environment()
    slurm.stop_accounting()
    try:
        found = sacct_rows([1], environment=environment)
        assert (found.jobs, found.unknown) == ((), "unknown: the accounting database does not answer (slurmdbd)")
    finally:
        slurm.start_accounting()
    wait_for(lambda: sacct_rows([1], environment=environment).unknown == "", "slurmdbd answers again")
