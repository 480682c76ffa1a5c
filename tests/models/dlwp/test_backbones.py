"""Backbones: shapes on meta, symmetries, agreement with an independent implementation, what sharded engines need."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.dlwp.backbones import build
from models.dlwp.config import CATALOGUE, model_preset
from models.dlwp.fields import Fields
from models.dlwp.graphs import grid_edges
from models.dlwp.presets import tucker_ranks
from models.dlwp.rollout import Rollout
from models.dlwp.shapes import FNO2D, FNO3D, TFNO2D, TFNO3D, ConvLSTM, FourCastNet, MeshGraphNet, Swin, UNet
from models.layers.boundary import Boundary
from models.layers.grid_convs import grid_conv
from models.layers.tucker import over_modes
from tests.peers import neuraloperator_peer

VARIANTS = [variant.name for variant in CATALOGUE.variants]


def rollout_of(variant: str, resolution: int = 16) -> Rollout:
    torch.manual_seed(0)
    backbone = build(model_preset(variant, "5k", "tiny"), Fields.torus(resolution, 4))
    return Rollout(backbone, context=4, teacher_forcing=4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_backward_on_meta_at_the_largest_published_size(variant: str) -> None:
    size = CATALOGUE.variant(variant).sizes["paper"][-1]
    with torch.device("meta"):
        model = Rollout(build(model_preset(variant, size, "paper"), Fields.torus(64, 10)), context=10, teacher_forcing=10)
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


@pytest.mark.parametrize(
    ("variant", "shift"),
    [
        ("unet", (16, 16)),
        ("convlstm", (3, 5)),
        ("fno2d", (3, 5)),
        ("tfno2d", (3, 5)),
        ("fno3d", (3, 5)),
        ("tfno3d", (3, 5)),
        ("meshgraphnet", (3, 5)),
        ("ms_meshgraphnet", (2, 4)),
    ],
)
def test_periodic_shifts_commute(variant: str, shift: tuple[int, int]) -> None:
    """U-Net by multiples of 2**(levels-1) = 16 cells, the multi-scale graph by even ones, the others by any number."""
    model = rollout_of(variant, 32).eval()
    frames = torch.randn(1, 6, 1, 32, 32)
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
    cell = build(ConvLSTM(hidden=3, layers=1), Fields.torus(5, 1)).cells[0]
    inputs = torch.randn(4, 2, 3, 5, 5)
    h = c = torch.zeros(2, 3, 5, 5)
    expected = []
    for x in inputs:
        candidate, enter, forget, leave = grid_conv(torch.cat([x, h], 1), cell.weight, cell.bias).chunk(4, dim=1)
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
    net = build(UNet(channels=[3, 4, 5]), Fields.torus(8, 2))
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
    net = build(FourCastNet(embed=8, layers=0, patch_height=4, patch_width=4), Fields.torus(16, 2))
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
    model = FNO2D(width=6, layers=3, modes_height=8, modes_width=6, lifting=12, projection=18)
    ours, peer = build(model, Fields.torus(size[0], 4)), neuraloperator_peer(model, 4)
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
        build(object(), Fields.torus(8, 2))


def test_tucker_configuration_is_not_taken_for_a_dense_one() -> None:
    assert isinstance(model_preset("tfno2d", "5k", "small"), TFNO2D)
    with torch.device("meta"):
        names = {
            name.rsplit(".", 1)[1]
            for name, _ in build(model_preset("tfno2d", "5k", "small"), Fields.torus(32, 4)).named_parameters()
        }
    assert "core" in names


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tucker", [False, True])
def test_fno3d_computes_what_neuraloperator_computes_where_no_frame_is_added(tucker: bool) -> None:
    """Equal even numbers of frames in and out: where they differ, the peer pads the transform at its end, and where they are
    odd, it shifts frequencies back by one too few."""
    from neuralop.models import FNO

    torch.manual_seed(0)
    shape = {"width": 5, "layers": 2, "modes_time": 4, "modes_height": 6, "modes_width": 6, "lifting": 10, "projection": 15}
    channels, _, time, height, along = tucker_ranks((5, 5, 4, 6, 4), 1.0)
    ranks = {"rank_channels": channels, "rank_time": time, "rank_height": height, "rank_width": along}
    ours = build(TFNO3D(**shape, **ranks) if tucker else FNO3D(**shape), Fields.torus(9, 4))
    peer = FNO(
        (4, 6, 6),
        1,
        1,
        5,
        2,
        lifting_channel_ratio=2,
        projection_channel_ratio=3,
        positional_embedding=None,
        use_channel_mlp=False,
    )
    calls = itertools.count()
    peer.fno_blocks.non_linearity = lambda x: x if next(calls) % 2 else torch.nn.functional.gelu(x)
    with torch.no_grad():
        for mine, theirs in ((ours.lift, peer.lifting), (ours.project, peer.projection)):
            theirs.fcs[0].weight.copy_(mine.weight1.unsqueeze(-1))
            theirs.fcs[0].bias.copy_(mine.bias1)
            theirs.fcs[1].weight.copy_(mine.weight2.unsqueeze(-1))
            theirs.fcs[1].bias.copy_(mine.bias2)
        for index, block in enumerate(ours.blocks):
            spectral = block.spectral
            if tucker:
                factors = [
                    torch.view_as_complex(p) for p in (spectral.factor_width, spectral.factor_height, spectral.factor_time)
                ]
                whole = over_modes(torch.view_as_complex(spectral.core), factors)
                whole = torch.view_as_complex(spectral.factor_in) @ whole @ torch.view_as_complex(spectral.factor_out)
                weight = whole.view(4, 6, 4, 5, 5)
            else:
                weight = torch.view_as_complex(spectral.weight)
            peer.fno_blocks.convs[index].weight.tensor.copy_(weight.permute(3, 4, 2, 1, 0))
            peer.fno_blocks.convs[index].bias.copy_(block.skip.bias.view(-1, 1, 1, 1))
            peer.fno_blocks.fno_skips[index].conv.weight.copy_(block.skip.weight.unsqueeze(-1))
        frames = torch.randn(2, 6, 8, 9)
        torch.testing.assert_close(ours(frames, 6), peer(frames.unsqueeze(1))[:, 0], atol=1e-5, rtol=1e-4)


def test_graphs_of_the_paper() -> None:
    """Directed edges: 64x64 torus without and with steps of two; triangulated 32x64 cylinder; every edge has its way back."""
    torus, cylinder = Fields.torus(64, 1), replace(Fields.torus(32, 1), width=64, boundary=Boundary.CYLINDER)
    for fields, kind, expected in ((torus, "grid", 16384), (torus, "multiscale", 20480), (cylinder, "delaunay", 12032)):
        edges = grid_edges(fields, kind)
        assert len(edges) == expected
        pairs = set(zip(edges.senders.tolist(), edges.receivers.tolist(), strict=True))
        assert len(pairs) == expected
        assert {(b, a) for a, b in pairs} == pairs
        # Where an edge says that its receiver lies is where it lies.
        row, column = edges.senders // fields.width, edges.senders % fields.width
        there = (row + edges.features[:, 0]) % fields.height * fields.width + (column + edges.features[:, 1]) % fields.width
        assert np.array_equal(there, edges.receivers)
    far = grid_edges(torus, "multiscale").features
    assert np.unique(far[:, 2]).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("kind", ["grid", "multiscale", "delaunay"])
def test_a_message_reaches_neighbours_only(kind: str) -> None:
    """One block moves what is known by one edge."""
    torch.manual_seed(0)
    net = build(MeshGraphNet(hidden=6, blocks=1, encoder=4, graph=kind, activation="silu"), Fields.torus(8, 2))
    frames = torch.randn(1, 2, 8, 8)
    changed = frames.clone()
    changed[..., 2, 4] += 1
    moved = (net(changed) - net(frames))[0, 0].abs() > 1e-7
    near = {(2, 4), (1, 4), (3, 4), (2, 3), (2, 5)}
    near |= {(0, 4), (4, 4), (2, 2), (2, 6)} if kind == "multiscale" else set()
    near |= {(1, 3), (3, 5)} if kind == "delaunay" else set()
    assert {tuple(place) for place in moved.nonzero().tolist()} == near


def test_swin_drops_whole_branches_in_training_only() -> None:
    torch.manual_seed(0)
    net = build(Swin(embed=8, depths=[2], heads=[2], drop_path=0.9), Fields.torus(8, 2))
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    frames = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(net.eval()(frames), net(frames))
        assert len({float(net.train()(frames).sum()) for _ in range(20)}) > 1


@pytest.mark.parametrize(("variant", "masked", "shift"), [("swin", False, 2), ("swin", True, 2)])
def test_a_shifted_window_under_a_mask_breaks_periodic_shifts(variant: str, masked: bool, shift: int) -> None:
    """One window over everything sees relative places in the map, not on the torus: shifts do not commute either way."""
    torch.manual_seed(0)
    model = replace(model_preset(variant, "5k", "tiny"), masked_wrap=masked)
    net = build(model, Fields.torus(16, 2)).eval()
    nn.init.normal_(net.stages[0][1].attention.table)
    frames = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        assert (net(frames).roll(shift, -1) - net(frames.roll(shift, -1))).abs().max() > 1e-6
