"""A scheduler without machines: ``sbatch``, ``squeue``, ``scontrol``, ``scancel``, ``sacct`` that keep their state in a folder.

As a program it is one of the five, for real subprocesses of the code under test: only the standard library is imported, and the
compiled module is kept, so a call takes 30 ms. To tests it is their hand on the scheduler. No job ever runs: they say how jobs
fare. Whoever runs a batch step has ``srun``, whose tasks are processes of this machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel", "sacct", "srun")
WAITING = {"PENDING"}
IN_QUEUE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"}
_PROGRAM = """import sys
sys.path.insert(0, sys.argv[1])
from fake_slurm import FakeSlurm, Path, main
sys.exit(main(FakeSlurm(Path(sys.argv[2])), sys.argv[3], sys.argv[4:]))"""
SILENT = "Unable to contact slurm controller (connect failure)"


class FakeSlurm:
    """The state, as tests read and change it.

    Attributes:
        folder: holds ``jobs.json``, ``behaviour.json``, ``calls.txt`` and, in ``bin``, the programs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self) -> Path:
        """Write the programs; the folder that belongs on PATH."""
        programs = self.folder / "bin"
        programs.mkdir(parents=True)
        for name in PROGRAMS:
            words = [sys.executable, "-S", "-E", "-c", _PROGRAM, str(Path(__file__).resolve().parent), str(self.folder), name]
            path = programs / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return programs

    @contextmanager
    def state(self) -> Iterator[dict[str, Any]]:
        """Everything, to be read and changed while no program does."""
        path = self.folder / "jobs.json"
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(path.read_text()) if path.exists() else {"next": 101, "jobs": {}, "sbatch": [], "down": []}
            yield state
            path.write_text(json.dumps(state))

    @property
    def jobs(self) -> dict[str, Any]:
        """Jobs by number; a job has ``tasks`` by index (``-`` where it is no array)."""
        with self.state() as state:
            found: dict[str, Any] = state["jobs"]
            return found

    def behave(self, *how: str) -> None:
        """What the next calls of sbatch do: ``accept``, ``refuse``, ``lose-answer`` (accepted, and the answer is lost),
        ``no-answer`` (not accepted either), ``banner`` (accepted, with further lines), ``mumble`` (accepted, no number),
        ``kill-caller`` (accepted, then whoever called it is killed), ``kill-unheard`` (whoever called it is killed, nothing is
        accepted), ``wait`` (until the file ``go`` is there)."""
        with self.state() as state:
            state["sbatch"] = list(how)

    def down(self, *programs: str) -> None:
        """These programs do not reach the controller; none: all are back."""
        with self.state() as state:
            state["down"] = list(programs)

    def set(self, job: str, task: str = "-", **facts: str) -> None:
        """A job's or task's ``state``, ``reason``, ``nodes``, ``restarts``, ``preempted`` (since when), ``left`` (its time)."""
        with self.state() as state:
            state["jobs"][job]["tasks"][task].update(facts)

    def describe(self, job: str, **facts: str) -> None:
        """A job's ``name``, ``comment``, ``command`` (path of its script)."""
        with self.state() as state:
            state["jobs"][job].update(facts)

    def forget(self, job: str) -> None:
        """The controller remembers the job no more."""
        with self.state() as state:
            del state["jobs"][job]

    def account(self, rows: str) -> None:
        """What sacct says, with its header line; before the first call there is no accounting."""
        (self.folder / "sacct.txt").write_text(rows)

    def calls(self, program: str | None = None) -> list[dict[str, Any]]:
        """Calls of the programs so far: ``program``, ``words``, ``foreign`` (names of variables that must not be there)."""
        path = self.folder / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [call for call in found if program in (None, call["program"])]


def main(slurm: FakeSlurm, program: str, words: list[str]) -> int:
    """One call of one program; its exit status."""
    foreign = sorted(name for name in os.environ if name.startswith(("SBATCH_", "SLURM_", "SQUEUE_")) and name != "SLURM_CONF")
    with (slurm.folder / "calls.txt").open("a") as log:
        log.write(json.dumps({"program": program, "words": words, "foreign": foreign}) + "\n")
    with slurm.state() as state:
        if program in state["down"]:
            print(f"slurm_load_jobs error: {SILENT}", file=sys.stderr)
            return 1
    programs = {"sbatch": _sbatch, "squeue": _squeue, "scontrol": _scontrol, "scancel": _scancel, "sacct": _sacct, "srun": _srun}
    return programs[program](slurm, words)


def _sbatch(slurm: FakeSlurm, words: list[str]) -> int:
    script = Path(words[-1])
    with slurm.state() as state:
        how = state["sbatch"].pop(0) if state["sbatch"] else "accept"
    if how == "refuse":
        print("sbatch: error: Batch job submission failed: Invalid partition name specified", file=sys.stderr)
        return 1
    if how == "kill-unheard":
        os.kill(os.getppid(), signal.SIGKILL)
        return 1
    if how == "no-answer":
        print(f"sbatch: error: Batch job submission failed: {SILENT}", file=sys.stderr)
        return 1
    if how == "wait":
        (slurm.folder / "waiting").touch()
        deadline = time.monotonic() + 60
        while not (slurm.folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    with slurm.state() as state:
        number = str(state["next"])
        state["next"] += 1
        state["jobs"][number] = _job(script)
    if how == "kill-caller":
        os.kill(os.getppid(), signal.SIGKILL)
    if how == "lose-answer":
        print("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", file=sys.stderr)
        return 1
    if how == "mumble":
        return 0
    print(f"welcome\n{number};cluster\nyour quota is fine" if how == "banner" else number)
    return 0


def _job(script: Path) -> dict[str, Any]:
    text = script.read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    flags = {name: "".join(shlex.split(value)) if name != "comment" else shlex.split(value)[0] for name, value in flags.items()}
    array = re.fullmatch(r"0-(\d+)%\d+", flags.get("array", ""))
    indices = [str(index) for index in range(int(array.group(1)) + 1)] if array else ["-"]
    task = {"state": "PENDING", "reason": "Priority", "nodes": "", "restarts": "0", "preempted": "None", "left": "10:00"}
    return {
        "command": str(script),
        "dependency": flags.get("dependency", ""),
        "name": flags["job-name"],
        "comment": flags["comment"],
        "flags": flags,
        "ledger_first": (script.parent / "submission.json").exists(),
        "tasks": {index: dict(task) for index in indices},
    }


def _tasks(jobs: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    for number, job in jobs.items():
        for index, task in job["tasks"].items():
            raw = number if index == "-" else f"{number}{int(index):04d}"
            yield (number if index == "-" else f"{number}_{index}"), raw, job, task


def _unfulfilled(slurm: FakeSlurm, job: dict[str, Any]) -> str:
    """What a job still waits for, as squeue writes it."""
    jobs = slurm.jobs
    numbers = job["dependency"].removeprefix("afterany:").split(":")
    waiting = [n for n in numbers if n in jobs and any(task["state"] in IN_QUEUE for task in jobs[n]["tasks"].values())]
    return ",".join(f"afterany:{n}_*(unfulfilled)" for n in waiting) or "(null)"


def _squeue(slurm: FakeSlurm, words: list[str]) -> int:
    (form,) = (word.removeprefix("--format=") for word in words if word.startswith("--format="))
    asked = [word.removeprefix("--jobs=") for word in words if word.startswith("--jobs=")]
    for job_id, raw, job, task in _tasks(slurm.jobs):
        if asked and not {job_id, raw} & set(asked):
            continue
        if task["state"] in IN_QUEUE:
            values = {
                "i": job_id, "A": raw, "T": task["state"], "r": task["reason"], "k": job["comment"], "j": job["name"],
                "N": task["nodes"], "L": task["left"], "o": job["command"], "E": _unfulfilled(slurm, job),
            }  # fmt: skip
            print(re.sub(r"%([a-zA-Z])", lambda found, values=values: values[found.group(1)], form))
    return 0


def _scontrol(slurm: FakeSlurm, words: list[str]) -> int:
    what = [word for word in words if not word.startswith("--")]
    if what[:2] == ["show", "config"]:
        print("Configuration data\nMaxArraySize            = 1001\nClusterName             = fake")
        return 0
    if what[0] in ("update", "requeue"):
        return _change(slurm, what)
    if what[:2] == ["show", "node"]:
        print("NodeName=n1 NodeAddr=n1 State=ALLOCATED")
        return 0
    if what[:2] != ["show", "job"]:
        print(f"invalid keyword: {what}", file=sys.stderr)
        return 1
    found = [entry for entry in _tasks(slurm.jobs) if len(what) < 3 or what[2] in (entry[0], entry[1])]
    if len(what) > 2 and not found:
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    for job_id, raw, job, task in found:
        base, _, index = job_id.partition("_")
        array = f"ArrayJobId={base} ArrayTaskId={index} " if index else ""
        host = task["nodes"].split(",")[0]
        print(
            f"JobId={raw} {array}JobName={job['name']} UserId=user(1000) JobState={task['state']} Reason={task['reason']} "
            f"Dependency=(null) Restarts={task['restarts']} PreemptTime={task['preempted']} NodeList={task['nodes']} "
            f"BatchHost={host} Command={job['command']} Comment={job['comment']} StdOut=/dev/null"
        )
    return 0


def _change(slurm: FakeSlurm, words: list[str]) -> int:
    """``scontrol update JobId=... Key=value`` and ``scontrol requeue ID``."""
    job_id = words[1].removeprefix("JobId=")
    with slurm.state() as state:
        found = [entry for entry in _tasks(state["jobs"]) if job_id in (entry[0], entry[1], entry[0].split("_")[0])]
        for _, _, job, task in found:
            if words[0] == "requeue":
                task.update(state="PENDING", reason="BeginTime", restarts=str(int(task["restarts"]) + 1))
            for key, _, value in (word.partition("=") for word in words[2:]):
                job[key.lower()] = value
    return 0 if found else 1


def _scancel(slurm: FakeSlurm, words: list[str]) -> int:
    pending_only = "--state=PENDING" in words
    with slurm.state() as state:
        for job_id, _, _, task in _tasks(state["jobs"]):
            named = job_id in words or job_id.split("_")[0] in words
            if named and task["state"] in (WAITING if pending_only else IN_QUEUE):
                task.update(state="CANCELLED", reason="None")
    return 0


def _srun(slurm: FakeSlurm, words: list[str]) -> int:
    """A step on node n1: as many processes as tasks, ended together."""
    begin = next(index for index, word in enumerate(words) if not word.startswith("--") and index)
    (count,) = (int(word.removeprefix("--ntasks=")) for word in words if word.startswith("--ntasks="))
    step = {"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_TASKS_PER_NODE": str(count)}
    ranks = [{**step, "SLURM_NODEID": "0", "SLURM_LOCALID": str(rank), "SLURM_PROCID": str(rank)} for rank in range(count)]
    tasks = [subprocess.Popen(words[begin:], env={**os.environ, **rank}) for rank in ranks]

    def end(number: int, frame: object) -> None:
        for task in tasks:
            task.kill()

    signal.signal(signal.SIGTERM, end)
    return max(abs(task.wait()) for task in tasks)


def _sacct(slurm: FakeSlurm, words: list[str]) -> int:
    path = slurm.folder / "sacct.txt"
    if not path.exists():
        print("Slurm accounting storage is disabled", file=sys.stderr)
        return 1
    rows = path.read_text()
    print(rows.splitlines()[0].replace("\x1f", " ") if "--helpformat" in words else rows)
    return 0
