"""Protocol of the weather rollout: alignment, forcing, carried states, gradients, recomputation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.dlwp.backbones import build
from models.dlwp.weather.config import Data, fields, model_preset
from models.dlwp.weather.mesh import mesh_of
from models.dlwp.weather.rollout import ForecastModel, faces_to_map, fold_faces, map_to_faces, unfold_faces
from models.dlwp.weather.system import SYSTEM
from models.system import Point

ROWS, COLUMNS = 2, 3
TINY = Data(latitudes=16, nside=4)


class AddOne(nn.Module):
    """The increment 1, whatever it is shown; remembers what that was."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, step: Tensor) -> Tensor:
        self.seen.append(step.detach().clone())
        return torch.ones_like(step[:, :1])


class AddOneRecurrent(AddOne):
    """The same one frame at a time; the state counts the frames it was shown."""

    recurrent = True

    def forward(self, step: Tensor, state: int | None) -> tuple[Tensor, int]:  # type: ignore[override]
        self.seen.append(step[0].detach().clone())
        return torch.ones_like(step[:, :, :1]), (state or 0) + 1


def counting(first: int, frames: int, batch: int = 2, channels: int = 1) -> Tensor:
    """Frames whose value is their index, a hundred more per sample."""
    index = torch.arange(first, first + frames, dtype=torch.float32).view(1, -1, 1, 1, 1)
    return (index + 100 * torch.arange(batch).view(-1, 1, 1, 1, 1)).expand(batch, frames, channels, ROWS, COLUMNS)


def of_zeros(batch: int = 2) -> Tensor:
    return torch.zeros(batch, 0, ROWS, COLUMNS)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.booleans())
def test_alignment(context: int, steps: int, recurrent: bool) -> None:
    """Output k forecasts frame context + k, at every lead; each step sees the true forcing of its own time."""
    backbone = AddOneRecurrent() if recurrent else AddOne()
    model = ForecastModel(backbone, context=context)
    forcing = 0.5 + counting(0, context - 1 + steps)
    out = model(of_zeros(), forcing, counting(0, context), steps)
    assert torch.equal(out, counting(context, steps))
    newest = backbone.seen[-1][0, :, 0, 0].tolist()
    last = context + steps - 2
    wanted = [last] if recurrent else range(last - context + 1, last + 1)
    assert newest == [0.5 + frame for frame in wanted] + list(wanted)
    assert len(backbone.seen) == steps + (context - 1 if recurrent else 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans())
def test_calls_that_carry_their_state_on(context: int, parts: list[int], recurrent: bool) -> None:
    """Any cut of a forecast into calls gives the same frames; a recurrent state is warmed up once."""
    total = sum(parts)
    forcing, start = counting(0, context - 1 + total), counting(0, context)
    whole = ForecastModel(AddOneRecurrent() if recurrent else AddOne(), context=context)
    expected, (_, shown) = whole(of_zeros(), forcing, start, total, None, True)
    made, done, newest, state = [], 0, start, None
    for count in parts:
        out, (newest, state) = whole(of_zeros(), forcing[:, done : done + context - 1 + count], newest, count, state, True)
        made.append(out)
        done += count
    assert torch.equal(torch.cat(made, dim=1), expected)
    assert torch.equal(newest, counting(total, context))
    assert state == shown == (context - 1 + total if recurrent else None)


def point_of(variant: str, **changes: Any) -> Point:
    data = replace(TINY, **changes)
    return Point(
        variant=variant, size="5k", scale="tiny", seed=0, model=model_preset(variant, "5k", "tiny"), data=data, data_root=Path()
    )  # fmt: skip


class Jump(nn.Module):
    """As :class:`AddOne` in place of a whole model, the first step by another number of frames."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, constants: Tensor, prescribed: Tensor, prognostic: Tensor, steps: int) -> Tensor:
        ahead = torch.arange(steps, dtype=torch.float32) + self.first
        return prognostic[:, -1:] + ahead.view(1, -1, *[1] * (prognostic.dim() - 2))


@pytest.mark.parametrize("variant", ["fno2d", "convlstm", "unet_hpx", "convlstm_hpx", "swin_hpx"])
@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("legacy", [False, True])
def test_loss_on_counting_frames(variant: str, context: int, legacy: bool) -> None:
    """Zero for a model that adds 1 a frame. With the published offset all but ConvLSTM are rated one frame later: their first
    step must be one of 12 h, and one of 6 h costs 1 everywhere."""
    point = point_of(variant, context=context, sequence=context + 4, legacy_offset=legacy)
    late = legacy and not variant.startswith("convlstm")
    example = SYSTEM.example_batch(point, 2)
    frames = context + 4 + late
    assert example["prognostic"].shape == (2, frames, 8, 16, 32)
    index = torch.arange(frames, dtype=torch.float32).view(1, -1, 1, 1, 1)
    batch = example | {"prognostic": index.expand_as(example["prognostic"]).contiguous()}
    assert SYSTEM.loss(point, Jump(2 if late else 1), batch).item() == pytest.approx(0, abs=1e-9)
    if late:
        assert SYSTEM.loss(point, Jump(1), batch).item() == pytest.approx(1)


@pytest.mark.parametrize("variant", ["unet", "unet_hpx"])
def test_loss_weights(variant: str) -> None:
    """The mean over everything; by area, errors of the rows count by their cosines, and pixels of equal area alike."""
    point = point_of(variant, sequence=3)
    batch = SYSTEM.example_batch(point, 1)
    rows = torch.linspace(-1, 2, 16).view(16, 1).expand(16, 32)
    batch["prognostic"] = batch["prognostic"] + rows
    still = Jump(0)
    batch["prognostic"][:, :1] = 0
    plain = SYSTEM.loss(point, lambda *given: still(*given) * 0, batch).item()
    weighted = SYSTEM.loss(point_of(variant, sequence=3, latitude_loss=True), lambda *given: still(*given) * 0, batch).item()
    mesh = mesh_of(point.data, variant)
    on_mesh = mesh.enter(rows.contiguous()).square()
    assert plain == pytest.approx(on_mesh.mean().item(), rel=1e-5)
    assert weighted == pytest.approx((on_mesh * mesh.area_weights).mean().item(), rel=1e-5)
    assert (weighted == pytest.approx(plain)) == (variant == "unet_hpx")


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("variant", ["sfno", "unet", "convlstm", "convlstm_hpx", "unet_hpx", "swin_hpx"])
def test_a_real_backbone_in_several_calls(variant: str, context: int) -> None:
    """One call of five steps, or calls of two, one and two."""
    model, (constants, prescribed, prognostic) = real(variant, context), given_of(variant, context, 5)
    with torch.no_grad():
        expected = model(constants, prescribed, prognostic, 5)
        made, done, newest, state = [], 0, prognostic, None
        for count in (2, 1, 2):
            window = prescribed[:, done : done + context - 1 + count]
            out, (newest, state) = model(constants, window, newest, count, state, True)
            made.append(out)
            done += count
    torch.testing.assert_close(torch.cat(made, dim=1), expected, atol=1e-5, rtol=1e-5)
    assert (state is not None) == variant.startswith("convlstm")


def real(variant: str, context: int = 1, recompute: bool = False) -> ForecastModel:
    torch.manual_seed(0)
    model = SYSTEM.build_model(point_of(variant, context=context, recompute=recompute))
    assert isinstance(model, ForecastModel)
    return model


def given_of(variant: str, context: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (12, 4, 4) if variant.endswith("_hpx") else (16, 32)
    random = torch.Generator().manual_seed(3)
    lead = ((4,), (context - 1 + steps, 1), (context, 8))
    constants, prescribed, prognostic = (torch.randn(2, *part, *shape, generator=random) for part in lead)
    return constants, prescribed, prognostic


@pytest.mark.parametrize("variant", ["sfno", "convlstm", "swin_hpx", "convlstm_hpx"])
def test_gradients_flow_through_every_step(variant: str) -> None:
    """The loss of the last frame alone depends on what the first step made."""
    model, made = real(variant), []

    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        tensor.retain_grad()
        made.append(tensor)

    model.backbone.register_forward_hook(keep)
    out = model(*given_of(variant, 1, 4), 4)
    out[:, -1].square().sum().backward()
    assert len(made) == 4
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in made)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_in_closed_form(recompute: bool) -> None:
    """Growth by a share a at every step: (1 + a)^n x, whose derivative is n (1 + a)^(n - 1) x."""

    class Growth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.share = nn.Parameter(torch.tensor(0.1))

        def forward(self, step: Tensor) -> Tensor:
            return self.share * step[:, -1:]

    model = ForecastModel(Growth(), context=1, recompute=recompute)
    out = model(of_zeros(1), torch.zeros(1, 4, 0, ROWS, COLUMNS), torch.full((1, 1, 1, ROWS, COLUMNS), 2.0), 4)
    out[:, -1].mean().backward()
    assert out[0, :, 0, 0, 0].tolist() == pytest.approx([2 * 1.1**n for n in (1, 2, 3, 4)])
    assert model.backbone.share.grad.item() == pytest.approx(2 * 4 * 1.1**3)


@pytest.mark.parametrize("variant", ["sfno", "pangu", "convlstm", "convlstm_hpx", "unet_hpx"])
def test_recomputed_activations_give_the_same_gradients(variant: str) -> None:
    """To the bit, in training mode; every step is applied once more in backward, and never without gradients."""
    found = {}
    for recompute in (False, True):
        model, given = real(variant, context=2, recompute=recompute).train(), given_of(variant, 2, 3)
        calls: list[int] = []
        model.backbone.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(5)
        loss = model(*given, 3).square().mean()
        forward = len(calls)
        loss.backward()
        found[recompute] = (loss.item(), [p.grad for p in model.parameters()])
        assert len(calls) == forward * (1 + recompute)
        calls.clear()
        with torch.no_grad():
            model(*given, 3)
        assert len(calls) == forward == 3 + variant.startswith("convlstm")
    assert found[False][0] == found[True][0]
    for plain, again in zip(found[False][1], found[True][1], strict=True):
        assert torch.equal(plain, again)


def test_forecasts_are_float32_whatever_the_weights_are() -> None:
    model = real("unet").bfloat16()
    out = model(*given_of("unet", 1, 2), 2)
    assert out.dtype == torch.float32
    assert model.backbone.out.weight.dtype == torch.bfloat16


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_faces_are_folded_and_unfolded(batch: int, channels: int, n: int) -> None:
    faces = torch.randn(batch, channels, 12, n, n)
    assert torch.equal(unfold_faces(fold_faces(faces)), faces)
    assert torch.equal(map_to_faces(faces_to_map(faces)), faces)
    assert torch.equal(fold_faces(faces)[12 * (batch - 1) + 7], faces[-1, :, 7])
    assert torch.equal(faces_to_map(faces)[..., n : 2 * n, 3 * n :], faces[:, :, 7])


def test_what_a_backbone_takes() -> None:
    """All frames of the context at once; a recurrent one, one of them."""
    for context in (1, 2, 3):
        data = replace(TINY, context=context)
        assert fields(data, "unet").inputs == 4 + 9 * context
        assert fields(data, "unet").frame_inputs == 13
        assert build(model_preset("convlstm", "5k", "tiny"), fields(data, "convlstm")).encoder.convs[0].in_channels == 13
