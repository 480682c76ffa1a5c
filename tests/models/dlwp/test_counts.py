"""Parameter counts: every published Navier-Stokes budget exactly, the small family, closed forms. Built on meta."""

from __future__ import annotations

import math

import pytest
import torch

from models.dlwp.backbones import build
from models.dlwp.config import CATALOGUE, FNO2D, ConvLSTM, model_preset

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
}
SMALL = {
    "fno2d": {"2k": 2011, "5k": 6165, "20k": 22249, "50k": 48701, "200k": 190265},
    "convlstm": {"5k": 5045, "20k": 306 * 64 + 37 * 8 + 1, "50k": 52196},
    "fourcastnet": {"5k": 4800, "20k": 17688, "50k": 41000},
}


def count(model: object) -> int:
    """Real parameters; nothing complex may be among them."""
    with torch.device("meta"):
        parameters = list(build(model).parameters())
    assert not any(parameter.is_complex() for parameter in parameters)
    assert all(parameter.is_meta for parameter in parameters)
    return sum(parameter.numel() for parameter in parameters)


def cases(table: dict[str, dict[str, int]]) -> list[tuple[str, str, int]]:
    return [(variant, size, expected) for variant, row in table.items() for size, expected in row.items()]


@pytest.mark.parametrize(("variant", "size", "expected"), cases(PUBLISHED))
def test_published_counts(variant: str, size: str, expected: int) -> None:
    assert count(model_preset(variant, size, "paper")) == expected


@pytest.mark.parametrize(("variant", "size", "expected"), cases(SMALL))
def test_small_family(variant: str, size: str, expected: int) -> None:
    assert count(model_preset(variant, size, "small")) == expected


def budget(size: str) -> float:
    return float(size[:-1]) * {"k": 1e3, "M": 1e6}[size[-1]]


@pytest.mark.parametrize("size", CATALOGUE.variant("tfno2d").sizes["paper"])
def test_tucker_budgets_are_met_within_three_per_cent(size: str) -> None:
    assert count(model_preset("tfno2d", size, "paper")) == pytest.approx(budget(size), rel=0.03)


@pytest.mark.parametrize("size", CATALOGUE.variant("tfno2d").sizes["small"])
def test_small_tucker_budgets_are_met_within_ten_per_cent(size: str) -> None:
    assert count(model_preset("tfno2d", size, "small")) == pytest.approx(budget(size), rel=0.10)


@pytest.mark.parametrize("width", [1, 7, 54])
def test_closed_form_of_fno2d(width: int) -> None:
    model = FNO2D(width=width, modes_height=12, modes_width=12, lifting=256, projection=256, context=10)
    assert count(model) == 676 * width**2 + 517 * width + 3329


@pytest.mark.parametrize("hidden", [1, 6, 31])
def test_closed_form_of_convlstm(hidden: int) -> None:
    assert count(ConvLSTM(hidden=hidden)) == 306 * hidden**2 + 37 * hidden + 1


def test_sizes_ascend_at_every_scale() -> None:
    for variant in CATALOGUE.variants:
        for scale, sizes in variant.sizes.items():
            counts = [count(model_preset(variant.name, size, scale)) for size in sizes]
            assert counts == sorted(set(counts)), (variant.name, scale)
            if scale != "tiny":  # labels are budgets: nothing is off by more than the published U-Net "50k"
                assert all(abs(math.log(n / budget(size))) < math.log(1.45) for n, size in zip(counts, sizes, strict=True))
