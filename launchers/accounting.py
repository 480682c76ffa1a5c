"""Asking the accounting of a cluster: one question about many jobs, and "unknown" with the reason where nobody answers."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from launchers.sacct import DELIMITER, FIELDS, JobAccount, JobId, parse

#: After a failure the next question waits this long: a database that is down is found out once, not once per job.
AGAIN_S = 300.0
#: Characters of one list of jobs; the kernel takes 128 KiB in one argument.
_LIST_CHARACTERS = 60_000


@dataclass(frozen=True, slots=True)
class Accounts:
    """An answer.

    Attributes:
        jobs: in the order of sacct: the lives of a requeued job are oldest first.
        unknown: why there is no answer; empty where there is one, be it that no such job is known.
    """

    jobs: tuple[JobAccount, ...] = ()
    unknown: str = ""


@dataclass(slots=True)
class Accounting:
    """The accounting of one cluster, for the length of a command.

    Attributes:
        environment: of the commands (``SLURM_CONF`` names the cluster); None: this process's own.
        timeout_s: for one question; a missing ``slurm.conf`` keeps sacct trying for a minute.
    """

    environment: Mapping[str, str] | None = None
    timeout_s: float = 20.0
    _fields: tuple[str, ...] = ()
    _unknown: str = ""
    _failed_at: float = field(default=-AGAIN_S)

    def rows(self, job_ids: Iterable[str | int]) -> Accounts:
        """What is known of these jobs (``12``, ``12_3``, ``12+0``), and of their tasks and components where one stands for all.

        Never raises: a cluster without sacct, without accounting or with a database that is down is an answer
        (``Accounts.unknown``), remembered for five minutes.
        """
        wanted = [identity for job in job_ids if (identity := JobId.parse(str(job))) is not None]
        if not wanted:
            return Accounts()
        if self._unknown and time.monotonic() - self._failed_at < AGAIN_S:
            return Accounts(unknown=self._unknown)
        try:
            self._fields = self._fields or self._known_fields()
            jobs: list[JobAccount] = []
            # A task that has not started is not found by its own number, only by that of its array.
            for numbers in _lists(dict.fromkeys(str(identity.base) for identity in wanted)):
                jobs += parse(self._ask("--jobs", numbers, *self._format()))
        except _UnknownError as error:
            self._unknown, self._failed_at = f"unknown: {error}", time.monotonic()
            return Accounts(unknown=self._unknown)
        self._unknown = ""
        return Accounts(tuple(job for job in jobs if any(_is_of(job, identity) for identity in wanted)))

    def _format(self) -> list[str]:
        return ["--parsable2", "--noconvert", "--duplicates", f"--delimiter={DELIMITER}", f"--format={','.join(self._fields)}"]

    def _known_fields(self) -> tuple[str, ...]:
        known = {word.lower() for word in self._ask("--helpformat").split()}
        found = tuple(name for name in FIELDS if name.lower() in known)
        if "JobID" not in found:
            raise _UnknownError("sacct does not list its fields (sacct --helpformat)")
        return found

    def _ask(self, *words: str) -> str:
        ambient = os.environ if self.environment is None else self.environment
        # SACCT_FORMAT and the like of the user would change what is printed; seconds since 1970 know no time zones.
        clean = {name: text for name, text in ambient.items() if not name.startswith("SACCT_")}
        environment = {**clean, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(
                ["sacct", *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout_s,
            )
        except FileNotFoundError:
            raise _UnknownError("there is no sacct on this machine") from None
        except OSError as error:
            raise _UnknownError(f"sacct cannot be started: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise _UnknownError(f"sacct did not answer within {self.timeout_s:g} s") from None
        if done.returncode:
            raise _UnknownError(_why(done.stderr.decode(errors="replace")))
        return done.stdout.decode(errors="replace")


class _UnknownError(Exception):
    """Why the accounting gives no answer."""


def _why(stderr: str) -> str:
    """The reason in sacct's last line, without its own preamble."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("accounting storage is disabled" in line.lower() for line in lines):
        return "this cluster keeps no accounting (AccountingStorageType)"
    if any("problem talking to the database" in line.lower() or "persist" in line.lower() for line in lines):
        return "the accounting database does not answer (slurmdbd)"
    last = lines[-1] if lines else "sacct failed and gave no reason"
    for preamble in ("sacct: ", "fatal: ", "error: "):
        last = last.removeprefix(preamble)
    return last


def sacct_rows(
    job_ids: Iterable[str | int], *, environment: Mapping[str, str] | None = None, timeout_s: float = 20.0
) -> Accounts:
    """One question, for callers that ask once; :class:`Accounting` for those that ask again.

    Args:
        job_ids: as Slurm writes them.
        environment: of the command; None: this process's own.
    """
    return Accounting(environment, timeout_s).rows(job_ids)


def match_attempt(
    accounts: Sequence[JobAccount],
    job_id: str | int,
    started: datetime,
    *,
    slack: timedelta = timedelta(seconds=5),
) -> JobAccount | None:
    """The life of a job in which an attempt lies, None where none does.

    Args:
        job_id: as Slurm writes it, or the number that the job knows itself by.
        started: when the attempt started, with its time zone.
        slack: clocks of nodes and controller differ; of several lives within it the one that contains the time wins.

    Raises:
        ValueError: the time has no zone.
    """
    if started.tzinfo is None:
        raise ValueError("the start of an attempt needs a time zone")
    # A task has two numbers. One of an array's own (its last task bears it) must not be taken for that task's.
    lives = [job for job in accounts if job.job_id == str(job_id)]
    lives = lives or [job for job in accounts if str(job.raw_id) == str(job_id) and not job.id.pending]

    def away(job: JobAccount) -> timedelta:
        """How far the attempt's start is outside this life."""
        assert job.started is not None, "only lives that began"
        late = started - job.ended if job.ended is not None else timedelta()
        return max(job.started - started, late, timedelta())

    within = [job for job in lives if job.started is not None and away(job) <= slack]
    # A life that contains the time outright, then the nearest, then the later one.
    return min(reversed(within), key=away, default=None)


def _is_of(job: JobAccount, wanted: JobId) -> bool:
    """Whether a row is about what was asked: a bare number stands for all tasks of its array and all components."""
    if wanted.base not in (job.id.base, job.raw_id):
        return False
    if wanted.index is not None:
        return wanted.index == job.id.index or wanted.index in job.id.pending
    return wanted.het is None or wanted.het == job.id.het


def _lists(numbers: Iterable[str]) -> Iterator[str]:
    """Comma-separated lists, each short enough for one argument."""
    held: list[str] = []
    length = 0
    for number in numbers:
        if held and length + len(number) + 1 > _LIST_CHARACTERS:
            yield ",".join(held)
            held, length = [], 0
        held.append(number)
        length += len(number) + 1
    if held:
        yield ",".join(held)


__all__ = ["Accounting", "Accounts", "JobAccount", "match_attempt", "sacct_rows"]
