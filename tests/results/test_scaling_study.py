"""The scaling studies as they are expanded, and one carried out by real processes."""

from __future__ import annotations

import json

import pytest

from harness.study import Study, expand_study
from tests.support import Workplace


def arms(study: Study) -> list[tuple[int, str, int]]:
    configs = [point.experiment.config for point in study.points]
    return [(config.repeat, config.engine.name, config.ranks) for config in configs]


def test_the_arms_of_a_repeat_stand_together_in_an_order_of_its_own() -> None:
    study = expand_study("scaling_strong", ["scale=tiny", "ranks=1,2,4,8", "repeat=0,1,2,3,4,5"])
    found = arms(study)
    assert len(found) == 6 * 5
    assert [repeat for repeat, _, _ in found] == sorted(repeat for repeat, _, _ in found)
    blocks = [[(engine, ranks) for repeat, engine, ranks in found if repeat == number] for number in range(6)]
    expected = {("torch", 1), *(("zero1", ranks) for ranks in (1, 2, 4, 8))}
    assert all(set(block) == expected for block in blocks)
    assert len({tuple(block) for block in blocks}) > 3, "shuffled anew in each repeat"
    again = expand_study("scaling_strong", ["scale=tiny", "ranks=1,2,4,8", "repeat=0,1,2,3,4,5"])
    assert arms(again) == found, "and the same whenever it is expanded"
    assert {(point.exclusive, point.paired) for point in study.points} == {(True, True)}
    assert study.points[0].arm.endswith(f"{found[0][1]} x {found[0][2]}")


def test_words_of_the_command_line_win_except_over_the_reference() -> None:
    study = expand_study(
        "scaling_strong", ["scale=tiny", "engine=zero3", "ranks=1,2", "repeat=7", "train.steps=9", "variant=unet"]
    )
    assert sorted(arms(study)) == [(7, "torch", 1), (7, "zero3", 1), (7, "zero3", 2)]
    assert {point.experiment.config.train.steps for point in study.points} == {9}
    assert {point.experiment.config.variant for point in study.points} == {"unet"}


def test_strong_keeps_the_global_batch_and_weak_that_of_a_rank() -> None:
    strong = expand_study("scaling_strong", ["scale=tiny", "repeat=0", "train.global_batch=16"])
    assert {point.experiment.config.train.global_batch for point in strong.points} == {16}
    weak = expand_study("scaling_weak", ["scale=tiny", "repeat=0", "train.global_batch=2"])
    for point in weak.points:
        train, ranks = point.experiment.config.train, point.experiment.config.ranks
        assert train.global_batch == 2 * ranks
        assert train.micro_batch == 2
        assert f"train.global_batch={2 * ranks}" in point.overrides, "what was run can be typed again"


@pytest.mark.distributed
def test_a_strong_study_by_real_processes(workplace: Workplace) -> None:
    words = ["scale=tiny", "ranks=1,2", "repeat=0", "train.steps=8", "train.global_batch=4", "tracker=none"]
    out = workplace.tenfold("sweep", "study=scaling_strong", *words, "--quiet").stdout
    folder = workplace.path / "reports" / "scaling_strong"
    found = json.loads((folder / "scaling.json").read_text())
    assert found["left_out"] == []
    (curve,) = found["curves"]
    one, two = curve["points"]
    assert (one["ranks"], two["ranks"], curve["base_ranks"]) == (1, 2, 1)
    times = {run.name: json.loads(run.record_file.read_text())["metrics"]["step_s"]["value"] for run in workplace.runs()}
    assert two["speed_up"]["effect"] == pytest.approx(times[one["runs"][0]] / times[two["runs"][0]])
    assert two["efficiency"]["effect"] == pytest.approx(two["speed_up"]["effect"] / 2)
    assert two["speed_up"]["low"] is None
    assert "one repeat: no interval" in two["reason"]
    assert two["communicate_share"]["effect"] > one["communicate_share"]["effect"] == 0
    assert curve["law"]["reason"].startswith("cannot tell")
    record = json.loads((workplace.path / "runs" / two["runs"][0] / "record.json").read_text())
    assert two["oversubscribed"] is (record["placement"]["physical_cores"] < 2)
    assert record["placement"]["machine"] == record["provenance"]["cpu"]
    gates = [arm["gate"] for arm in json.loads((folder / "analysis.json").read_text())["equality"]["arms"] if arm["gate"]]
    assert [gate["passed"] for gate in gates] == [True, True], "both counts train what the reference trains"
    assert "efficiency below 0.700" in out
    assert '<section id="scaling">' in (folder / "report.html").read_text()
    table = workplace.tenfold("table", "study=scaling_strong", "--scaling", "--format", "csv").stdout
    assert (folder / "scaling.csv").read_text() == table
    refused = workplace.tenfold("table", "--scaling", expect=2)
    assert "tenfold table study=scaling_strong --scaling" in refused.stderr
