"""Who else is running on this machine: one lock file per run, in a folder of this user, whatever sweep the run belongs to.

A run's file is held (``flock``) by its launcher and inherited by its ranks, so it counts as present exactly as long as one of
them lives; files that nobody holds are swept away.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from pathlib import Path

from results.errors import ResultError
from results.store import FileLock, is_locked


def presence_folder() -> Path:
    """``$TENFOLD_PRESENCE``, else a folder of this user under the temporary folder."""
    return Path(os.environ.get("TENFOLD_PRESENCE") or Path(tempfile.gettempdir()) / f"tenfold-{os.getuid()}")


def announce() -> FileLock | None:
    """Announce one run; None where the folder cannot be used (the run is then not seen by others)."""
    folder = presence_folder()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(folder / f"{uuid.uuid4().hex}.run")
        lock.acquire()
    except (OSError, ResultError):
        return None
    return lock


def withdraw(lock: FileLock | None) -> None:
    """The run has ended."""
    if lock is not None:
        with contextlib.suppress(OSError):
            lock.path.unlink()
        lock.release()


def present() -> int:
    """How many announced runs are alive on this machine."""
    count = 0
    for path in presence_folder().glob("*.run"):
        if is_locked(path):
            count += 1
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return count
