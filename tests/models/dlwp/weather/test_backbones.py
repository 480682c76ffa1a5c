"""Backbones on the sphere: shapes on meta, symmetries, graphs, forms by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.dlwp.backbones import build
from models.dlwp.backbones.pangu import PatchSplitting
from models.dlwp.backbones.swin import PatchMerging
from models.dlwp.multimesh import Multimesh, icosahedron, multimesh, positions, refine
from models.dlwp.shapes import SFNO, Pangu, Swin
from models.dlwp.weather.config import CATALOGUE, ON_HEALPIX, Data, fields, model_preset
from models.dlwp.weather.grid import Grid, equiangular, gaussian
from models.dlwp.weather.rollout import ForecastModel, map_to_faces
from models.layers.message_passing import Edges

VARIANTS = [variant.name for variant in CATALOGUE.variants]
TINY = Data(latitudes=16, nside=4)
#: Columns that a roll of the grid must be a multiple of: U-Net pools two levels.
ROLLS = {"convlstm": 1, "unet": 4, "fno2d": 1, "tfno2d": 1, "meshgraphnet": 1, "sfno": 1}


def forecast_model(variant: str, data: Data = TINY, size: str = "5k", scale: str = "tiny") -> ForecastModel:
    torch.manual_seed(0)
    faces = None if variant not in ON_HEALPIX else "map" if variant == "swin_hpx" else "samples"
    return ForecastModel(build(model_preset(variant, size, scale), fields(data, variant)), context=data.context, faces=faces)


def inputs_of(variant: str, data: Data, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Constants, prescribed and prognostic fields of two samples."""
    shape = (12, data.nside, data.nside) if variant in ON_HEALPIX else (data.latitudes, 2 * data.latitudes)
    lead = ((len(data.constants),), (data.context - 1 + steps, len(data.prescribed)), (data.context, len(data.prognostic)))
    constants, prescribed, prognostic = (torch.randn(2, *part, *shape) for part in lead)
    return constants, prescribed, prognostic


def shaken(module: nn.Module, deviation: float = 0.2) -> nn.Module:
    """Away from zeros and ones that hide what a parameter does."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, deviation)
    return module.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_backward_on_meta_at_the_largest_published_size(variant: str) -> None:
    size = CATALOGUE.variant(variant).sizes["paper"][-1]
    with torch.device("meta"):
        model = forecast_model(variant, Data(), size, "paper")
        outputs = model(*inputs_of(variant, Data(), 2), 2)
    assert outputs.shape == (2, 2, 8, *((12, 8, 8) if variant in ON_HEALPIX else (32, 64)))
    outputs.sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trained_parameter_moves_the_loss(variant: str) -> None:
    model = forecast_model(variant)
    shaken(model).train()
    model(*inputs_of(variant, TINY, 2), 2).square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert (variant[:11], name.split(".")[1]) == ("fourcastnet", "final_norm")


@pytest.mark.parametrize("variant", VARIANTS)
def test_lower_precision_gives_nearly_the_same_forecast_and_trains(variant: str) -> None:
    model, given = forecast_model(variant).eval(), inputs_of(variant, TINY, 2)
    with torch.no_grad():
        expected = model(*given, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        auto = model(*given, 2)
    auto.square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.dtype == torch.float32 and bool(torch.isfinite(g).all()) for g in grads)
    with torch.no_grad():
        low = model.bfloat16()(*given, 2)
    for found in (auto.detach(), low):
        assert found.dtype == torch.float32
        assert (found - expected).square().mean().sqrt() < 0.05 * expected.square().mean().sqrt()


@pytest.mark.parametrize("variant", ROLLS)
def test_models_on_the_cylinder_commute_with_longitude_rolls(variant: str) -> None:
    """All inputs roll with the fields: there is no longitude among them."""
    model, given = shaken(forecast_model(variant), 0.1), inputs_of(variant, TINY, 2)
    by = 3 * ROLLS[variant]
    with torch.no_grad():
        expected = model(*given, 2)
        found = model(*(part.roll(by, -1) for part in given), 2)
    assert (expected - given[2]).abs().max() > 1e-3
    torch.testing.assert_close(found, expected.roll(by, -1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("variant", "by"), [("unet", 2), ("fourcastnet_p1x1", 2), ("fourcastnet_p4x4", 4)])
def test_what_breaks_rolls(variant: str, by: int) -> None:
    """Pooled cells; and FourCastNet's ReLU on real and imaginary parts, which a roll turns into each other."""
    net = shaken(forecast_model(variant).backbone)
    frames = torch.randn(1, 13, 16, 32)
    with torch.no_grad():
        assert (net(frames.roll(by, -1)) - net(frames).roll(by, -1)).abs().max() > 1e-3


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("grid", ["equiangular", "gaussian"])
def test_sfno_commutes_with_rotations_that_keep_the_grid(grid: str, real: bool) -> None:
    """Longitude rolls; and the half turn about an axis through the equator, which reverses latitude and longitude, where the
    matrices of degrees are real."""
    net = shaken(build(SFNO(embed=6, layers=2), fields(replace(TINY, grid=grid), "sfno")), 0.1)
    if real:
        for block in net.blocks:
            block.convolution.weight.data[..., 1] = 0
    frames = torch.randn(2, 13, 16, 32)
    turned = frames.flip(-1).roll(1, -1).flip(-2)
    with torch.no_grad():
        out = net(frames)
        torch.testing.assert_close(net(frames.roll(7, -1)), out.roll(7, -1), atol=1e-5, rtol=1e-4)
        apart = (net(turned) - out.flip(-1).roll(1, -1).flip(-2)).abs().max() / out.abs().max()
    assert apart < 1e-5 if real else apart > 1e-3


def quarter_turn(faces: Tensor) -> Tensor:
    """90 degrees east: face k takes the place of face k + 1 in each band, ``[.., 12, n, n]``."""
    return faces.unflatten(-3, (3, 4)).roll(1, dims=-3).flatten(-4, -3)


@pytest.mark.parametrize(("variant", "masked", "commutes"), [
    ("unet_hpx", False, True), ("convlstm_hpx", False, True), ("swin_hpx", False, True), ("swin_hpx", True, False)
])  # fmt: skip
def test_models_on_faces_commute_with_quarter_turns(variant: str, masked: bool, commutes: bool) -> None:
    """Swin's windows are faces, shifted by half of one: with the wrap masked, four faces round the sphere have two ends."""
    torch.manual_seed(0)
    preset = model_preset(variant, "5k", "tiny")
    if masked:
        preset = replace(preset, masked_wrap=True)
    backbone = build(preset, fields(TINY, variant))
    model = shaken(ForecastModel(backbone, context=1, faces="map" if variant == "swin_hpx" else "samples"), 0.4)
    given = inputs_of(variant, TINY, 2)
    with torch.no_grad():
        expected = quarter_turn(model(*given, 2))
        found = model(*map(quarter_turn, given), 2)
    apart = (found - expected).abs().max() / expected.abs().max()
    assert apart < 1e-5 if commutes else apart > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_windows_of_the_whole_map_do_not_commute_with_rolls(masked: bool) -> None:
    net = shaken(build(Swin(embed=8, depths=[2], heads=[2], masked_wrap=masked), fields(TINY, "swin")), 0.4)
    frames = torch.randn(1, 13, 16, 32)
    with torch.no_grad():
        assert (net(frames.roll(4, -1)) - net(frames).roll(4, -1)).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["convlstm", "meshgraphnet"])
def test_a_step_spreads_over_the_meridian_and_not_over_a_pole(variant: str) -> None:
    """What is local reaches the last column from the first, and no row of the other pole."""
    net = shaken(forecast_model(variant).backbone, 0.3)
    frames = torch.randn(1, 13, 16, 32)
    changed = frames.clone()
    changed[..., 1, 0] += 1

    def call(given: Tensor) -> Tensor:
        out: Tensor = net(given.unsqueeze(0), None)[0][0] if variant == "convlstm" else net(given)
        return out

    with torch.no_grad():
        moved = (call(changed) - call(frames))[0].abs().sum(0) > 0
    assert moved[0, -1]
    assert moved[1, 1]
    assert not moved[-1].any()


def on_sphere(grid: Grid, level: int) -> tuple[Multimesh, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Graphs, grid points, mesh nodes and the triangles of the finest mesh."""
    vertices, faces = icosahedron()
    for _ in range(level):
        vertices, faces = refine(vertices, faces)
    return multimesh(grid.latitudes, grid.longitudes, level), positions(grid.latitudes, grid.longitudes), vertices, faces


def test_published_numbers_of_the_multimesh() -> None:
    """Level 3 over 32 x 64 cell centres: 642 nodes, 5,100 edges of four resolutions, 3,192 into the mesh, three a point back."""
    graphs, points, vertices, faces = on_sphere(equiangular(32), 3)
    assert len(graphs.nodes) == len(vertices) == 642
    assert (len(graphs.mesh), len(graphs.into), len(graphs.out_of)) == (5100, 3192, 6144)
    assert len(faces) == 20 * 4**3
    pairs = set(zip(graphs.mesh.senders.tolist(), graphs.mesh.receivers.tolist(), strict=True))
    assert len(pairs) == 5100
    assert {(b, a) for a, b in pairs} == pairs
    assert np.bincount(graphs.out_of.receivers).tolist() == [3] * 2048
    assert np.bincount(graphs.into.senders, minlength=2048).min() >= 1
    assert np.bincount(graphs.into.senders).max() <= 4
    sizes = [len(on_sphere(equiangular(32), level)[0].mesh) for level in range(4)]
    assert sizes == [60, 300, 1260, 5100]
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, rtol=1e-14)


@pytest.mark.parametrize("grid", [equiangular(32), gaussian(16)], ids=str)
@pytest.mark.parametrize("level", [1, 3])
def test_edges_say_where_their_senders_lie(grid: Grid, level: int) -> None:
    """Displacement in a frame with the receiver at longitude and latitude 0, and length, over the longest edge of the kind."""
    graphs, points, vertices, _ = on_sphere(grid, level)
    kinds: list[tuple[Edges, NDArray[np.float64], NDArray[np.float64]]] = [
        (graphs.mesh, vertices, vertices), (graphs.into, points, vertices), (graphs.out_of, vertices, points)
    ]  # fmt: skip
    for edges, sending, receiving in kinds:
        here, there = receiving[edges.receivers], sending[edges.senders]
        lengths = np.linalg.norm(there - here, axis=1)
        assert edges.features[:, 3].max() == 1
        np.testing.assert_allclose(edges.features[:, 3], lengths / lengths.max(), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(edges.features[:, :3], axis=1), edges.features[:, 3], atol=1e-6)
        # Up, east and north at the receiver: its longitude and latitude are turned away.
        lon, lat = np.arctan2(here[:, 1], here[:, 0]), np.arcsin(here[:, 2].clip(-1, 1))
        up, zero = here, np.zeros_like(lon)
        east = np.stack([-np.sin(lon), np.cos(lon), zero], 1)
        north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], 1)
        steps = edges.features[:, :3].astype(np.float64) * lengths.max()
        found = here + steps[:, :1] * up + steps[:, 1:2] * east + steps[:, 2:] * north
        np.testing.assert_allclose(found, there, atol=1e-6)


def test_points_are_joined_to_what_is_near_them() -> None:
    """Into the mesh: within 0.6 of its longest edge, all of at most four. Out of it: the triangle whose centre is nearest, which
    holds the point but for a few next to its sides."""
    graphs, points, vertices, faces = on_sphere(equiangular(32), 3)
    distance = np.linalg.norm(points[:, None] - vertices[None], axis=-1)
    longest = max(np.linalg.norm(vertices[a] - vertices[b], axis=1).max() for a, b in itertools.combinations(faces.T, 2))
    wanted = {(p, n) for p, row in enumerate(distance) for n in np.argsort(row)[:4] if row[n] <= 0.6 * longest}
    assert set(zip(graphs.into.senders.tolist(), graphs.into.receivers.tolist(), strict=True)) == wanted
    corners = vertices[graphs.out_of.senders.reshape(-1, 3)]
    shares = np.linalg.solve(corners.transpose(0, 2, 1), points[:, :, None])[..., 0]
    assert (shares.min(1) < 0).mean() < 0.05
    assert shares.min() > -0.07


def test_merged_patches_are_split_in_the_same_places() -> None:
    """Four tokens to one and back: each of the four comes back from its own share of channels."""
    torch.manual_seed(0)
    tokens = torch.randn(1, 4, 6, 4)
    merged = PatchMerging(4).reduce.in_features
    split = PatchSplitting(8)
    assert merged == split.expand.out_features
    with torch.no_grad():
        split.expand.weight.copy_(torch.randn(16, 8))
        coarse = torch.randn(1, 2, 3, 8)
        found = split(coarse)
        for row, column in itertools.product((0, 1), (0, 1)):
            part = split.expand(coarse)[..., 4 * (2 * row + column) :][..., :4]
            torch.testing.assert_close(found[:, row::2, column::2], split.mix(split.norm(part)))
    assert found.shape == tokens.shape


def test_pangu_drops_whole_branches_in_training_only() -> None:
    net = shaken(
        build(Pangu(embed=4, heads=[1, 1, 1, 1], patch=2, window_height=2, window_width=4, drop_path=0.9), fields(TINY, "pangu"))
    )
    frames = torch.randn(1, 13, 16, 32)
    with torch.no_grad():
        assert torch.equal(net(frames), net(frames))
        assert len({float(net.train()(frames).sum()) for _ in range(10)}) > 1
    rates = [block.drop_path.probability for layer in net.layers for block in layer]
    assert rates[:2] == rates[14:]
    assert rates[2:8] == rates[8:14] == sorted(rates[2:8])
    assert (rates[0], rates[7]) == (0, pytest.approx(0.9))


def test_faces_of_a_map_lie_in_bands() -> None:
    """Northern, equatorial and southern faces in a row each, west to east."""
    field = torch.arange(12.0).view(3, 4).repeat_interleave(2, 0).repeat_interleave(2, 1).expand(1, 1, 6, 8)
    assert torch.equal(map_to_faces(field)[0, 0, :, 0, 0], torch.arange(12.0))
