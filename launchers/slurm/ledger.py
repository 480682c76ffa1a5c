"""What was submitted: one folder per call of sbatch, written before the call, so that a launcher that dies in between leaves
neither an orphan nor a duplicate.

::

    runs/.submissions/
      lock                  held while somebody submits
      <token>/
        submission.json     which runs, which request, which site: written first
        sbatch.sh           the script, exactly as submitted
        job.json            the job's number: written after sbatch, or by the job itself, or by whoever finds it in the queue
        settled.json        all its runs have ended; nobody need ask the scheduler again
        job-<id>.txt        what the batch step printed

The job's comment and the path of its script carry the token: that is how a job whose number was never written down is found
again, and how a stranger is told from ours where a cluster's numbering began again.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from launchers.request import LEAVE_GRACE_S
from launchers.site import SiteProfile
from results.errors import ResultError
from results.store import create_json, make_folder, read_json, read_json_or, write_json, write_text

SCHEMA = 1
FOLDER = ".submissions"
MARK = "tenfold:"
#: How a submission is settled whose jobs are over.
ENDED = "ended"


def ledger_folder(runs: Path) -> Path:
    """``runs/.submissions``."""
    return runs / FOLDER


def comment_for(token: str, study: str, *words: str) -> str:
    """The comment of a job: token, then study, then what else a reader of the queue wants to know."""
    return " ".join(filter(None, [f"{MARK}{token}", study, *words]))


def token_of(comment: str, *paths: str) -> str | None:
    """The token in a job's comment, or in the path of its script or output (a site may write comments of its own); None for jobs
    of others."""
    words = comment.removeprefix(MARK).split() if comment.startswith(MARK) else []
    found = words[:1] + [found.group(1) for path in paths if (found := re.search(rf"/{re.escape(FOLDER)}/([^/]+)/", path))]
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One run of one task of a submission, with what its request says beyond the allocation."""

    name: str
    ranks: int
    cores_per_rank: int
    gpus_per_rank: int
    memory_gib: float
    exclusive: bool
    module: str
    nodes: int | None = None
    time_limit_s: float | None = None
    leave_grace_s: float = LEAVE_GRACE_S
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of sbatch, as ``submission.json`` holds it.

    Attributes:
        tasks: runs by index of the array; a task of several runs works them off inside its allocation.
        retry: the table of :mod:`launchers.retrying`, as plain values.
        one_at_a_time: runs of one task follow one another, in their order.
        label: what a job of several runs is called by.
        job_name: as submitted; a running task of an array bears its run's name.
    """

    folder: Path
    token: str
    study: str
    command: str
    created: str
    site: dict[str, Any]
    tasks: tuple[tuple[TaskRun, ...], ...]
    retry: dict[str, dict[str, Any]]
    one_at_a_time: bool
    array: bool
    label: str = ""
    job_name: str = ""

    @property
    def runs(self) -> Path:
        """The folder of run folders."""
        return self.folder.parent.parent

    @property
    def profile(self) -> SiteProfile:
        """The site it went to, as it was then."""
        from launchers.site import site_from

        return site_from(self.site)

    def job_id(self) -> str | None:
        """The job's number, None where it is not known."""
        found = read_json_or(self.folder / "job.json", {}).get("job_id")
        return None if found is None else str(found)

    def task_id(self, index: int) -> str | None:
        """``123_4``, or ``123`` where the submission is no array."""
        job = self.job_id()
        return job if job is None or not self.array else f"{job}_{index}"

    def found(self, job_id: str) -> None:
        """Write the job's number down; the first word stays."""
        create_json(self.folder / "job.json", {"job_id": job_id})

    @property
    def settled(self) -> bool:
        """Whether all its runs have ended and been recorded."""
        return (self.folder / "settled.json").exists()

    @property
    def void(self) -> bool:
        """Whether no job ever came of it: it was refused, or never reached the scheduler."""
        return self.settled and read_json_or(self.folder / "settled.json", {}).get("how") != ENDED

    def settle(self, how: str) -> None:
        """Nobody need ask about it again: ``ended``, or why no job came of it."""
        write_json(self.folder / "settled.json", {"how": how})

    @property
    def script(self) -> Path:
        """The script as submitted."""
        return self.folder / "sbatch.sh"

    def write(self, script: str) -> None:
        """Write it down, before sbatch.

        Raises:
            ResultError: the folder cannot be written.
        """
        make_folder(self.folder, what="the submission's folder", next_step="paths.runs=FOLDER")
        write_text(self.script, script)
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "folder"}
        plain["tasks"] = [[asdict(run) for run in task] for task in self.tasks]
        write_json(self.folder / "submission.json", {"schema": SCHEMA, **plain})

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """Read one.

        Raises:
            ResultError: it is missing or damaged.
        """
        plain = read_json(folder / "submission.json")
        try:
            tasks = tuple(tuple(TaskRun(**run) for run in task) for task in plain["tasks"])
            asked = [item for item in fields(cls) if item.name not in ("folder", "tasks")]
            # What an older version did not write has a default.
            known = {item.name: plain[item.name] for item in asked if item.name in plain or item.default is MISSING}
            return cls(folder=folder, tasks=tasks, **known)
        except (KeyError, TypeError) as error:
            raise ResultError(f"submission.json is damaged: {error}", where=str(folder)) from error


def new_token() -> str:
    """Ten hexadecimal digits."""
    return secrets.token_hex(5)


def submissions(runs: Path, *, open_only: bool = True) -> list[Submission]:
    """What was submitted for run folders under ``runs``, oldest first; damaged ones are left out."""
    found = []
    for path in ledger_folder(runs).glob("*/submission.json"):
        if open_only and (path.parent / "settled.json").exists():
            continue
        try:
            found.append(Submission.read(path.parent))
        except ResultError:
            continue
    return sorted(found, key=lambda submission: (submission.created, submission.token))


def taken_over(submission: Submission, run: str) -> bool:
    """Whether a later submission holds the run: it has been submitted again since, by its job, a look or the user."""
    return any(
        other.created > submission.created and not other.void and any(run in names(task) for task in other.tasks)
        for other in submissions(submission.runs, open_only=False)
    )


def names(task: Sequence[TaskRun]) -> list[str]:
    """Names of a task's runs."""
    return [run.name for run in task]
