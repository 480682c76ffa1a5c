"""Pictures: what is saved comes back, ranges, damage, and what the drawings contain."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.errors import ResultError
from results.pictures import find_panels, load_panels, render_png, render_svg, save_panels
from results.svg import DARK, LIGHT, standalone

VALUES = np.random.default_rng(0).normal(size=(3, 2, 8, 8))


def save(folder: Path, values: np.ndarray = VALUES, **changes: object) -> Path:
    texts = {
        "row_titles": ["truth", "prediction", "error"][: len(values)], "column_titles": ["t = 1", "t = 2"],
        "title": "Vorticity <w>", "units": "1/s",
    }  # fmt: skip
    return save_panels(folder, "rollout", panels=values, **{**texts, **changes})  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    panels = load_panels(save(tmp_path))
    np.testing.assert_array_equal(panels.values, VALUES.astype(np.float32))
    assert panels.values.dtype == np.float32
    assert panels.row_titles == ("truth", "prediction", "error")
    assert (panels.title, panels.units, panels.name) == ("Vorticity <w>", "1/s", "rollout")
    assert [path.name for path in tmp_path.iterdir()] == ["rollout.npz"]


def test_truth_and_prediction_share_a_range_and_the_error_has_its_own(tmp_path: Path) -> None:
    values = np.zeros((3, 2, 8, 8))
    values[0, 0, 0, 0], values[1, 0, 0, 0], values[2, 0, 0, 0] = 2.0, -5.0, 0.25
    values[2, 0, 0, 1] = -0.1
    values[0, 0, 0, 1] = np.nan
    assert load_panels(save(tmp_path, values)).ranges() == [(-5.0, 5.0), (-5.0, 5.0), (-0.25, 0.25)]
    positive = load_panels(save(tmp_path, np.abs(VALUES) + 1, shared_rows=[])).ranges()
    assert len(set(positive)) == 3
    assert all(low >= 1 for low, _ in positive)
    assert load_panels(save(tmp_path, np.full((2, 2, 4, 4), 3.0))).ranges() == [(2.5, 3.5)] * 2
    assert load_panels(save(tmp_path, np.full((1, 2, 4, 4), np.nan))).ranges() == [(0.0, 1.0)]


def test_svg_follows_the_page_and_is_well_formed(tmp_path: Path) -> None:
    svg = render_svg(save(tmp_path))
    root = ET.fromstring(svg)
    texts = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"truth", "prediction", "error", "t = 1", "t = 2", "1/s"} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}image"))) >= 6
    assert f"var(--ink, {LIGHT['ink']})" in svg
    assert not re.search(r"(?<!, )#1c2430", svg), "every ink colour is a variable"
    assert not re.findall(r'(?:href|src)="(?!data:|#)', svg), "nothing is loaded from elsewhere"
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)) <= {(i, "") for i in ids} | {("", i) for i in ids}
    assert DARK["ink"] in ET.tostring(ET.fromstring(standalone(svg)), encoding="unicode")


def test_png_in_both_themes(tmp_path: Path) -> None:
    path = save(tmp_path)
    for dark in (False, True):
        image = Image.open(io.BytesIO(render_png(path, dark))).convert("RGB")
        corner = image.getpixel((0, 0))
        assert isinstance(corner, tuple)
        assert (sum(corner) < 150) is dark


def test_bad_shapes_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not match"):
        save(tmp_path, VALUES[:, :1])
    path = save(tmp_path)
    np.savez(tmp_path / "profile.npz", x=np.arange(3))
    assert find_panels(tmp_path) == [path]
    path.write_bytes(path.read_bytes()[:50])
    assert find_panels(tmp_path) == []
    for broken in (path, tmp_path / "profile.npz", tmp_path / "absent.npz"):
        with pytest.raises(ResultError, match="is not a picture"):
            load_panels(broken)
