"""Parameter counts: every published weather anchor exactly, closed forms, budgets at all scales. Built on meta.

And what no configuration may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from models.dlwp.backbones import build
from models.dlwp.fields import Fields
from models.dlwp.shapes import FNO2D, SFNO, ConvLSTM, GraphCast, MeshGraphNet, Pangu
from models.dlwp.weather import config
from models.dlwp.weather.config import CATALOGUE, Data, fields, model_preset
from models.dlwp.weather.presets import SMALL_SIZES, TINY_SIZES
from models.system import Point
from results.errors import ConfigError

RECIPES = Path(__file__).parents[4] / "configs" / "recipe"

#: Counts of the published configurations.
PUBLISHED = {
    "convlstm": {"1M": 1_006_058, "16M": 15_954_536, "32M": 31_991_866},
    "convlstm_hpx": {"1M": 1_006_058, "16M": 15_954_536, "32M": 31_991_866},
    "unet": {"128M": 122_426_472},
    "unet_hpx": {"16M": 15_911_592, "32M": 31_761_088},
    "swin": {"2M": 2_174_472, "16M": 16_271_072},
    "swin_hpx": {"16M": 15_867_336},
    "fno2d": {"64M": 63_876_939},
    "tfno2d": {"128M": 128_216_869},
    "fourcastnet_p1x1": {"4M": 4_022_880},
    "fourcastnet_p2x4": {"8M": 8_058_240},
    "fourcastnet_p4x4": {"64M": 64_035_620},
    "sfno": {"64M": 63_997_309, "128M": 128_024_854},
    "pangu": {"32M": 31_901_480},
    "meshgraphnet": {"500k": 504_896},
    "graphcast": {"500k": 500_849, "2M": 2_001_749, "16M": 16_022_843},
}
#: Published, and further from their labels than 3 %: -4.4 and +8.7 %.
OFF_LABEL = {("unet", "128M"), ("swin", "2M")}
#: Nearest possible at 50k, where one channel more or less is 5 to 40 %.
COARSE = 0.40
#: Small sizes that are not within 10 % of their labels, and how far off they are; two heads or four blocks must divide a width.
LOOSE = {("swin_hpx", "50k"): -0.24, ("fourcastnet_p2x4", "50k"): -0.13}


def data_of(scale: str) -> Data:
    """The ``data`` section of a recipe, typed."""
    recipe = OmegaConf.load(RECIPES / f"dlwp_weather_{scale}.yaml")
    found: Data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), recipe.data))
    return found


DATA = {scale: data_of(scale) for scale in ("tiny", "small", "paper")}
FIELDS = fields(DATA["paper"], "sfno")
EVERY = [(variant.name, size) for variant in CATALOGUE.variants for size in variant.sizes["paper"]]


def count(model: Any, applied_to: Fields = FIELDS) -> int:
    """Real parameters; nothing complex may be among them."""
    with torch.device("meta"):
        parameters = list(build(model, applied_to).parameters())
    assert not any(parameter.is_complex() for parameter in parameters)
    assert all(parameter.is_meta for parameter in parameters)
    return sum(parameter.numel() for parameter in parameters)


def count_of(variant: str, size: str, scale: str = "paper") -> int:
    return count(model_preset(variant, size, scale), fields(DATA[scale], variant))


def budget(size: str) -> float:
    return float(size[:-1]) * {"k": 1e3, "M": 1e6}[size[-1]]


@pytest.mark.parametrize(
    ("variant", "size", "expected"), [(name, size, n) for name, row in PUBLISHED.items() for size, n in row.items()]
)
def test_published_counts(variant: str, size: str, expected: int) -> None:
    assert count_of(variant, size) == expected


def test_the_published_network_has_13_channels_in_and_8_out() -> None:
    assert (FIELDS.inputs, FIELDS.outputs, FIELDS.height, FIELDS.width) == (13, 8, 32, 64)
    assert (fields(DATA["paper"], "unet_hpx").height, fields(DATA["paper"], "unet_hpx").width) == (8, 8)
    assert (fields(DATA["paper"], "swin_hpx").height, fields(DATA["paper"], "swin_hpx").width) == (24, 32)


def test_the_published_meshgraphnet_of_width_470_is_twice_as_deep_as_its_label_says() -> None:
    wide = MeshGraphNet(hidden=470, graph="delaunay")
    assert count(replace(wide, blocks=8)) == 15_994_348
    assert count(replace(wide, blocks=16)) == 31_936_748


@pytest.mark.parametrize(("variant", "size"), EVERY)
def test_paper_budgets_are_met(variant: str, size: str) -> None:
    """Within 3 %, but for two published configurations and the smallest size."""
    found = count_of(variant, size)
    if (variant, size) in OFF_LABEL:
        assert size in PUBLISHED[variant]
        assert 0.03 < abs(found / budget(size) - 1) < 0.09
    else:
        assert found == pytest.approx(budget(size), rel=COARSE if size == "50k" else 0.03)


def test_only_the_unet_is_further_off_than_eight_per_cent_at_the_smallest_size() -> None:
    off = {variant.name for variant in CATALOGUE.variants if "50k" in variant.sizes["paper"]}
    off = {name for name in off if abs(count_of(name, "50k") / 50e3 - 1) > 0.08}
    assert off == {"unet"}


@pytest.mark.parametrize("size", SMALL_SIZES)
@pytest.mark.parametrize("variant", [variant.name for variant in CATALOGUE.variants])
def test_small_budgets_are_met(variant: str, size: str) -> None:
    """Within 10 %, but for those that are named."""
    off = count_of(variant, size, "small") / budget(size) - 1
    expected = LOOSE.get((variant, size))
    assert abs(off) < 0.10 if expected is None else off == pytest.approx(expected, abs=0.01)


def test_tiny_models_are_tiny() -> None:
    """They serve tests of a few seconds; most of Pangu's are tables of biases."""
    for variant in CATALOGUE.variants:
        for size in TINY_SIZES:
            assert count_of(variant.name, size, "tiny") < (20_000 if variant.name == "pangu" else 7_000), variant.name


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_sizes_ascend(scale: str) -> None:
    for variant in CATALOGUE.variants:
        sizes = variant.sizes[scale]
        assert [budget(size) for size in sizes] == sorted(map(budget, sizes))
        counts = [count_of(variant.name, size, scale) for size in sizes]
        assert counts == sorted(set(counts)), variant.name


@pytest.mark.parametrize("hidden", [1, 7, 57])
def test_closed_form_of_convlstm(hidden: int) -> None:
    """The same on a cylinder and on faces."""
    for variant in ("convlstm", "convlstm_hpx"):
        assert count(ConvLSTM(hidden=hidden), fields(DATA["paper"], variant)) == 306 * hidden**2 + 208 * hidden + 8


@pytest.mark.parametrize("width", [1, 8, 54])
def test_closed_form_of_fno2d(width: int) -> None:
    model = FNO2D(width=width, modes_height=12, modes_width=12, lifting=256, projection=256)
    assert count(model) == 676 * width**2 + 517 * width + 5896


@pytest.mark.parametrize("embed", [1, 13, 86])
def test_closed_form_of_sfno(embed: int) -> None:
    assert count(SFNO(embed=embed)) == 4 * (68 * embed**2 + 3 * embed) + 21 * embed + 104


def perceptron(enter: int, leave: int, hidden: int, layers: int, norm: bool = True) -> int:
    inner = (layers - 1) * (hidden**2 + hidden)
    return enter * hidden + hidden + inner + hidden * leave + leave + 2 * leave * norm


@pytest.mark.parametrize("hidden", [3, 31])
def test_closed_form_of_graphcast(hidden: int) -> None:
    """Embedders of grid, mesh and three kinds of edges; encoder; four layers; decoder; the last perceptron without norm."""
    h = hidden
    entering = [13, 3, 4, 4, 4, 3 * h, h, 2 * h, *[3 * h, 2 * h] * 4, 3 * h, 2 * h]
    expected = sum(perceptron(width, h, h, 1) for width in entering) + perceptron(h, 8, h, 1, norm=False)
    assert count(GraphCast(hidden=h)) == expected


@pytest.mark.parametrize("hidden", [5, 34])
def test_closed_form_of_meshgraphnet(hidden: int) -> None:
    d = hidden
    blocks = 4 * (perceptron(3 * d, d, d, 2) + perceptron(2 * d, d, d, 2))
    ends = perceptron(2, d, 32, 2) + perceptron(13, d, 32, 2) + perceptron(d, 8, 32, 2, norm=False)
    assert count(MeshGraphNet(hidden=d, graph="delaunay")) == ends + blocks


@pytest.mark.parametrize(("embed", "heads"), [(8, 1), (24, 2)])
def test_closed_form_of_pangu(embed: int, heads: int) -> None:
    """Rows padded from 32 to 36, six of them a window, are six types; from 16 to 18, three."""
    tables = 0
    for depth, types, share in ((2, 6, 1), (6, 3, 2), (6, 3, 2), (2, 6, 1)):
        tables += depth * types * share * heads * (2 * 6) ** 2 * (2 * 12 - 1)
    blocks = sum(depth * (12 * c**2 + 13 * c) for depth, c in ((4, embed), (12, 2 * embed)))
    merging = 8 * embed**2 + 8 * embed
    splitting = 2 * (2 * embed) ** 2 + embed**2 + 2 * embed
    ends = 13 * embed + embed + 2 * embed * 8 + 8
    model = Pangu(embed=embed, heads=[heads, 2 * heads, 2 * heads, heads])
    assert count(model) == tables + blocks + merging + splitting + ends


def point_of(variant: str, size: str = "5k", scale: str = "tiny", **changes: Any) -> Point:
    data, model = replace(DATA[scale], **changes), model_preset(variant, size, scale)
    return Point(variant=variant, size=size, scale=scale, seed=0, model=model, data=data)


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_recipe_fits_every_model(scale: str) -> None:
    for variant in CATALOGUE.variants:
        for size in variant.sizes[scale]:
            point = point_of(variant.name, size, scale)
            assert OmegaConf.to_object(OmegaConf.structured(point.model)) == point.model
            config.check(point)


IMPOSSIBLE: list[tuple[str, str, Any]] = [
    ("unet", "data.source", "paht"),
    ("unet", "data.source", "path"),
    ("unet", "data.format", "wb3"),
    ("unet", "data.statistics", "published_"),
    ("unet", "data.grid", "healpix"),
    ("unet", "data.constants", ["orografy"]),
    ("unet", "data.constants", ["t2m"]),
    ("unet", "data.prescribed", ["z500"]),
    ("unet", "data.prognostic", ["z500", "t850"]),
    ("unet", "data.prognostic", ["z500", "t850", "u10", "z500"]),
    ("unet", "data.prognostic", ["z500", "t850", "u10", "q700"]),
    ("unet", "data.constants", ["orography", "slt"]),
    ("unet", "data.train", ["1979-01-01"]),
    ("unet", "data.train", ["1979-02-30", "1979-03-01"]),
    ("unet", "data.val", ["1980-01-08", "1980-01-01"]),
    ("unet", "data.val", ["1979-01-10", "1979-01-12"]),
    ("unet", "data.test", ["1980-01-08", "1980-02-12"]),
    ("unet", "data.test", ["1981-06-01", "1981-08-31"]),
    ("unet", "data.latitudes", 2),
    ("unet", "data.latitudes", 15),
    ("unet", "data.latitudes", 18),
    ("unet_hpx", "data.nside", 0),
    ("unet_hpx", "data.nside", 6),
    ("unet_hpx", "data.nside", 2),
    ("unet", "data.context", 0),
    ("unet", "data.context", 3),
    ("unet", "data.sequence", 1),
    ("unet", "data.stride", 0),
    ("unet", "data.forecasts", -1),
    ("unet", "data.forecast_days", 4),
    ("unet", "data.forecast_days", 20),
    ("unet", "data.long_days", -1),
    ("unet", "data.long_forecasts", 0),
    ("unet", "data.ensemble", 0),
    ("unet", "data.perturbation", -0.1),
    ("unet", "data.days", 5),
    ("unet", "data.spin_up_days", -1),
    ("unet", "data.store_seed", -1),
    ("unet", "model.channels", [4]),
    ("convlstm", "model.hidden", 0),
    ("fno2d", "model.modes_height", 18),
    ("tfno2d", "model.rank_width", 0),
    ("fourcastnet_p1x1", "model.patch_width", 3),
    ("fourcastnet_p1x1", "model.blocks", 3),
    ("sfno", "model.degrees", 17),
    ("sfno", "model.embed", 0),
    ("pangu", "model.heads", [1, 2, 2]),
    ("pangu", "model.heads", [1, 3, 2, 1]),
    ("pangu", "model.patch", 3),
    ("pangu", "model.patch", 16),
    ("pangu", "model.drop_path", 1.0),
    ("pangu", "model.window_height", 0),
    ("swin", "model.heads", [3]),
    ("swin_hpx", "model.window", 3),
    ("meshgraphnet", "model.graph", "multiscale"),
    ("meshgraphnet", "model.activation", "gelu_"),
    ("graphcast", "model.level", -1),
    ("graphcast", "model.layers", 0),
]


@pytest.mark.parametrize(("variant", "key", "value"), IMPOSSIBLE)
def test_impossible_points_are_refused_by_key(variant: str, key: str, value: Any) -> None:
    point = point_of(variant)
    config.check(point)
    section, leaf = key.split(".")
    changed = replace(point, **{section: replace(getattr(point, section), **{leaf: value})})
    with pytest.raises(ConfigError) as caught:
        config.check(changed)
    named = {"data.source": {"data.source", "data.path"}, "data.context": {"data.context", "data.sequence"}}
    named["data.days"] = {"data.days", "data.forecast_days"}
    assert caught.value.where in named.get(key, {key})


def test_channels_without_published_numbers_need_computed_ones() -> None:
    changes = {"prognostic": ["z500", "t850", "u10", "z200"]}
    config.check(point_of("unet", **changes))
    with pytest.raises(ConfigError, match="of 'z200' were published") as caught:
        config.check(point_of("unet", statistics="published", **changes))
    assert caught.value.where == "data.statistics"


def test_channels_that_only_a_users_data_have() -> None:
    changes = {"prognostic": ["z500", "t850", "u10", "q700"]}
    with pytest.raises(ConfigError, match="the generated atmosphere has no channel 'q700'; did you mean 'z700'"):
        config.check(point_of("unet", **changes))
    config.check(point_of("unet", source="path", path="/data/weatherbench", **changes))


@pytest.mark.parametrize("words", [("resnet", "5k", "tiny"), ("sfno", "3k", "tiny"), ("sfno", "5k", "large")])
def test_unknown_names_are_refused(words: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigError):
        model_preset(*words)
