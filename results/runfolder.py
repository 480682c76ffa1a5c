"""The run folder: names of its files, claiming of attempts, and what each rank and the launcher write into it.

::

    runs/<system>-<variant>-<scale>-<hash8>/
      config.yaml            frozen experiment, accepted back by ``--from``
      plan.json              what was predicted
      run.lock               held (flock) by whoever runs it; freed by the kernel
      attempt-0/
        attempt.json         when, where, with which layout it started
        env.json             commit, packages, hardware, allow-listed variables
        log-<rank>.txt       what the rank printed
        progress.json        where it stands, for live displays
        steps/<rank>.jsonl   one line a step
        ranks/<rank>.json    the rank's own measurements
        launch.json          what only the launcher knows: exit codes, company on the machine, the scheduler's job
        stop.json            somebody asks the ranks to save and leave, and why
        leave.json           the ranks have left after a step, with a checkpoint
        failure.json         written once, by the first that failed
        outcome.json         rank 0's last word: completed, with the system's metrics
      checkpoints/  artifacts/  series.zarr/  record.json
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import ResultError
from results.failures import Failure, FailureClass
from results.store import FileLock, create_json, is_locked, read_json, read_json_or, write_json

_ATTEMPT = re.compile(r"attempt-(\d+)$")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a run."""

    path: Path

    @property
    def index(self) -> int:
        """Its number, from 0."""
        return int(self.path.name.rsplit("-", 1)[1])

    def log(self, rank: int) -> Path:
        """The file the rank's output goes to."""
        return self.path / f"log-{rank}.txt"

    def rank_file(self, rank: int) -> Path:
        """The rank's measurements."""
        return self.path / "ranks" / f"{rank}.json"

    def steps_file(self, rank: int) -> Path:
        """The rank's per-step lines."""
        return self.path / "steps" / f"{rank}.jsonl"

    def rank_files(self) -> list[Path]:
        """All ranks' measurements, in rank order."""
        return sorted((self.path / "ranks").glob("*.json"), key=lambda path: int(path.stem))

    def read(self, name: str, default: Any = None) -> Any:
        """Content of ``<name>.json`` in the attempt, or ``default``."""
        return read_json_or(self.path / f"{name}.json", default)

    def write(self, name: str, value: Any) -> None:
        """Write ``<name>.json`` atomically."""
        write_json(self.path / f"{name}.json", value)

    def fail(self, failure: Failure) -> bool:
        """Record a failure; the first one stays. True if this call was the first."""
        return create_json(self.path / "failure.json", failure.as_dict())

    @property
    def stop_file(self) -> Path:
        """Its presence asks the ranks to save and leave; they look about once a second."""
        return self.path / "stop.json"

    def ask_to_leave(self, kind: FailureClass, reason: str) -> None:
        """Ask the ranks to save a checkpoint and leave, from any process that can write here; this is why they left then."""
        create_json(self.stop_file, {"class": str(kind), "reason": reason})

    @property
    def completed(self) -> bool:
        """Whether rank 0 said that it completed."""
        outcome = self.read("outcome")
        return isinstance(outcome, dict) and outcome.get("status") == "completed"

    def failure(self) -> dict[str, Any] | None:
        """The recorded failure, if any."""
        plain: dict[str, Any] | None = self.read("failure")
        return plain


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def record_file(self) -> Path:
        return self.path / "record.json"

    @property
    def series(self) -> Path:
        return self.path / "series.zarr"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def lock_file(self) -> Path:
        return self.path / "run.lock"

    def lock(self) -> FileLock:
        """The lock that whoever executes this run must hold."""
        return FileLock(self.lock_file)

    def is_running(self) -> bool:
        """Whether a living process on this machine holds the run."""
        return is_locked(self.lock_file)

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        found = [path for path in self.path.glob("attempt-*") if _ATTEMPT.search(path.name)]
        return sorted((Attempt(path) for path in found), key=lambda attempt: attempt.index)

    def last_attempt(self) -> Attempt | None:
        """The newest attempt, if any."""
        attempts = self.attempts()
        return attempts[-1] if attempts else None

    def is_completed(self) -> bool:
        """Whether any attempt completed."""
        return any(attempt.completed for attempt in self.attempts())

    def claim_attempt(self) -> Attempt:
        """Make the next attempt's folder; mkdir decides between two that try at once.

        Raises:
            ResultError: the run folder cannot be written.
        """
        last = self.last_attempt()
        index = 0 if last is None else last.index + 1
        while True:
            path = self.path / f"attempt-{index}"
            try:
                path.mkdir()
                (path / "ranks").mkdir()
                (path / "steps").mkdir()
            except FileExistsError:
                index += 1
                continue
            except OSError as error:
                raise ResultError(
                    f"cannot start an attempt: {error.strerror}",
                    where=str(path),
                    next_step="free space or make the folder writable, then type the same command again",
                ) from error
            return Attempt(path)

    def read_record(self) -> dict[str, Any] | None:
        """The plain record, None where there is none yet.

        Raises:
            ResultError: it is there, but damaged.
        """
        if not self.record_file.exists():
            return None
        plain: dict[str, Any] = read_json(self.record_file)
        return plain


def run_folders(root: Path) -> Iterator[RunFolder]:
    """All run folders under ``root``, by name."""
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if (path / "config.yaml").is_file():
                yield RunFolder(path)
