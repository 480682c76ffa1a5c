"""Parameter counts: every published Navier-Stokes budget exactly, the small family, closed forms. Built on meta."""

from __future__ import annotations

import math

import pytest
import torch

from models.dlwp.backbones import build
from models.dlwp.config import CATALOGUE, model_preset
from models.dlwp.fields import Fields
from models.dlwp.presets import tucker_ranks
from models.dlwp.shapes import FNO2D, TFNO3D, ConvLSTM

PUBLISHED = {
    "unet": {"5k": 5197, "50k": 68761, "500k": 486321, "1M": 1093033, "2M": 1942113, "4M": 4011201, "8M": 8254621},
    "convlstm": {"5k": 5045, "50k": 52196, "500k": 491081, "1M": 996304, "2M": 2010664, "4M": 3980995, "8M": 8036659},
    "fno2d": {
        "5k": 7067,
        "50k": 50729,
        "500k": 510092,
        "1M": 999119,
        "2M": 2002463,
        "4M": 4051142,
        "8M": 7944029,
        "16M": 16114963,
        "32M": 31947682,
    },
    "fourcastnet": {"5k": 6672, "50k": 65536, "500k": 506128, "1M": 999520, "2M": 2050648, "4M": 4032760, "8M": 8112780},
    "swin": {"5k": 5474, "50k": 49761, "500k": 509921, "1M": 1042241, "2M": 2142305, "4M": 3941153, "8M": 7672865},
    "fno3d": {
        "5k": 5332,
        "50k": 55361,
        "500k": 419905,
        "1M": 1247297,
        "2M": 2082881,
        "4M": 4148321,
        "8M": 8279201,
        "16M": 16540961,
        "32M": 33064481,
    },
    "tfno3d": {
        "50k": 37091,
        "500k": 525233,
        "1M": 987572,
        "2M": 2081497,
        "4M": 3927751,
        "8M": 8298281,
        "16M": 16397086,
    },
    "ms_meshgraphnet": {"5k": 3217, "50k": 50157, "500k": 504601, "1M": 995257, "2M": 2008157},
}
#: The published series whose layers grow from 1 to 16, width 32: (modes, layers, lifting) to parameters.
TFNO3D_BY_LAYERS = {
    (11, 3, 1, 32): 5860,
    (32, 3, 1, 256): 57105,
    (32, 7, 1, 256): 424229,
    (32, 10, 1, 256): 1251865,
    (32, 12, 1, 256): 2087651,
    (32, 12, 2, 256): 4157861,
    (32, 12, 8, 256): 16579121,
}
SMALL = {
    "fno2d": {"2k": 2011, "5k": 6165, "20k": 22249, "50k": 48701, "200k": 190265},
    "convlstm": {"5k": 5045, "20k": 306 * 64 + 37 * 8 + 1, "50k": 52196},
    "fourcastnet": {"5k": 4800, "20k": 17688, "50k": 41000},
}


def count(model: object, fields: Fields | None = None) -> int:
    """Real parameters; nothing complex may be among them."""
    with torch.device("meta"):
        parameters = list(build(model, fields or Fields.torus(64, 10)).parameters())
    assert not any(parameter.is_complex() for parameter in parameters)
    assert all(parameter.is_meta for parameter in parameters)
    return sum(parameter.numel() for parameter in parameters)


SMALL_FIELDS = Fields.torus(32, 4)


def cases(table: dict[str, dict[str, int]]) -> list[tuple[str, str, int]]:
    return [(variant, size, expected) for variant, row in table.items() for size, expected in row.items()]


@pytest.mark.parametrize(("variant", "size", "expected"), cases(PUBLISHED))
def test_published_counts(variant: str, size: str, expected: int) -> None:
    assert count(model_preset(variant, size, "paper")) == expected


@pytest.mark.parametrize(("variant", "size", "expected"), cases(SMALL))
def test_small_family(variant: str, size: str, expected: int) -> None:
    assert count(model_preset(variant, size, "small"), SMALL_FIELDS) == expected


def budget(size: str) -> float:
    return float(size[:-1]) * {"k": 1e3, "M": 1e6}[size[-1]]


#: One layer, as FNO3D has there; and the width of the multi-scale form, whose published label is as far off.
UNMATCHED = {("tfno3d", "5k"), ("meshgraphnet", "5k"), ("ms_meshgraphnet", "5k")}


@pytest.mark.parametrize(
    ("variant", "size"),
    [(v.name, s) for v in CATALOGUE.variants for s in v.sizes["paper"] if s not in PUBLISHED.get(v.name, {})],
)
def test_widths_of_unpublished_budgets_are_solved_within_three_per_cent(variant: str, size: str) -> None:
    if (variant, size) not in UNMATCHED:
        assert count(model_preset(variant, size, "paper")) == pytest.approx(budget(size), rel=0.03)


@pytest.mark.parametrize(("variant", "size"), [(v.name, size) for v in CATALOGUE.variants for size in v.sizes["small"]])
def test_small_budgets_are_met(variant: str, size: str) -> None:
    """Within 10 %, but for those of U-Net and FourCastNet, whose widths are few, and FNO2D's at 5k and 20k."""
    loose = {("unet", "50k"), ("unet", "20k"), ("fourcastnet", "50k"), ("fourcastnet", "20k"), ("fno2d", "5k"), ("fno2d", "20k")}
    rel = 0.4 if (variant, size) in loose else 0.10
    assert count(model_preset(variant, size, "small"), SMALL_FIELDS) == pytest.approx(budget(size), rel=rel)


@pytest.mark.parametrize(("shape", "expected"), TFNO3D_BY_LAYERS.items())
def test_published_tfno3d_of_growing_depth(shape: tuple[int, int, int, int], expected: int) -> None:
    width, modes, layers, hidden = shape
    channels, _, time, height, along = tucker_ranks((width, width, modes, modes, modes // 2 + 1), 1.0)
    model = TFNO3D(
        width=width, layers=layers, modes_time=modes, modes_height=modes, modes_width=modes, lifting=hidden, projection=hidden,
        rank_channels=channels, rank_time=time, rank_height=height, rank_width=along,
    )  # fmt: skip
    assert count(model) == expected


@pytest.mark.parametrize("width", [1, 7, 54])
def test_closed_form_of_fno2d(width: int) -> None:
    model = FNO2D(width=width, modes_height=12, modes_width=12, lifting=256, projection=256)
    assert count(model) == 676 * width**2 + 517 * width + 3329


@pytest.mark.parametrize("hidden", [1, 6, 31])
def test_closed_form_of_convlstm(hidden: int) -> None:
    assert count(ConvLSTM(hidden=hidden)) == 306 * hidden**2 + 37 * hidden + 1


def test_sizes_ascend_at_every_scale() -> None:
    for variant in CATALOGUE.variants:
        for scale, sizes in variant.sizes.items():
            fields = Fields.torus(64, 10) if scale == "paper" else SMALL_FIELDS
            counts = [count(model_preset(variant.name, size, scale), fields) for size in sizes]
            assert counts == sorted(set(counts)), (variant.name, scale)
            if scale != "tiny":  # labels are budgets: nothing is off by more than the published MS MeshGraphNet "5k"
                assert all(abs(math.log(n / budget(size))) < math.log(1.6) for n, size in zip(counts, sizes, strict=True))
