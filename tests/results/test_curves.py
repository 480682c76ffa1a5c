"""Curves: what is saved comes back, damage, and what the drawings contain."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.curves import find_curves, load_curves, render_png, render_svg, save_curves
from results.errors import ResultError
from results.pictures import find_panels

DAYS = np.arange(1, 6) / 4
LINES = {"forecast": [DAYS, 2 * DAYS], "persistence": [3 * DAYS, np.full(5, np.nan)]}


def save(folder: Path, **changes: object) -> Path:
    texts: dict[str, object] = {
        "x": DAYS, "lines": LINES, "panels": ["z500", "t850"], "title": "RMSE by lead <a>", "x_label": "days",
        "y_labels": ["m2/s2", "K"],
    }  # fmt: skip
    return save_curves(folder, "rmse", **{**texts, **changes})  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    curves = load_curves(save(tmp_path, log="y"))
    np.testing.assert_array_equal(curves.x, DAYS)
    np.testing.assert_array_equal(curves.values, np.array([LINES["forecast"], LINES["persistence"]]))
    assert (curves.lines, curves.panels, curves.log) == (("forecast", "persistence"), ("z500", "t850"), "y")
    assert (curves.title, curves.x_label, curves.y_labels) == ("RMSE by lead <a>", "days", ("m2/s2", "K"))
    assert [path.name for path in tmp_path.iterdir()] == ["rmse.npz"]


def test_shapes_that_do_not_match_are_refused(tmp_path: Path) -> None:
    for changes in ({"x": DAYS[:-1]}, {"panels": ["z500"]}, {"y_labels": ["K"]}):
        with pytest.raises(ValueError, match="do not match"):
            save(tmp_path, **changes)


def test_drawings_hold_titles_units_and_lines(tmp_path: Path) -> None:
    svg = render_svg(save(tmp_path))
    text = " ".join(ET.fromstring(svg).itertext())
    for word in ("z500", "t850", "days", "m2/s2", "K", "forecast", "persistence"):
        assert word in text
    image = Image.open(io.BytesIO(render_png(tmp_path / "rmse.npz")))
    assert image.width > image.height > 100


def test_curves_and_fields_are_told_apart_and_damage_is_named(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert find_curves(tmp_path) == [path]
    assert find_panels(tmp_path) == []
    path.write_bytes(path.read_bytes()[:100])
    assert find_curves(tmp_path) == []
    with pytest.raises(ResultError, match="holds no curves"):
        load_curves(path)
