"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support import Workplace

os.environ.setdefault("OMP_NUM_THREADS", "1")
#: Tests do not see, and are not seen by, runs that somebody else has on this machine.
_presence = tempfile.TemporaryDirectory(prefix="tenfold-presence-")
os.environ["TENFOLD_PRESENCE"] = _presence.name


class FilesScheduling(LoadScopeScheduling):
    """With ``-n``, a file stays in one process, and so does all that shares the real Slurm: it waits more than it computes, and
    the other processes fill its waits."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return "tests/slurm" if path.startswith("tests/slurm/") else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesScheduling:
    return FilesScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The real Slurm first: what takes longest begins first."""
    items.sort(key=lambda item: item.path.parent.name != "slurm")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """An empty working directory."""
    return Workplace(tmp_path)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts small file systems, to have full and read-only ones; skipped where mounting is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / f"tmpfs-{len(mounted)}"
        path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs permission to mount a tmpfs (run as root): {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
