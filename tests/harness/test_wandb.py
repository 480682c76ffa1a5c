"""The W&B projection of real runs, read back from its file and held against the record; and that its failures stay its own."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.projecting import project
from results.errors import ResultError
from results.pictures import find_panels, render_png
from results.runfolder import RunFolder
from results.series import STEP_FIELDS, read_run_steps
from results.store import read_json, write_json
from results.wandb_projection import CURVES, is_current, offline_parts, project_run, wandb_id
from results.wandb_reader import WandbFile, read_wandb
from tests.harness.conftest import WORDS, Swept
from tests.support import Workplace

STEPS = 8  # of a tiny run


@dataclass(frozen=True)
class Projected:
    """A run folder and what was read back from its projection."""

    folder: RunFolder
    path: Path
    file: WandbFile


def wandb_file(part: Path) -> Path:
    (found,) = part.glob("run-*.wandb")
    return found


@pytest.fixture(scope="module")
def projected(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Projected:
    """A projection, made once and only read."""
    folder = RunFolder(tmp_path_factory.mktemp("projected") / "run")
    shutil.copytree(swept.run("fno2d", 0).path, folder.path)
    part = project_run(folder, group="a-study", mode="offline")
    assert part is not None
    path = wandb_file(part)
    return Projected(folder, path, read_wandb(path))


@pytest.fixture
def fresh(projected: Projected, tmp_path: Path) -> RunFolder:
    """A projected run that may be changed."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(projected.folder.path, folder.path)
    return folder


def test_who_it_is(projected: Projected) -> None:
    record = read_json(projected.folder.record_file)
    run = projected.file.run
    assert run["id"] == wandb_id(record["identity"])
    assert run["id"].isalnum()
    assert (run["project"], run["group"], run["job_type"]) == ("tenfold", "a-study", "train")
    assert set(run["tags"]) == {"dlwp", "fno2d", "5k", "tiny", "torch", "site:local", "completed"}
    assert run["name"] == "fno2d 5k seed 0 torch"
    assert projected.file.complete


def test_the_configuration_is_the_frozen_one_with_units_and_plan(projected: Projected) -> None:
    import yaml

    frozen = yaml.safe_load(projected.folder.config_file.read_text())
    record = read_json(projected.folder.record_file)
    config = projected.file.config
    for key in ("system", "variant", "size", "scale", "seed", "repeat", "ranks", "precision", "engine", "train", "data", "model"):
        assert config[key] == frozen[key], key
    assert config["identity"] == record["identity"]
    assert config["plan"] == record["plan"]
    assert config["units"] == {name: metric["unit"] for name, metric in record["metrics"].items()}
    assert config["units"]["peak_gib"] == "GiB"
    assert not {"paths", "launcher", "tracker"} & set(config)


def test_every_step_is_there_with_its_own_numbers(projected: Projected) -> None:
    steps = read_run_steps(projected.folder)
    assert len(steps["step"]) == STEPS
    rows = [row for row in projected.file.history if "train/loss" in row]
    assert [row["_step"] for row in rows] == list(range(STEPS))
    for name in STEP_FIELDS:
        expected = [value for value in steps[name].tolist() if math.isfinite(value)]
        assert projected.file.column(CURVES[name]) == expected, name
    assert len(projected.file.column("train/loss")) == STEPS


def test_the_summary_is_the_record(projected: Projected) -> None:
    record = read_json(projected.folder.record_file)
    known = {name: metric["value"] for name, metric in record["metrics"].items() if metric["value"] is not None}
    assert len(known) > 20
    assert {name: projected.file.summary[name] for name in known} == known
    unknown = set(record["metrics"]) - set(known)
    assert not unknown & set(projected.file.summary)  # never 0, never null
    assert projected.file.summary["status"] == "completed"


def test_pictures_are_there_pixel_by_pixel(projected: Projected) -> None:
    import io

    from PIL import Image

    panels = find_panels(projected.folder.artifacts)
    assert [path.stem for path in panels] == ["rollout"]
    (row,) = [row for row in projected.file.history if "pictures/rollout/path" in row]
    entry = {key.removeprefix("pictures/rollout/"): value for key, value in row.items()}
    assert (entry["_type"], entry["_step"]) == ("image-file", STEPS - 1)
    stored = projected.path.parent / "files" / entry["path"]
    with Image.open(stored) as image, Image.open(io.BytesIO(render_png(panels[0]))) as expected:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert entry["path"] in projected.file.files


def test_nothing_of_the_machine_is_in_it(projected: Projected) -> None:
    """Neither variables nor code nor command lines are collected behind the user's back."""
    names = {path.name for path in (projected.path.parent / "files").rglob("*") if path.is_file()}
    assert not names & {"wandb-metadata.json", "requirements.txt", "output.log", "conda-environment.yaml"}


def test_it_is_current_until_the_run_changes(fresh: RunFolder) -> None:
    assert is_current(fresh)
    attempt = fresh.last_attempt()
    assert attempt is not None
    attempt.write("launch", {**attempt.read("launch"), "shared_with": 3})
    assert not is_current(fresh)


def test_a_projection_that_was_not_uploaded_is_replaced(fresh: RunFolder) -> None:
    said: list[str] = []
    assert project([fresh], group=None, mode="offline", say=said.append) == 0  # current: nothing is written
    attempt = fresh.last_attempt()
    assert attempt is not None
    attempt.write("launch", {**attempt.read("launch"), "shared_with": 3})
    assert project([fresh], group=None, mode="none", say=said.append) == 0
    assert project([fresh], group=None, mode="offline", say=said.append) == 1
    assert said == []
    (part,) = offline_parts(fresh)
    found = read_wandb(wandb_file(part))
    assert found.summary["shared_with"] == 3
    assert len(found.column("train/loss")) == STEPS
    assert found.run["group"] == "a-study"  # kept from the earlier one
    assert is_current(fresh)


def test_one_that_was_uploaded_is_continued_by_step(fresh: RunFolder) -> None:
    """Twice over: what goes on from step 4 is replaced, while it is not uploaded, by what goes on from step 4 again."""
    path = fresh.path / "wandb.json"
    write_json(path, {**read_json(path), "uploaded": True, "uploaded_step": 3})
    (first,) = offline_parts(fresh)
    first.rename(first.with_name("offline-run-20260105_100000-" + wandb_id("x")))  # names have whole seconds: one of another day
    project_run(fresh, group=None, mode="offline")
    state = read_json(path)
    assert (state["uploaded"], state["uploaded_step"], state["last_step"]) == (False, 3, STEPS - 1)
    assert read_wandb(wandb_file(fresh.path / state["path"])).column("train/loss") == read_run_steps(fresh)["loss"][4:].tolist()
    assert len(offline_parts(fresh)) == 2
    project_run(fresh, group=None, mode="offline")
    state = read_json(path)
    assert (state["uploaded"], state["uploaded_step"], state["last_step"]) == (False, 3, STEPS - 1)
    found = read_wandb(wandb_file(fresh.path / state["path"]))
    assert [row["_step"] for row in found.history if "train/loss" in row] == [4, 5, 6, 7]
    assert found.run["id"] == state["id"]


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1))
def test_a_truncated_file_is_read_up_to_the_cut(projected: Projected, share: float) -> None:
    data = projected.path.read_bytes()
    cut = projected.folder.path / "cut.wandb"
    cut.write_bytes(data[: 7 + int(share * (len(data) - 7))])
    found = read_wandb(cut)
    assert found.history == projected.file.history[: len(found.history)]
    assert found.complete is False or found.history == projected.file.history
    assert found.run in ({}, projected.file.run)


def test_half_the_bytes_are_neither_nothing_nor_everything(projected: Projected, tmp_path: Path) -> None:
    data = projected.path.read_bytes()
    position = data.index(b"train/loss", data.index(b"train/loss", data.index(b"train/loss") + 1) + 1)
    cut = tmp_path / "run-x.wandb"
    cut.write_bytes(data[:position])
    found = read_wandb(cut)
    assert not found.complete
    assert 0 < len(found.history) < len(projected.file.history)


@pytest.mark.parametrize("content", [None, b"", b"text", b":W&B"])
def test_what_is_no_wandb_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "run-x.wandb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultError) as caught:
        read_wandb(path)
    assert caught.value.where == str(path)


class Broken(Workplace):
    """A place where ``import wandb`` fails, as an upgrade gone wrong makes it."""

    def environment(self) -> dict[str, str]:
        inherited = super().environment()
        return {**inherited, "PYTHONPATH": os.pathsep.join([str(self.path / "broken"), inherited["PYTHONPATH"]])}


def test_a_failure_of_wandb_fails_no_sweep(swept: Swept, tmp_path: Path) -> None:
    place: Any = Broken(swept.copy(tmp_path / "place").place.path)
    (place.path / "broken" / "wandb").mkdir(parents=True)
    (place.path / "broken" / "wandb" / "__init__.py").write_text("raise RuntimeError('half an upgrade')\n")
    done = place.tenfold("sweep", *WORDS, "tracker=offline", "--json")
    assert set(json.loads(done.stdout)["ended"].values()) == {"already completed"}
    for folder in place.runs():
        assert f"W&B: {folder.name} was not projected: RuntimeError: half an upgrade (tenfold sync tries again)" in done.stderr
        assert not (folder.path / "wandb.json").exists()
        assert read_json(folder.record_file)["status"] == "completed"
    synced = place.tenfold("sync")
    assert "0 runs written" in synced.stdout


def test_without_a_tracker_nothing_of_wandb_is_written(swept: Swept) -> None:
    for folder in swept.place.runs():
        assert not (folder.path / "wandb").exists()
        assert not (folder.path / "wandb.json").exists()
