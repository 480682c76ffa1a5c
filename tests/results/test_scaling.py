"""Scaling curves from rows whose answers are known: exact laws, paired repeats, and what must not share a curve."""

from __future__ import annotations

import csv
import io
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import plots_scaling
from results.errors import ConfigError
from results.scaling import scaling
from results.scaling_tables import render
from results.stats import student

NOWHERE = Path("/nonexistent")
STRONG = {"mode": "strong"}
INDEX: dict[str, Any] = {"variants": {"fno2d": "FNO2D", "unet": "U-Net"}}


def row(ranks: int, step_s: float, *, repeat: int = 0, placement: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A completed row whose runs had cores of their own up to 64 ranks."""
    plain = {
        "machine": "CPU A", "threads": 1, "nodes": 1, "physical_cores": 64, "oversubscribed": ranks > 64, "strong": "s0",
        "weak": "w0", "engine_options": "e0", "started": f"2026-01-05T10:0{repeat}:00+00:00",
    }  # fmt: skip
    found = {
        "system": "dlwp", "variant": "fno2d", "size": "20k", "scale": "small", "seed": 0, "repeat": repeat, "engine": "zero1",
        "ranks": ranks, "site": "local", "data": "generated", "stage": "scaling", "status": "completed", "shared_with": 0,
        "timing_valid": True, "metrics": {"step_s": step_s, "samples_per_s": 8 / step_s, "communicate_share": 0.1 * (ranks > 1)},
        "placement": plain | (placement or {}), **changes,
    }  # fmt: skip
    found["run"] = changes.get("run") or "-".join(
        str(found[name]) for name in ("variant", "engine", "ranks", "seed", "repeat", "site")
    ) + str(found["placement"]["machine"])
    return found


def amdahl(serial: float, counts: list[int], repeats: int = 3, **changes: Any) -> list[dict[str, Any]]:
    """Exact rows; a repeat drifts as a whole, which pairing must cancel."""
    return [
        row(count, 0.5 * (1 + 0.1 * repeat) * (serial + (1 - serial) / count), repeat=repeat, **changes)
        for repeat in range(repeats)
        for count in counts
    ]


def only(found: dict[str, Any]) -> dict[str, Any]:
    (curve,) = found["curves"]
    return dict(curve)


@given(st.floats(0, 1), st.lists(st.integers(2, 64), min_size=3, max_size=6, unique=True), st.integers(1, 4))
def test_exact_rows_return_their_serial_fraction(serial: float, counts: list[int], repeats: int) -> None:
    curve = only(scaling(amdahl(serial, [1, *counts], repeats), STRONG, NOWHERE))
    law = curve["law"]
    assert law["name"] == "Amdahl"
    assert law["serial"]["effect"] == pytest.approx(serial, abs=1e-9)
    assert law["serial"]["count"] == repeats
    assert (law["serial"]["low"] is None) is (repeats == 1)
    for point in curve["points"]:
        expected = 1 / (serial + (1 - serial) / point["ranks"])
        assert point["speed_up"]["effect"] == pytest.approx(expected)
        assert point["efficiency"]["effect"] == pytest.approx(expected / point["ranks"])
        if repeats > 1:  # drift of whole repeats cancels in the pairs: no spread is left
            assert point["speed_up"]["low"] == pytest.approx(point["speed_up"]["high"])


def test_weak_rows_return_gustafsons_fraction_and_speed_up_is_of_throughput() -> None:
    serial, counts = 0.15, [1, 2, 4, 8]
    rows = [row(count, count / (count - serial * (count - 1)), repeat=repeat) for repeat in (0, 1) for count in counts]
    found = scaling(rows, {"mode": "weak"}, NOWHERE)
    curve = only(found)
    assert curve["law"]["name"] == "Gustafson"
    assert curve["law"]["serial"]["effect"] == pytest.approx(serial, abs=1e-9)
    assert [point["speed_up"]["effect"] for point in curve["points"]] == pytest.approx([n - serial * (n - 1) for n in counts])
    assert [point["efficiency"]["effect"] for point in curve["points"]] == pytest.approx(
        [(n - serial * (n - 1)) / n for n in counts]
    )


def test_intervals_are_students_on_the_logarithms_of_paired_ratios() -> None:
    ratios = [1.8, 1.9, 1.7]
    rows = [row(1, 0.1 * (3 + i), repeat=i) for i in range(3)]
    rows += [row(2, 0.1 * (3 + i) / ratio, repeat=i) for i, ratio in enumerate(ratios)]
    point = only(scaling(rows, STRONG, NOWHERE))["points"][1]
    logs = [math.log(ratio) for ratio in ratios]
    mean = sum(logs) / 3
    half = student(2) * math.sqrt(sum((x - mean) ** 2 for x in logs) / 2) / math.sqrt(3)
    assert point["speed_up"]["effect"] == pytest.approx(math.exp(mean))
    assert point["speed_up"]["low"] == pytest.approx(math.exp(mean - half))
    assert point["efficiency"]["high"] == pytest.approx(math.exp(mean + half) / 2)


def test_a_repeat_without_its_own_base_is_no_pair() -> None:
    rows = [row(1, 1.0), row(2, 0.5), row(2, 0.1, repeat=1)]
    curve = only(scaling(rows, STRONG, NOWHERE))
    assert curve["points"][1]["speed_up"] == {"effect": 2.0, "low": None, "high": None, "count": 1}
    assert curve["points"][1]["reason"] == "one repeat: no interval"
    lonely = only(scaling([row(1, 1.0), row(2, 0.5, repeat=1)], STRONG, NOWHERE))["points"][1]
    assert (lonely["speed_up"], lonely["efficiency"]) == (None, None)
    assert lonely["reason"] == "no repeat has both 1 and 2 ranks"


def test_two_counts_are_a_table_and_no_fit() -> None:
    law = only(scaling(amdahl(0.1, [1, 2]), STRONG, NOWHERE))["law"]
    assert (law["serial"], law["counts"]) == (None, 2)
    assert law["reason"] == "cannot tell: 2 rank counts, a fit takes 4"
    split = [*amdahl(0.1, [1, 2], 1), *(dict(r, repeat=1) for r in amdahl(0.1, [4, 8], 1))]
    assert only(scaling(split, STRONG, NOWHERE))["law"]["reason"] == "cannot tell: no repeat has 4 rank counts"


def test_shared_cores_are_shown_and_stay_out_of_fit_and_floor() -> None:
    good = amdahl(0.05, [1, 2, 4, 8])
    bad = [row(count, 7.0, repeat=repeat) for repeat in range(3) for count in (128, 256)]
    unknown = [row(16, 9.0, repeat=repeat, placement={"oversubscribed": None}) for repeat in range(3)]
    curve = only(scaling([*good, *bad, *unknown], STRONG, NOWHERE))
    assert curve["law"] == only(scaling(good, STRONG, NOWHERE))["law"]
    assert curve["floor"]["reason"] == "not reached within what was measured (up to 8 ranks)"
    marked = {point["ranks"]: point["reason"] for point in curve["points"] if point["oversubscribed"]}
    assert marked == {16: "it is not recorded whether ranks share cores", 128: "ranks share cores", 256: "ranks share cores"}
    everything = only(scaling(bad, STRONG, NOWHERE))
    assert everything["base_ranks"] == 128
    assert everything["law"]["reason"].startswith("cannot tell: 0 rank counts")


def test_floor_with_bounds_from_the_intervals() -> None:
    rows = [row(1, 1.0, repeat=i) for i in range(3)]
    rows += [row(4, 1 / (4 * efficiency), repeat=i) for i, efficiency in enumerate((0.38, 0.40, 0.42))]
    floor = only(scaling(rows, {**STRONG, "floor": 0.7}, NOWHERE))["floor"]
    centre = (0.38 * 0.40 * 0.42) ** (1 / 3)
    assert floor["ranks"] == pytest.approx(4 ** (0.3 / (1 - centre)))
    assert floor["low"] < floor["ranks"] < floor["high"] < 4
    single = only(scaling(rows[::3], {**STRONG, "floor": 0.7}, NOWHERE))["floor"]
    assert (single["low"], single["high"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "failed"}, "status failed"),
        ({"shared_with": 1}, "timed beside 1 other run"),
        ({"timing_valid": False}, "its layout changed on the way, or it is not known who shared the machine"),
        ({"metrics": {"step_s": None}}, "no step was timed"),
        ({"placement": {"machine": ""}}, "it is not recorded on what it ran"),
    ],
)
def test_a_time_that_says_nothing_does_not_enter(change: dict[str, Any], reason: str) -> None:
    good = amdahl(0.1, [1, 2, 4, 8])
    found = scaling([*good, row(16, 1e-9, run="spoilt", **change)], STRONG, NOWHERE)
    assert found["left_out"] == [{"run": "spoilt", "reason": reason}]
    assert found["curves"] == scaling(good, STRONG, NOWHERE)["curves"]


@pytest.mark.parametrize(
    "change",
    [
        {"placement": {"machine": "CPU B"}}, {"placement": {"strong": "other training"}}, {"placement": {"threads": 2}},
        {"placement": {"engine_options": "other"}}, {"site": "ridge"}, {"data": "a1b2"}, {"engine": "zero3"}, {"size": "50k"},
        {"variant": "unet"},
    ],
)  # fmt: skip
def test_only_like_rows_share_a_curve(change: dict[str, Any]) -> None:
    found = scaling([*amdahl(0.1, [1, 2]), row(4, 0.01, **change), row(8, 0.01, **change)], STRONG, NOWHERE)
    assert [[point["ranks"] for point in curve["points"]] for curve in found["curves"]] == [[1, 2], [4, 8]]


def test_global_batches_may_differ_in_weak_scaling_only() -> None:
    rows = [row(count, 1.0, placement={"strong": f"batch {count}"}) for count in (1, 2, 4)]
    assert len(scaling(rows, {"mode": "weak"}, NOWHERE)["curves"]) == 1
    assert len(scaling(rows, STRONG, NOWHERE)["curves"]) == 3


def test_the_reference_is_compared_and_is_no_curve_of_its_own() -> None:
    serial = [row(1, 0.4, repeat=i, engine="torch", placement={"engine_options": "torch"}) for i in range(3)]
    found = scaling([*serial, *amdahl(0.0, [1, 2])], {**STRONG, "reference": "torch"}, NOWHERE)
    curve = only(found)
    assert curve["engine"] == "zero1"
    expected = (0.4**3 / (0.5 * 0.55 * 0.6)) ** (1 / 3)
    assert [point["against_reference"]["effect"] for point in curve["points"]] == pytest.approx([expected, 2 * expected])
    weak = only(scaling([*serial, *(row(2, 0.4, repeat=i) for i in range(3))], {"mode": "weak", "reference": "torch"}, NOWHERE))
    assert weak["points"][0]["against_reference"]["effect"] == pytest.approx(2.0)


def test_a_second_run_of_the_same_place_is_named() -> None:
    found = scaling([*amdahl(0.1, [1, 2], 1), row(2, 0.2, run="z-again")], STRONG, NOWHERE)
    assert found["left_out"] == [{"run": "z-again", "reason": "the same repeat and rank count as fno2d-zero1-2-0-0-localCPU A"}]


def test_runs_of_a_pair_that_lie_apart_are_said_to() -> None:
    late = row(2, 0.5, placement={"started": "2026-01-05T16:00:00+00:00"})
    assert only(scaling([row(1, 1.0), late], STRONG, NOWHERE))["points"][1]["reason"] == (
        "one repeat: no interval; pairs lie up to 6.0 h apart"
    )


@pytest.mark.parametrize(
    ("wanted", "match"),
    [({}, "strong or weak"), ({"mode": "week"}, "strong or weak"), ({"mode": "weak", "floor": 70}, "floor"),
     ({"mode": "weak", "flor": 0.5}, "floor"), ({"mode": "weak", "floor": True}, "floor")],
)  # fmt: skip
def test_wishes_that_make_no_sense(wanted: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        scaling([], wanted, NOWHERE)


def test_another_stage_does_not_enter_and_nothing_measured_is_no_error() -> None:
    found = scaling([row(1, 1.0, stage="grid")], {**STRONG, "stage": "scaling"}, NOWHERE)
    assert (found["curves"], found["left_out"]) == ([], [])
    assert plots_scaling.speed_ups(found, INDEX) is None
    assert plots_scaling.efficiencies(found, INDEX) is None
    assert render(found).splitlines()[0].startswith("engine")


@pytest.fixture
def found() -> dict[str, Any]:
    rows = amdahl(0.05, [1, 2, 4, 8, 128]) + amdahl(0.3, [1, 2, 4, 8], variant="unet")
    return scaling([*rows, row(2, 1.0, run="beside", shared_with=2)], STRONG, NOWHERE)


def test_tables_say_the_same_in_every_format(found: dict[str, Any]) -> None:
    assert json.loads(render(found, "json")) == json.loads(json.dumps(found))
    lines = list(csv.DictReader(io.StringIO(render(found, "csv"))))
    assert len(lines) == 9
    for line, point in zip(lines, [point for curve in found["curves"] for point in curve["points"]], strict=True):
        assert int(line["ranks"]) == point["ranks"]
        assert float(line["efficiency"]) == point["efficiency"]["effect"]
        assert float(line["speed_up_low"]) == point["speed_up"]["low"]
        assert line["runs"].split(" ")[0]
    text = render(found)
    assert "serial fraction 0.0500 (0.0500 to 0.0500) by Amdahl's law" in text
    assert "efficiency below 0.700: not reached within what was measured (up to 8 ranks)" in text
    assert "efficiency below 0.700 from 2." in text
    assert "Left out: 1 run (timed beside 2 other runs)." in text
    assert "ranks share cores" in text
    assert render(found, "md").count("\n|") == 2 + 9 - 1
    assert render(found, "tex").count(r"\\") == 10
    with pytest.raises(ConfigError, match="format"):
        render(found, "xlsx")


def test_figures_name_every_curve_the_ideal_and_the_floor(found: dict[str, Any]) -> None:
    drawn = []
    for draw, words in ((plots_scaling.speed_ups, {"ideal"}), (plots_scaling.efficiencies, {"ideal", "floor 0.7"})):
        svg = draw(found, INDEX)
        assert svg
        texts = {"".join(node.itertext()).strip() for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
        assert words | {"FNO2D", "FNO2D, ranks share cores", "U-Net", "ranks", "1", "2", "4", "8", "128"} <= texts
        drawn.append(ET.fromstring(svg))
        assert "fill: var(--ground" in svg, "hollow where ranks share cores"
    ids = [node.attrib["id"] for root in drawn for node in root.iter() if "id" in node.attrib]
    assert len(ids) == len(set(ids)), "figures share a page"
