"""What tests of launchers share: run folders as the harness freezes them, and a scheduler without machines on PATH."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers.request import RunRequest
from launchers.slurm import again as again_module
from launchers.slurm import submit as submit_module
from launchers.slurm import survey as survey_module
from launchers.slurm.commands import Slurm
from launchers.slurm.grouping import prepare
from launchers.slurm.ledger import Submission, submissions
from results.store import write_text
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.submitted import WISH, Queue

Freeze = Callable[..., RunRequest]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of run folders."""
    path = tmp_path / "runs"
    path.mkdir()
    return path


@pytest.fixture
def freeze(runs: Path) -> Freeze:
    """Makes a frozen run and a request for it; keywords are needs of the request."""

    def make(name: str, **needs: Any) -> RunRequest:
        folder = runs / name
        folder.mkdir()
        config = {
            "system": "fake", "variant": name, "size": "1", "scale": "tiny", "seed": 0, "repeat": 0,
            "ranks": needs.get("ranks", 1), "engine": {"name": "torch"}, "site": {"name": "ridge"},
        }  # fmt: skip
        write_text(folder / "config.yaml", yaml.safe_dump(config))
        return RunRequest(folder=folder, **needs)

    return make


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A scheduler whose programs come first on PATH; nobody waits long for it."""
    fake = FakeSlurm(tmp_path / "scheduler")
    monkeypatch.setenv("PATH", f"{fake.install()}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    for module in (again_module, submit_module, survey_module):
        monkeypatch.setattr(module, "Slurm", partial(Slurm, patience_s=0.3))
    return fake


@pytest.fixture
def queue(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> Queue:
    """Submits frozen runs; the newest submission."""

    def put(*names: str) -> Submission:
        submit_module.submit(prepare([freeze(name) for name in names], WISH), WISH)
        return submissions(runs)[-1]

    return put
