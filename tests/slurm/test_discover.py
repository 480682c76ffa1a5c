"""``tenfold doctor --site`` on the real loopback cluster."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from launchers.cluster import LoopbackCluster
from launchers.cluster.profile import loopback_profile
from launchers.site import site_from
from results.errors import EXIT_BUSY, EXIT_RUN_FAILED
from tests.support import Workplace

pytestmark = pytest.mark.slurm


@pytest.fixture
def asking(slurm: LoopbackCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose shell points to the cluster and who has no profile yet; where theirs will be."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.layout.slurm_conf))
    monkeypatch.setenv("TENFOLD_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config" / "site"


def test_what_the_cluster_says_of_itself_is_what_it_was_made_of(
    slurm: LoopbackCluster, asking: Path, workplace: Workplace
) -> None:
    shown = workplace.tenfold("doctor", "--site").stdout
    path = asking / "loopback.yaml"
    assert str(path) in shown
    assert path.read_text() in shown
    made = loopback_profile(slurm.layout, slurm.facts()[0])
    found = site_from(yaml.safe_load(path.read_text()))
    assert dataclasses.replace(found, description=made.description) == made


def test_an_edited_profile_is_not_overwritten_unasked(asking: Path, workplace: Workplace) -> None:
    workplace.tenfold("doctor", "--site", "mine")
    path = asking / "mine.yaml"
    edited = path.read_text() + "account: fusion\n"
    path.write_text(edited)
    assert "--force" in workplace.tenfold("doctor", "--site", "mine", expect=EXIT_BUSY).stderr
    assert path.read_text() == edited
    assert workplace.json("doctor", "--site", "mine", "--force")["profile"]["account"] is None
    assert "fusion" not in path.read_text()


def test_without_a_cluster_it_says_what_to_do(asking: Path, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(workplace.path / "none.conf"))
    said = workplace.tenfold("doctor", "--site", expect=EXIT_RUN_FAILED).stderr
    assert "no Slurm answers here" in said
    assert "tenfold cluster up" in said
    assert not asking.exists()
