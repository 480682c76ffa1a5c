"""Backbones: shapes on meta, symmetries, agreement with an independent implementation, what sharded engines need."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.dlwp.backbones import build
from models.dlwp.config import CATALOGUE, FNO2D, TFNO2D, ConvLSTM, FourCastNet, UNet, model_preset
from models.dlwp.rollout import Rollout
from models.layers.circular import circular_conv
from tests.peers import neuraloperator_peer

VARIANTS = [variant.name for variant in CATALOGUE.variants]


def rollout_of(variant: str, scale: str = "tiny", context: int = 4) -> Rollout:
    torch.manual_seed(0)
    return Rollout(build(model_preset(variant, "5k", scale)), context=context, teacher_forcing=context)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_backward_on_meta_at_the_largest_published_size(variant: str) -> None:
    size = CATALOGUE.variant(variant).sizes["paper"][-1]
    with torch.device("meta"):
        model = Rollout(build(model_preset(variant, size, "paper")), context=10, teacher_forcing=10)
        outputs = model(torch.empty(2, 13, 1, 64, 64))
    assert outputs.shape == (2, 12, 1, 64, 64)
    outputs.sum().backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trained_parameter_moves_the_loss(variant: str) -> None:
    model = rollout_of(variant)
    for name, parameter in model.named_parameters():
        if "position" not in name:
            nn.init.normal_(parameter, 0.0, 0.3)  # away from zeros that block a gradient
    model(torch.randn(2, 7, 1, 16, 16)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert (variant, name.split(".")[1]) == ("fourcastnet", "final_norm")


@pytest.mark.parametrize(("variant", "shift"), [("unet", (16, 16)), ("convlstm", (3, 5)), ("fno2d", (3, 5)), ("tfno2d", (3, 5))])
def test_periodic_shifts_commute(variant: str, shift: tuple[int, int]) -> None:
    """U-Net by multiples of 2**(levels-1) = 16 cells, the others by any number."""
    model = rollout_of(variant).eval()
    frames = torch.randn(1, 6, 1, 32, 48)
    with torch.no_grad():
        shifted_after = model(frames).roll(shift, dims=(-2, -1))
        shifted_before = model(frames.roll(shift, dims=(-2, -1)))
    torch.testing.assert_close(shifted_after, shifted_before, atol=1e-4, rtol=1e-4)


def test_a_positional_embedding_breaks_shifts() -> None:
    model = rollout_of("fourcastnet").eval()
    frames = torch.randn(1, 6, 1, 16, 16)
    with torch.no_grad():
        difference = model(frames).roll(4, -1) - model(frames.roll(4, -1))
    assert difference[:, 4:].abs().max() > 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_parameters_give_nearly_the_same_forecast(variant: str) -> None:
    model = rollout_of(variant).eval()
    frames = torch.randn(2, 6, 1, 16, 16)
    with torch.no_grad():
        expected = model(frames)
        found = model.bfloat16()(frames)
    assert found.dtype == torch.float32
    scale = expected.square().mean().sqrt()
    assert (found - expected).square().mean().sqrt() < 0.05 * scale


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_trains(variant: str) -> None:
    model = rollout_of(variant)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.randn(2, 6, 1, 16, 16)).float().square().mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.dtype == torch.float32 and bool(torch.isfinite(g).all()) for g in grads)


def test_a_second_build_under_the_same_seed_has_the_same_bits() -> None:
    for variant in VARIANTS:
        first, second = rollout_of(variant).state_dict(), rollout_of(variant).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_convlstm_cell_by_hand() -> None:
    """Gates in the order candidate, input, forget, output; c = f c + i g; h = o tanh c; zero state at first."""
    torch.manual_seed(0)
    cell = build(ConvLSTM(hidden=3, layers=1)).cells[0]
    inputs = torch.randn(4, 2, 3, 5, 5)
    h = c = torch.zeros(2, 3, 5, 5)
    expected = []
    for x in inputs:
        candidate, enter, forget, leave = circular_conv(torch.cat([x, h], 1), cell.weight, cell.bias).chunk(4, dim=1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(candidate)
        h = torch.sigmoid(leave) * torch.tanh(c)
        expected.append(h)
    found, state = cell(inputs.flatten(0, 1), 4, None)
    torch.testing.assert_close(found, torch.cat(expected))
    torch.testing.assert_close(state[1], c)
    # Split anywhere, the sequence goes on from its state.
    head, state = cell(inputs[:1].flatten(0, 1), 1, None)
    middle, state = cell(inputs[1:2].flatten(0, 1), 1, state)
    tail, _ = cell(inputs[2:].flatten(0, 1), 2, state)
    torch.testing.assert_close(torch.cat([head, middle, tail]), found)


def test_unet_levels_keep_their_skips() -> None:
    """A U-Net whose lower levels are silenced is its first level alone."""
    torch.manual_seed(0)
    net = build(UNet(channels=[3, 4, 5], context=2))
    with torch.no_grad():
        for parameter in net.lift[0].parameters():
            parameter.zero_()
        frames = torch.randn(1, 2, 8, 8)
        skip = net.down[0](frames)
        expected = net.out(net.up[0](torch.cat([skip, torch.zeros_like(skip)], dim=1)))
        torch.testing.assert_close(net(frames), expected)


def test_fourcastnet_patches_are_local() -> None:
    """Without blocks, each output patch depends on its own input patch only."""
    torch.manual_seed(0)
    net = build(FourCastNet(embed=8, layers=0, patch=4, resolution=16, context=2))
    frames = torch.randn(1, 2, 16, 16)
    changed = frames.clone()
    changed[:, :, 4:8, 8:12] += 1
    difference = (net(changed) - net(frames)).abs()[0, 0]
    assert difference[4:8, 8:12].min() > 0
    difference[4:8, 8:12] = 0
    assert difference.max() == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(16, 16), (14, 19)])
def test_fno2d_computes_what_neuraloperator_computes(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = FNO2D(width=6, layers=3, modes_height=8, modes_width=6, lifting=12, projection=18, context=4)
    ours, peer = build(model), neuraloperator_peer(model)
    assert sum(p.numel() * (2 if p.is_complex() else 1) for p in peer.parameters()) == sum(p.numel() for p in ours.parameters())
    with torch.no_grad():
        for mine, theirs in ((ours.lift, peer.lifting), (ours.project, peer.projection)):
            theirs.fcs[0].weight.copy_(mine.weight1.unsqueeze(-1))
            theirs.fcs[0].bias.copy_(mine.bias1)
            theirs.fcs[1].weight.copy_(mine.weight2.unsqueeze(-1))
            theirs.fcs[1].bias.copy_(mine.bias2)
        for index, block in enumerate(ours.blocks):
            weight = torch.view_as_complex(block.spectral.weight).permute(2, 3, 1, 0)
            peer.fno_blocks.convs[index].weight.tensor.copy_(weight)
            peer.fno_blocks.convs[index].bias.copy_(block.skip.bias.view(-1, 1, 1))
            peer.fno_blocks.fno_skips[index].conv.weight.copy_(block.skip.weight.unsqueeze(-1))
        frames = torch.randn(2, 4, *size)
        torch.testing.assert_close(ours(frames), peer(frames), atol=1e-5, rtol=1e-4)


def test_an_unknown_configuration_is_refused() -> None:
    with pytest.raises(TypeError, match="no backbone"):
        build(object())


def test_tucker_configuration_is_not_taken_for_a_dense_one() -> None:
    assert isinstance(model_preset("tfno2d", "5k", "small"), TFNO2D)
    with torch.device("meta"):
        names = {name.rsplit(".", 1)[1] for name, _ in build(model_preset("tfno2d", "5k", "small")).named_parameters()}
    assert "core" in names
