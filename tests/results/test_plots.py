"""Figures: every series is in them under its own look, in colours of the page, with valid markup."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib
import pytest

from results import plots, plots_cost
from results.svg import DARK, LIGHT, MARKERS, style
from tests.results.fixtures import VARIANTS, Synthetic


def drawn(study: Synthetic, rows: list[dict[str, Any]], analysis: dict[str, Any]) -> dict[str, str]:
    return {
        "fit": plots.error_against_parameters(analysis["fits"], study.index),
        "front": plots.front(analysis["fronts"][0], study.index),
        "training": plots.training_curves(rows, study.runs, study.index) or "",
        "engines": plots_cost.engine_bars(analysis["equality"]) or "",
        "planned": plots_cost.planned_against_measured(analysis["planner"], study.index) or "",
    }


@pytest.fixture(scope="module")
def figures(study: Synthetic, rows: list[dict[str, Any]], analysis: dict[str, Any]) -> dict[str, str]:
    return drawn(study, rows, analysis)


def words(svg: str) -> str:
    return " | ".join("".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


@pytest.mark.parametrize("name", ["fit", "front", "training", "engines", "planned"])
def test_markup(figures: dict[str, str], name: str) -> None:
    svg = figures[name]
    root = ET.fromstring(svg)
    assert root.attrib["role"] == "img"
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text
    assert "var(--ink" in svg
    assert "var(--font" in svg
    assert "<style" not in svg, "a style inside the figure would rule the page"
    bare = re.findall(r"(?<!, )#[0-9a-f]{6}\b", svg)
    assert not set(bare) & set(LIGHT.values()), "colours of the theme are variables"
    assert not re.findall(r"https?://(?!www\.w3\.org)", svg)


@pytest.mark.parametrize("name", ["fit", "front", "training", "planned"])
def test_every_variant_is_named(figures: dict[str, str], name: str) -> None:
    assert [title for title in VARIANTS.values() if title not in words(figures[name])] == []


def test_figures_share_no_identifier(figures: dict[str, str]) -> None:
    ids = [name for svg in figures.values() for name in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))


def test_axes_carry_units_and_verdicts(figures: dict[str, str]) -> None:
    assert "closed-loop RMSE" in words(figures["fit"])
    assert "persistence" in words(figures["fit"])
    assert "U-Net: undecided" in words(figures["fit"])
    assert "peak memory, largest rank [GiB]" in words(figures["front"])
    assert "zero3 × 2" in words(figures["engines"])
    assert all(size in words(figures["training"]) for size in ("2k", "5k", "20k", "50k", "200k"))


def test_only_enough_sizes_get_a_curve_and_points_without_skill_are_hollow(study: Synthetic, analysis: dict[str, Any]) -> None:
    fits = {fit["group"]: fit for fit in analysis["fits"]}
    five, three = (plots.error_against_parameters([fits[name]], study.index) for name in ("fno2d", "tfno2d"))
    band = "opacity: 0.12"
    assert band in five
    assert band not in three
    hollow = r"fill: var\(--ground[^\"]*stroke: var\(--s2"
    assert re.search(hollow, plots.error_against_parameters([fits["unet"]], study.index))
    assert not re.search(r"fill: var\(--ground", five)


def test_failed_gate_is_hatched(analysis: dict[str, Any]) -> None:
    equality = copy.deepcopy(analysis["equality"])
    assert "<pattern" not in (plots_cost.engine_bars(equality) or "")
    equality["arms"][2]["gate"]["passed"] = False
    assert "<pattern" in (plots_cost.engine_bars(equality) or "")


def test_text_from_outside_is_escaped(study: Synthetic, analysis: dict[str, Any]) -> None:
    index = {**study.index, "variants": {**VARIANTS, "fno2d": "<script>alert(1)</script> & co"}}
    svg = plots.error_against_parameters(analysis["fits"], index)
    assert "<script" not in svg
    assert "<script>alert(1)</script> & co" in words(svg)


def test_published_rows_get_a_figure_of_their_own(study: Synthetic) -> None:
    row = {"system": "dlwp", "experiment": "exp 1", "variant": "unet", "published_as": "U-Net", "budget": "", "metric": "rmse"}
    rows = [{**row, "params": 5e4 * 10**i, "value": 0.03 / (i + 1)} for i in range(3)] + [{**row, "params": None, "value": 0.6}]
    svg = plots.published_curves(rows, "rmse", study.index)
    assert svg
    assert "exp 1" in words(svg)
    assert "published" in words(svg)
    assert plots.published_curves(rows, "acc", study.index) is None


def test_nothing_to_draw(study: Synthetic) -> None:
    assert plots.training_curves([], study.runs, study.index) is None
    assert plots_cost.engine_bars({"arms": []}) is None
    assert plots_cost.planned_against_measured({}, study.index) is None


def test_looks_are_distinct_and_readable() -> None:
    looks = style([str(number) for number in range(8)])
    assert len(set(looks.values())) == len({marker for _, marker in looks.values()}) == len(MARKERS) == 8
    assert len(set(style([str(number) for number in range(20)]).values())) == 20
    assert set(LIGHT) == set(DARK)

    def luminance(colour: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (LIGHT, DARK):  # WCAG 2: text 4.5 to 1, graphics 3 to 1
        ground = luminance(theme["ground"])
        for name, colour in theme.items():
            low, high = sorted((ground, luminance(colour)))
            needed = {"ink": 7.0, "muted": 4.5, "grid": 1.0, "ground": 1.0}.get(name, 3.0)
            assert (high + 0.05) / (low + 0.05) >= needed, name


def test_no_global_state(study: Synthetic, analysis: dict[str, Any]) -> None:
    before = dict(matplotlib.rcParams)
    plots.front(analysis["fronts"][1], study.index)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("number", "text"), [(20_000, "20k"), (1e6, "1M"), (0.05, "0.05"), (2.5e9, "2.5G"), (0.123456, "0.123")])
def test_ticks(number: float, text: str) -> None:
    assert plots.short(number) == text
