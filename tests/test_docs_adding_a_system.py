"""The worked example of ``docs/adding-a-system.md`` is executed as written, in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "adding-a-system.md"
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with the page's files added; no existing file is touched."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("harness", "models", "launchers", "results", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for title, text in BLOCK.findall(PAGE.read_text()):
        if title != "commands":
            target = copy / title
            assert not target.exists(), f"the page would change {title}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    return copy


def tenfold(project: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.distributed
def test_the_page_works_as_written(project: Path) -> None:
    commands = dict(BLOCK.findall(PAGE.read_text()))["commands"].splitlines()
    output = {command: tenfold(project, *command.split()[1:]) for command in commands}
    assert "Damped pendulum" in output["tenfold systems pendulum"]
    rows = json.loads(output["tenfold table study=pendulum --json"])
    assert len(rows) == 5
    assert {row["status"] for row in rows} == {"completed"}
    for row in rows:
        assert row["metrics"]["rmse"] < row["metrics"]["persistence_rmse"]
        assert row["metrics"]["plan_peak_ratio"] > 0
    claim = json.loads(output["tenfold claims study=pendulum --json"])[0]
    assert (claim["system"], claim["claim"], claim["verdict"]) == ("pendulum", "mlp-beats-persistence", "holds")
    assert "report.html" in output["tenfold sweep study=pendulum"]


@pytest.mark.distributed
def test_sweeping_again_trains_nothing(project: Path) -> None:
    before = sorted((project / "runs").glob("*/attempt-*"))
    tenfold(project, "sweep", "study=pendulum")
    assert sorted((project / "runs").glob("*/attempt-*")) == before
