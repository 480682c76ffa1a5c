"""Files that are either whole or absent: atomic writes, exclusive claims, kernel-released locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from results.errors import BusyError, ResultError


def _plain(value: Any) -> Any:
    """Make a value JSON can hold exactly: non-finite numbers become null, numpy scalars become Python's."""
    if hasattr(value, "item") and not isinstance(value, str | bytes) and getattr(value, "shape", ()) == ():
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def dumps(value: Any, *, indent: int | None = 2) -> str:
    """Serialise to JSON text that any reader accepts (no NaN, no infinity)."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _write_temporary(path: Path, data: bytes, *, durable: bool = True) -> str:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.chmod(name, 0o644)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise cannot_write(path, error) from error
    return name


def cannot_write(path: Path, error: OSError, *, what: str = "", next_step: str = "") -> ResultError:
    """The error for anything that the disk does not take; ``what`` names it where its file name would not."""
    return ResultError(
        f"cannot write {what or path.name}: {error.strerror or error}",
        where=str(path),
        next_step=next_step or "free space or make the folder writable, then type the same command again",
    )


def make_folder(path: Path, *, what: str, next_step: str) -> None:
    """Make a folder and its parents; nothing happens where it exists.

    Args:
        what: "the run folder", for the error.
        next_step: how to choose another place.

    Raises:
        ResultError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"cannot make {what}: {error.strerror}", where=str(path), next_step=next_step) from error


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` atomically; on any error the old content stays and nothing half-written is left.

    Args:
        durable: force the bytes to disk first; False for what is worth nothing after a power cut (live progress).

    Raises:
        ResultError: the disk is full, the folder is read-only or missing.
    """
    name = _write_temporary(path, data, durable=durable)
    try:
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Atomic form of :meth:`pathlib.Path.write_text` (UTF-8)."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Atomically write ``value`` as indented JSON with a final newline; ``durable`` as in :func:`write_bytes`."""
    write_bytes(path, (dumps(value) + "\n").encode(), durable=durable)


def create_json(path: Path, value: Any) -> bool:
    """Write ``path`` only if nobody has: the first writer wins, also across nodes (link is atomic on NFS).

    Returns:
        True if this call created the file.
    """
    name = _write_temporary(path, (dumps(value) + "\n").encode())
    try:
        os.link(name, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)
    return True


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ResultError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ResultError(f"{path.name} is missing", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise ResultError(
            f"{path.name} is damaged: {error}", where=str(path), next_step="tenfold doctor --runs --repair"
        ) from error


def read_json_or(path: Path, default: Any) -> Any:
    """Read JSON, or return ``default`` where the file is missing or damaged."""
    try:
        return read_json(path)
    except ResultError:
        return default


def sha256_text(text: str) -> str:
    """Hexadecimal SHA-256 of UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """One text for equal meanings: keys sorted, no spaces, an integral float written as an integer."""

    def canonical(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: canonical(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [canonical(inner) for inner in item]
        if isinstance(item, float) and item.is_integer() and abs(item) < 2**53:
            return int(item)
        return item

    return json.dumps(canonical(_plain(value)), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class FileLock:
    """An exclusive ``flock``. The kernel lets go of it when the last process that inherited it ends, so a killed
    launcher whose ranks live on still holds the run, and a killed machine holds nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, *, blocking: bool = False) -> bool:
        """Take the lock; False if another process has it.

        Raises:
            ResultError: the lock file cannot be created (read-only folder, full disk).
        """
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        # A reader that asks whether somebody holds the lock (:func:`is_locked`) takes it for an instant: hence several tries.
        for attempt in range(1 if blocking else 5):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
            except BlockingIOError:
                time.sleep(0.01 * (attempt + 1))
                continue
            self._handle = handle
            return True
        os.close(handle)
        return False

    def fileno(self) -> int:
        """The descriptor, to be handed down to child processes (``pass_fds``)."""
        assert self._handle is not None, "the lock is not held"
        return self._handle

    def release(self) -> None:
        """Let go in this process; children that inherited the descriptor go on holding it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextlib.contextmanager
def locked(path: Path, *, blocking: bool = True, what: str = "this folder", look: str = "tenfold status") -> Iterator[FileLock]:
    """Hold ``path`` as a lock for the length of a block.

    Args:
        look: the command that shows what the other is doing.

    Raises:
        BusyError: not ``blocking`` and somebody else holds it.
    """
    lock = FileLock(path)
    if not lock.acquire(blocking=blocking):
        raise BusyError(f"another process is working on {what}", where=str(path), next_step=f"wait for it: {look}")
    try:
        yield lock
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether some living process holds the lock file ``path``."""
    if not path.exists():
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a reader without write permission must see it too
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
