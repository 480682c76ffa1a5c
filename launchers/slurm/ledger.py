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

The job's comment carries the token: that is how a job whose number was never written down is found again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launchers.site import SiteProfile
from results.errors import ResultError
from results.store import create_json, make_folder, read_json, read_json_or, write_json, write_text

SCHEMA = 1
FOLDER = ".submissions"
MARK = "tenfold:"


def ledger_folder(runs: Path) -> Path:
    """``runs/.submissions``."""
    return runs / FOLDER


def comment_for(token: str, study: str) -> str:
    """The comment of a job: token, then study."""
    return f"{MARK}{token} {study}".strip()


def token_of(comment: str) -> str | None:
    """The token in a job's comment, None for jobs of others."""
    words = comment.removeprefix(MARK).split() if comment.startswith(MARK) else []
    return words[0] if words else None


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
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of sbatch, as ``submission.json`` holds it.

    Attributes:
        tasks: runs by index of the array; a task of several runs works them off inside its allocation.
        retry: the table of :mod:`launchers.retrying`, as plain values.
        one_at_a_time: runs of one task follow one another, in their order.
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

    def settle(self, how: str) -> None:
        """Nobody need ask about it again."""
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
            known = {name: plain[name] for name in cls.__slots__ if name not in ("folder", "tasks")}
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


def names(task: Sequence[TaskRun]) -> list[str]:
    """Names of a task's runs."""
    return [run.name for run in task]
