"""Last layers: at zero if asked to, otherwise the library's own; a backbone that starts at zero starts at persistence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.dlwp.backbones import build
from models.dlwp.weather.config import CATALOGUE, Data, fields, model_preset
from models.dlwp.weather.rollout import ForecastModel
from models.layers.boundary import Boundary
from models.layers.grid_convs import GridConvs
from models.layers.message_passing import Perceptron
from models.layers.outputs import OutputConv2d, OutputConvTranspose2d, OutputLinear, zero_
from models.layers.pointwise import PointwisePerceptron, TruncatedLinear

VARIANTS = [variant.name for variant in CATALOGUE.variants]
DATA = Data(latitudes=16, nside=4, zero_output=True)

#: (with a switch for zeros, the library's layer of the same shape, what either is applied to).
PAIRS: list[tuple[Callable[[bool], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda zero: OutputLinear(3, 5, zero=zero), lambda: nn.Linear(3, 5), (2, 3)),
    (lambda zero: OutputLinear(3, 5, bias=False, zero=zero), lambda: nn.Linear(3, 5, bias=False), (2, 3)),
    (lambda zero: OutputConv2d(3, 5, 1, zero=zero), lambda: nn.Conv2d(3, 5, 1), (2, 3, 4, 6)),
    (lambda zero: OutputConv2d(3, 5, 3, (1, 0), zero=zero), lambda: nn.Conv2d(3, 5, 3, padding=(1, 0)), (2, 3, 4, 6)),
    (lambda zero: OutputConvTranspose2d(3, 5, 2, zero=zero), lambda: nn.ConvTranspose2d(3, 5, 2, stride=2), (2, 3, 4, 6)),
]


@pytest.mark.parametrize(("ours", "plain", "shape"), PAIRS)
def test_without_zeros_a_layer_is_the_librarys(
    ours: Callable[[bool], nn.Module], plain: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    """The same numbers from the same seed, the same names, the same result."""
    torch.manual_seed(0)
    made = ours(False)
    torch.manual_seed(0)
    expected = plain()
    assert list(made.state_dict()) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(made.state_dict()[name], tensor)
        assert tensor.abs().max() > 0
    given = torch.randn(shape)
    assert torch.equal(made(given), expected(given))


@pytest.mark.parametrize(("ours", "plain", "shape"), PAIRS)
def test_with_zeros_the_first_result_is_zero_and_the_first_step_is_not(
    ours: Callable[[bool], nn.Module], plain: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    made = ours(True)
    out = made(torch.randn(shape))
    assert out.shape == plain()(torch.randn(shape)).shape
    assert (out == 0).all()
    (out - 1).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())


def test_patches_of_a_transposed_convolution_do_not_overlap() -> None:
    """What one token says is said within its own patch."""
    torch.manual_seed(0)
    layer = OutputConvTranspose2d(2, 3, 4, zero=False)
    field = torch.randn(1, 2, 3, 5)
    changed = field.clone()
    changed[0, :, 1, 2] += 1
    moved = (layer(changed) - layer(field)).abs().sum((0, 1))
    assert moved[4:8, 8:12].min() > 0
    moved[4:8, 8:12] = 0
    assert moved.max() == 0


def test_zeros_are_those_of_the_layer_itself() -> None:
    inner = nn.Linear(2, 2)
    outer = nn.Module()
    outer.weight, outer.inner = nn.Parameter(torch.ones(3)), inner
    zero_(outer, False)
    assert (outer.weight == 1).all()
    zero_(outer, True)
    assert (outer.weight == 0).all()
    assert (inner.weight != 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: OutputLinear(3, 5, zero=True),
        lambda: OutputConv2d(3, 5, 1, zero=True),
        lambda: OutputConvTranspose2d(3, 5, 2, zero=True),
        lambda: TruncatedLinear(3, 5, bias=False, zero=True),
    ],
)
def test_planning_makes_them_on_meta(make: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in make().parameters())


def test_only_the_last_layer_of_a_chain_starts_at_zero() -> None:
    chain = GridConvs([2, 3, 4], boundary=Boundary.CYLINDER, activation="relu", activate_last=False, zero_output=True)
    assert [bool((conv.weight == 0).all()) for conv in chain.convs] == [False, True]
    perceptron = Perceptron([2, 3], 4, 5, layers=2, zero_output=True, norm=False)
    assert (perceptron.last.weight == 0).all()
    assert (perceptron.hidden[0].weight != 0).all()
    lift = PointwisePerceptron(2, 3, 4, zero_output=True)
    assert (lift.weight2 == 0).all()
    assert (lift.weight1 != 0).all()


def forecast_model(variant: str, data: Data) -> ForecastModel:
    torch.manual_seed(0)
    faces = {"swin_hpx": "map", "unet_hpx": "samples", "convlstm_hpx": "samples"}.get(variant)
    return ForecastModel(build(model_preset(variant, "5k", "tiny"), fields(data, variant)), context=1, faces=faces)


def inputs_of(variant: str) -> tuple[Any, ...]:
    shape = (12, 4, 4) if variant.endswith("_hpx") else (16, 32)
    random = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, *lead, *shape, generator=random) for lead in ((4,), (3, 1), (1, 8)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_forecast_that_starts_at_zero_is_persistence(variant: str) -> None:
    """To the bit, at every lead; without the switch it is not. The gradient of the last layer moves it away."""
    model = forecast_model(variant, DATA)
    constants, prescribed, prognostic = inputs_of(variant)
    out: Tensor = model(constants, prescribed, prognostic, 3)
    assert torch.equal(out, prognostic.expand_as(out))
    (out - torch.randn_like(out)).square().mean().backward()
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert moved
    assert all((model.get_parameter(name) == 0).all() for name in moved)
    with torch.no_grad():
        other = forecast_model(variant, replace(DATA, zero_output=False))(constants, prescribed, prognostic, 3)
    assert (other - prognostic).abs().amax((0, 2, 3, 4)).min() > 0
