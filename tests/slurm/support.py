"""How tests talk to the loopback Slurm."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launchers.cluster import LoopbackCluster
from tests.support import FAULTY, Workplace


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0, every_s: float = 0.1) -> float:
    """Poll until a condition holds; fails the test by naming it. Returns how long that took (s)."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)
    return time.monotonic() - begun


def sweep_study(work: Workplace, name: str, text: str, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Sweep a study of the faulty system that is written here (its YAML)."""
    own = work.path / "own"
    shutil.copytree(FAULTY, own, dirs_exist_ok=True)
    (own / "study" / f"{name}.yaml").write_text(text)
    command = [sys.executable, "-m", "harness", "sweep", f"study={name}", "launcher=slurm", *words, "--config-dir", "own"]
    done = subprocess.run(command, cwd=work.path, env=work.environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def slurm_words(cluster: LoopbackCluster, *words: str, expect: int | None = 0) -> str:
    """What a command of Slurm prints; its exit status must be ``expect`` (None: any)."""
    done = subprocess.run(words, capture_output=True, text=True, env=cluster.command_environment(), timeout=60)
    assert expect is None or done.returncode == expect, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def submit(cluster: LoopbackCluster, script: str, *flags: str, folder: Path) -> str:
    """Submit a script (its text) whose output goes to ``folder``/JOB.out, appended by later attempts; returns the job's id."""
    out = ["--output", str(folder / "%j.out"), "--open-mode=append"]
    return slurm_words(cluster, "sbatch", "--parsable", *out, *flags, "--wrap", script)


def job_state(cluster: LoopbackCluster, job: str) -> str:
    """The state of a job as the controller has it (PENDING, RUNNING, COMPLETED, ...)."""
    text = slurm_words(cluster, "scontrol", "--oneliner", "show", "job", job)
    return text.partition("JobState=")[2].split()[0]


def wait_state(cluster: LoopbackCluster, job: str, *states: str, timeout_s: float = 60.0) -> float:
    """Wait until a job is in one of the states; returns how long that took (s)."""
    return wait_for(lambda: job_state(cluster, job) in states, f"job {job} {' or '.join(states)}", timeout_s)


def accounted(cluster: LoopbackCluster, job: str, *fields: str, steps: bool = False) -> list[list[str]]:
    """Rows of sacct, one per attempt of a job (and of its steps)."""
    words = ["--duplicates", "--noheader", "--parsable2", "--noconvert", "--jobs", job, "--format", ",".join(fields)]
    text = slurm_words(cluster, "sacct", *words, *([] if steps else ["--allocations"]))
    return [line.split("|") for line in text.splitlines()]
