"""Builds generated stores before the runs that need them: under a lock, in several processes, resumed when cut off."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from harness.provenance import commit, now
from models.stores import MANIFEST, StoreSpec, verify
from results.errors import DataError, TenfoldError
from results.store import cannot_write, locked, make_folder, sha256_file, write_json, write_text

_MARKS = ".parts"


def ensure_store(
    spec: StoreSpec, root: Path, *, workers: int = 1, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Path:
    """Make sure that a store is complete, building what is missing; returns its folder.

    Two processes that want the same store at once build it once: the second waits for the first.

    Args:
        spec: what to build.
        root: ``paths.data``.
        workers: processes that build parts.
        progress: called with (folder name, parts done, parts).

    Raises:
        DataError: a part failed; what was built stays, and the next call goes on from there.
        ResultError: the folder cannot be written.
    """
    folder = spec.folder(root)
    if (folder / MANIFEST).exists():
        verify(folder, checksums=False)
        return folder
    make_folder(root, what="the data folder", next_step="paths.data=FOLDER")
    with locked(root / f".{folder.name}.lock", what=f"the data store {folder.name}"):
        if not (folder / MANIFEST).exists():
            _build(spec, folder, workers, progress)
    return folder


def _build(spec: StoreSpec, folder: Path, workers: int, progress: Callable[[str, int, int], None]) -> None:
    marks = folder / _MARKS
    try:
        if not (marks / "created").exists():
            shutil.rmtree(folder, ignore_errors=True)
            marks.mkdir(parents=True)
            spec.create(folder)
            write_text(marks / "created", now() + "\n")
        missing = [part for part in range(spec.parts) if not (marks / str(part)).exists()]
        progress(folder.name, spec.parts - len(missing), spec.parts)
        _build_parts(spec, folder, missing, workers, progress)
        spec.finish(folder)
        write_json(folder / MANIFEST, manifest(spec, folder))
        shutil.rmtree(marks, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error, what="the data store") from error


def _build_parts(
    spec: StoreSpec, folder: Path, missing: list[int], workers: int, progress: Callable[[str, int, int], None]
) -> None:
    done = spec.parts - len(missing)
    if not missing:
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(_build_part, spec, folder, part): part for part in missing}
        for job in as_completed(jobs):
            try:
                problem = job.result()
            except BrokenProcessPool as error:
                raise DataError(
                    f"a process that builds the store was killed at part {jobs[job]} or beside it",
                    where=str(folder),
                    next_step="type the same command again: it goes on where it stopped",
                ) from error
            if problem is not None:
                for other in jobs:
                    other.cancel()
                raise DataError(
                    f"part {jobs[job]} of the data store failed: {problem}",
                    where=str(folder),
                    next_step="mend the cause, then type the same command again: it goes on with the missing parts",
                )
            done += 1
            progress(folder.name, done, spec.parts)


def _build_part(spec: StoreSpec, folder: Path, part: int) -> str | None:
    """Runs in a process of its own; None, or what went wrong (exceptions of torch do not always survive pickling)."""
    try:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        spec.build_part(folder, part)
        write_text(folder / _MARKS / str(part), now() + "\n")
    except TenfoldError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


def manifest(spec: StoreSpec, folder: Path) -> dict[str, object]:
    """Recipe, provenance, and size and SHA-256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST and _MARKS not in path.parts)
    return {
        "name": spec.name,
        "version": spec.version,
        "identity": spec.identity,
        "recipe": dict(spec.recipe),
        "built": now(),
        "commit": commit().get("commit", ""),
        "files": {str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_file(path)} for path in files},
    }


def ensure_all(
    specs: Iterable[StoreSpec], root: Path, *, workers: int, progress: Callable[[str, int, int], None] = lambda *_: None
) -> None:
    """Every distinct store of a study."""
    seen: set[str] = set()
    for spec in specs:
        if spec.identity not in seen:
            seen.add(spec.identity)
            ensure_store(spec, root, workers=workers, progress=progress)
