"""Studies that name all sizes, add words at a scale, and list what takes too long without running it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.study import expand_study, study_names
from models import registry
from results.errors import ConfigError
from results.rows import PLANNED, collect_rows
from tests.support import Workplace

STUDY = """
common: [system=dlwp, scale=tiny]
stages:
  - name: grid
    longest_s: {LIMITS}
    at_scale: {tiny: [train.steps=6, train.lr=0.5], small: [train.steps=70]}
    points:
      - ["variant=fno2d,unet", size=all, train.lr=0.25]
"""


def folder(path: Path, limits: str = "{}") -> Path:
    (path / "study").mkdir(parents=True)
    (path / "study" / "sized.yaml").write_text(STUDY.replace("{LIMITS}", limits))
    return path


def test_all_sizes_are_those_of_the_variant_at_the_scale(tmp_path: Path) -> None:
    own = folder(tmp_path)
    for scale in ("tiny", "small", "paper"):
        points = expand_study("sized", [f"scale={scale}"], config_dir=own).points
        found = [(point.experiment.config.variant, point.experiment.config.size) for point in points]
        catalogue = registry.catalogue("dlwp")
        assert found == [(name, size) for name in ("fno2d", "unet") for size in catalogue.variant(name).sizes[scale]]


def test_words_of_a_scale_hold_there_and_other_words_win(tmp_path: Path) -> None:
    own = folder(tmp_path)
    by_scale = {
        scale: expand_study("sized", [f"scale={scale}"], config_dir=own).points[0].experiment.config.train
        for scale in ("tiny", "small")
    }
    assert (by_scale["tiny"].steps, by_scale["tiny"].lr) == (6, 0.25)
    assert by_scale["small"].steps == 70
    assert expand_study("sized", ["train.steps=9"], config_dir=own).points[0].experiment.config.train.steps == 9


@pytest.mark.parametrize(("words", "named"), [("[size=all]", "variant="), ("[size=all, variant=unett]", "unett")])
def test_all_sizes_of_what_is_not_known_are_refused(tmp_path: Path, words: str, named: str) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "wrong.yaml").write_text(
        f"common: [system=dlwp, scale=tiny]\nstages: [{{name: a, points: [{words}]}}]\n"
    )
    with pytest.raises(ConfigError, match=named):
        expand_study("wrong", [], config_dir=tmp_path)


def test_what_is_planned_to_take_longer_is_listed_and_not_run(tmp_path: Path) -> None:
    """The limit of the scale at hand counts; a point that has none is run."""
    own = folder(tmp_path / "own", limits="{tiny: 0.001, small: 1000}")
    study = expand_study("sized", [], config_dir=own)
    assert {point.longest_s for point in study.points} == {0.001}
    assert study.points[0].left_out(None) == study.points[0].left_out(0.0005) == ""
    assert "5.0 min" in study.points[0].left_out(300.0)
    workplace = Workplace(tmp_path)
    words = [sys.executable, "-m", "harness", "sweep", "study=sized", "--config-dir", str(own), "tracker=none"]
    said = subprocess.run(words, cwd=tmp_path, env=workplace.environment(), capture_output=True, text=True, check=True)
    assert said.stderr.count("planned, not run") == 3
    assert workplace.runs() == []
    rows = workplace.json("table", "study=sized")
    assert {(row["variant"], row["size"], row["status"]) for row in rows} == {
        ("fno2d", "2k", PLANNED),
        ("fno2d", "5k", PLANNED),
        ("unet", "5k", PLANNED),
    }
    assert all("above this study's limit" in row["detail"] for row in rows)


def test_a_point_that_is_not_left_out_is_pending(tmp_path: Path) -> None:
    index = {
        "runs": [{"run": "dlwp-x-tiny-00000000", "stage": "grid", "arm": "x", "overrides": ["variant=x"], "left_out": "why"}]
    }
    (row,) = collect_rows(tmp_path, None, index)
    assert (row["status"], row["detail"], row["variant"]) == (PLANNED, "why", "x")
    index["runs"][0].pop("left_out")
    assert collect_rows(tmp_path, None, index)[0]["status"] == "pending"


@pytest.mark.parametrize("name", study_names())
def test_every_study_of_the_project_expands(name: str) -> None:
    words = ["system=dlwp"] if name.startswith("scaling_") else []
    assert expand_study(name, words).points
