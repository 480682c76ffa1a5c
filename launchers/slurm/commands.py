"""Slurm's commands: called with an environment that overrides nothing by accident, their answers as plain values."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.environment import without_foreign
from results.errors import LaunchError

#: What the commands say while a controller restarts; worth another try.
_TRANSIENT = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "slurm backup controller in standby",
    "temporarily unable",
    "zero bytes were transmitted",
    "unexpected message received",
)
#: Between fields of the queue: names, comments and reasons hold any printable character.
_DELIMITER = "\x1f"
#: Not the user's own rendezvous either: a job submitted from a job must find its own.
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class UnreachableError(LaunchError):
    """The controller does not answer: nothing is known, which is not the same as nothing being there."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """One line of the queue: a job, or one task of an array.

    Attributes:
        job_id: ``123`` or ``123_4``.
        raw_id: the number that commands inside the job know it by.
        time_left_s: None where there is no limit.
        command: path of the script that was submitted.
        dependency: what it still waits for, in Slurm's words; empty: nothing.
    """

    job_id: str
    raw_id: str
    state: str
    reason: str
    comment: str
    name: str
    nodes: str
    time_left_s: float | None
    command: str = ""
    dependency: str = ""

    @property
    def base_id(self) -> str:
        """The number of the job, or of the array it is a task of."""
        return self.job_id.split("_")[0]

    @property
    def waits_for(self) -> set[str]:
        """Numbers of jobs and arrays whose end it waits for."""
        return set(re.findall(r"afterany:(\d+)", self.dependency))


def seconds(text: str) -> float | None:
    """Slurm's ``[days-]hours:minutes:seconds`` (also ``minutes:seconds``); None for ``UNLIMITED``, ``NOT_SET`` and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


@dataclass(frozen=True, slots=True)
class Slurm:
    """One cluster.

    Attributes:
        conf: ``SLURM_CONF``, None for the ambient one.
        patience_s: how long a controller that does not answer is tried again.
    """

    conf: str | None = None
    patience_s: float = 10.0

    def environment(self) -> dict[str, str]:
        """Without ``SBATCH_*``, ``SLURM_*`` and their like: they would silently win over what a script says."""
        clean = {name: value for name, value in without_foreign(os.environ).items() if name not in _RENDEZVOUS}
        conf = self.conf or os.environ.get("SLURM_CONF")
        return {**clean, "SLURM_CONF": conf} if conf else clean

    def call(self, program: str, *words: str, patience_s: float | None = None) -> str:
        """Run a command; its standard output.

        Raises:
            UnreachableError: the controller did not answer in time.
            LaunchError: the command is not there, or refuses.
        """
        if self.conf and not Path(self.conf).exists():  # Slurm's commands would look for it for a minute
            raise UnreachableError(
                f"the cluster's configuration is gone: {self.conf}", next_step="tenfold cluster up, or site=NAME"
            )
        deadline = time.monotonic() + (self.patience_s if patience_s is None else patience_s)
        pause = 0.2
        while True:
            try:
                done = subprocess.run(
                    [program, *words],
                    capture_output=True,
                    text=True,
                    env=self.environment(),
                    timeout=60,
                    stdin=subprocess.DEVNULL,
                )
            except FileNotFoundError as error:
                raise LaunchError(
                    f"there is no {program} here", where="launcher=slurm", next_step="tenfold doctor, or tenfold cluster up"
                ) from error
            except subprocess.TimeoutExpired as error:
                raise UnreachableError(f"{program} did not answer within 60 s", where=self.conf or "") from error
            if done.returncode == 0:
                return done.stdout
            said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
            if not any(mark in said.lower() for mark in _TRANSIENT):
                raise LaunchError(f"{program} refuses: {said}", where=" ".join([program, *words])[:300])
            if time.monotonic() + pause > deadline:
                raise UnreachableError(f"the controller does not answer: {said.splitlines()[-1]}", where=self.conf or "")
            time.sleep(pause)
            pause = min(pause * 1.6, 3.0)

    def queue(self) -> dict[str, QueuedJob]:
        """All of this user's jobs that are not over, every task of an array on its own, by ``job_id``."""
        form = _DELIMITER.join(("%i", "%A", "%T", "%r", "%k", "%j", "%N", "%L", "%o", "%E"))
        return {job.job_id: job for job in parse_queue(self.call("squeue", "--me", "--noheader", "--array", f"--format={form}"))}

    def job(self, job_id: str, *, patience_s: float | None = None) -> dict[str, str]:
        """What the controller still knows of a job (``scontrol show job``); empty once it has forgotten it.

        Raises:
            UnreachableError: the controller does not answer.
            LaunchError: it refuses to, which says nothing about the job.
        """
        try:
            text = self.call("scontrol", "show", "job", "--oneliner", job_id, patience_s=patience_s)
        except LaunchError as error:
            # The second is said of a task of an array that is known otherwise.
            if any(mark in error.what.lower() for mark in ("invalid job id", " not found")):
                return {}
            raise
        return parse_fields(text.splitlines()[-1] if text.strip() else "")

    def config(self) -> dict[str, str]:
        """``scontrol show config``: every key with its value."""
        found = {}
        for line in self.call("scontrol", "show", "config").splitlines():
            key, sign, value = line.partition("=")
            if sign:
                found[key.strip()] = value.strip()
        return found

    def node_addresses(self, nodes: str | None = None) -> dict[str, str]:
        """``NodeAddr`` by node name, of all nodes or of a compact list."""
        found = {}
        for line in self.call("scontrol", "show", "node", "--oneliner", *([nodes] if nodes else [])).splitlines():
            fields = parse_fields(line)
            if "NodeName" in fields:
                found[fields["NodeName"]] = fields.get("NodeAddr", fields["NodeName"])
        return found

    def nodes_down(self, nodes: str, *, patience_s: float | None = None) -> list[str]:
        """Those of the nodes that the controller has given up."""
        text = self.call("scontrol", "show", "node", "--oneliner", nodes, patience_s=patience_s)
        found = [parse_fields(line) for line in text.splitlines()]
        return [node["NodeName"] for node in found if re.search(r"DOWN|FAIL|NOT_RESPONDING|\*", node.get("State", ""))]

    def hostnames(self, nodes: str) -> list[str]:
        """Expand ``n[1-3]``."""
        return self.call("scontrol", "show", "hostnames", nodes).split()

    def submit(self, script: str) -> str:
        """``sbatch`` a script file; the job's number.

        Raises:
            UnreachableError: no answer, or none with a number; the job may have been accepted all the same.
            LaunchError: refused.
        """
        answer = self.call("sbatch", "--parsable", script, patience_s=0.0)
        # A line of its own; what a site's wrapper says before or after it is not for us.
        number = re.search(r"^(\d+)(;\S+)?\s*$", answer, re.MULTILINE)
        if number is None:
            raise UnreachableError(f"sbatch answered {answer.strip()[:200]!r}, in which there is no job's number", where=script)
        return number.group(1)

    def test_only(self, script: str) -> str:
        """``sbatch --test-only``: when and where the script would start.

        Raises:
            LaunchError: the scheduler would refuse it.
        """
        done = subprocess.run(
            ["sbatch", "--test-only", script], capture_output=True, text=True, env=self.environment(), timeout=60
        )
        if done.returncode:
            raise LaunchError(f"sbatch would refuse it: {done.stderr.strip()}", where=script)
        return done.stderr.strip()

    def cancel(self, job_ids: Sequence[str], *, pending_only: bool = False) -> None:
        """``scancel``."""
        for start in range(0, len(job_ids), 200):
            words = ["--state=PENDING"] if pending_only else []
            self.call("scancel", *words, *job_ids[start : start + 200])

    def requeue(self, job_id: str) -> None:
        """``scontrol requeue``."""
        self.call("scontrol", "requeue", job_id)


def parse_queue(text: str) -> list[QueuedJob]:
    """Lines of ``squeue --array`` in the format of :meth:`Slurm.queue`."""
    found = []
    for line in text.splitlines():
        parts = line.strip(" ").split(_DELIMITER)
        if len(parts) != 10:
            continue
        job_id, raw_id, state, reason, comment, name, nodes, left, command, dependency = parts
        waiting = "" if dependency == "(null)" else dependency
        found.append(QueuedJob(job_id, raw_id, state, reason, comment, name, nodes, seconds(left), command, waiting))
    return found


def parse_fields(line: str) -> dict[str, str]:
    """``Key=value Key=value`` of ``scontrol --oneliner``; a value runs to the next key."""
    marks = list(re.finditer(r"(?:^|\s)([A-Za-z][\w/:-]*)=", line))
    return {
        mark.group(1): line[mark.end() : marks[i + 1].start() if i + 1 < len(marks) else len(line)].strip()
        for i, mark in enumerate(marks)
    }
