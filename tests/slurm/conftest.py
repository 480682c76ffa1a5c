"""A real Slurm for the whole session, in a temporary folder; tests that want it are skipped where its programs are missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.cluster import LoopbackCluster
from launchers.cluster.programs import missing_programs
from results.errors import TenfoldError


def require_slurm() -> None:
    """Skip, naming what is missing and the command that installs it."""
    missing = missing_programs()
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        pytest.skip(
            f"needs a real Slurm: {', '.join(sorted(missing))} not installed; enable with `make system` (installs {packages})"
        )


@pytest.fixture(scope="session")
def slurm_folder() -> Iterator[Path]:
    """A short temporary folder (unix sockets lie in it) that is also where site profiles are written and found."""
    folder = Path(tempfile.mkdtemp(prefix="tenfold-slurm-"))
    folder.chmod(0o711)
    before = os.environ.get("TENFOLD_CONFIG")
    os.environ["TENFOLD_CONFIG"] = str(folder / "config")
    yield folder
    if before is None:
        del os.environ["TENFOLD_CONFIG"]
    else:
        os.environ["TENFOLD_CONFIG"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm(slurm_folder: Path) -> Iterator[LoopbackCluster]:
    """Four nodes, accounting, preemption, site profile ``loopback``. Commands reach it with ``command_environment()``; SLURM_CONF
    is left out of the tests' own environment, so that what is tested has to find the cluster by its profile."""
    require_slurm()
    cluster = LoopbackCluster(slurm_folder / "c")
    try:
        cluster.up(nodes=4, preempt=True)
    except TenfoldError as error:
        pytest.fail(f"the loopback cluster does not start: {error}")
    try:
        yield cluster
    finally:
        cluster.down()
