"""Protocol of the rollout: alignment, teacher forcing, copies, gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.dlwp.backbones import build
from models.dlwp.backbones.baselines import climatology, persistence
from models.dlwp.fields import Fields
from models.dlwp.metrics import root_mean, scores, squared_error
from models.dlwp.rollout import Rollout
from models.dlwp.shapes import ConvLSTM


class AddOne(nn.Module):
    """Predicts the newest input plus one; direct or as an increment."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.seen: list[Tensor] = []

    def forward(self, window: Tensor) -> Tensor:
        self.seen.append(window.detach().clone())
        return torch.ones_like(window[:, -1:]) if self.residual else window[:, -1:] + 1


class AddOneRecurrent(nn.Module):
    """The same one frame at a time; its state counts the frames it was shown."""

    recurrent = True

    def forward(self, frames: Tensor, state: int | None) -> tuple[Tensor, int]:
        return frames + 1, (state or 0) + frames.shape[0]


def counting(length: int, batch: int = 2) -> Tensor:
    """Frames whose value is their index (plus ten per sample)."""
    index = torch.arange(length, dtype=torch.float32).view(1, length, 1, 1, 1)
    return (index + 10 * torch.arange(batch).view(batch, 1, 1, 1, 1)).expand(batch, length, 1, 2, 3)


protocols = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(2, 9)).map(lambda p: (p[0], p[0] + p[1], p[2]))


@settings(max_examples=60, deadline=None)
@given(protocols, st.booleans())
def test_alignment(protocol: tuple[int, int, int], residual: bool) -> None:
    """Output t predicts frame t+1 at every lead; the first context-1 outputs copy the newest input."""
    context, forced, length = protocol
    frames = counting(length)
    outputs = Rollout(AddOne(residual), context=context, teacher_forcing=forced)(frames)
    copies = min(context - 1, length - 1)
    assert torch.equal(outputs[:, :copies], frames[:, :copies])
    assert torch.equal(outputs[:, copies:], frames[:, copies + 1 :])


@settings(max_examples=40, deadline=None)
@given(protocols)
def test_alignment_of_a_recurrent_model(protocol: tuple[int, int, int]) -> None:
    context, forced, length = protocol
    frames = counting(length)
    outputs = Rollout(AddOneRecurrent(), context=context, teacher_forcing=forced)(frames)
    assert torch.equal(outputs, frames[:, 1:])


def test_observations_after_teacher_forcing_are_never_read() -> None:
    frames = counting(8).clone()
    frames[:, 4:] = float("nan")
    for backbone in (AddOne(False), AddOneRecurrent()):
        outputs = Rollout(backbone, context=2, teacher_forcing=4)(frames)
        assert torch.equal(outputs[:, 1:], counting(8)[:, 2:])


def test_windows_hold_consecutive_inputs() -> None:
    backbone = AddOne(False)
    Rollout(backbone, context=3, teacher_forcing=4)(counting(7, batch=1))
    first_values = [window[:, :, 0, 0].tolist() for window in backbone.seen]
    # Two teacher-forced windows in one application, then one by one: output 4 is computed from frames 2, 3 and output 3 (= 4).
    assert first_values == [[[0, 1, 2], [1, 2, 3]], [[2, 3, 4]], [[3, 4, 5]]]


def test_with_full_teacher_forcing_outputs_are_one_step_predictions() -> None:
    torch.manual_seed(0)
    backbone = nn.Conv2d(1, 1, 3, padding=1)
    frames = torch.randn(2, 6, 1, 5, 5)
    outputs = Rollout(backbone, context=1, teacher_forcing=5)(frames)
    expected = torch.stack([backbone(frames[:, t]) for t in range(5)], dim=1)
    torch.testing.assert_close(outputs, expected)


def test_recurrent_rollout_equals_one_frame_at_a_time() -> None:
    torch.manual_seed(0)
    backbone = build(ConvLSTM(hidden=3, layers=2), Fields.torus(6, 3))
    frames = torch.randn(2, 7, 1, 6, 6)
    outputs = Rollout(backbone, context=3, teacher_forcing=3)(frames)
    state, fed, expected = None, frames[:, 0], []
    for t in range(6):
        fed = frames[:, t] if t < 3 else expected[-1]
        out, state = backbone(fed[None], state)
        expected.append(out[0])
    torch.testing.assert_close(outputs, torch.stack(expected, dim=1))


@pytest.mark.parametrize("recurrent", [False, True])
def test_gradients_flow_through_closed_loop_outputs(recurrent: bool) -> None:
    """Output TF-1 is the first that is fed back: the loss of the last output alone must depend on it."""
    torch.manual_seed(0)
    backbone = build(ConvLSTM(hidden=2, layers=1), Fields.torus(4, 2)) if recurrent else nn.Conv2d(2, 1, 1)
    made: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, object]) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        tensor.retain_grad()
        made.append(tensor)

    backbone.register_forward_hook(keep)
    outputs = Rollout(backbone, context=2, teacher_forcing=3)(torch.randn(1, 7, 1, 4, 4))
    outputs[:, -1].square().sum().backward()
    first = made[0].grad
    assert first is not None
    assert first[-1].abs().max() > 0
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in made)


def test_context_must_fit_into_teacher_forcing() -> None:
    with pytest.raises(ValueError, match="context"):
        Rollout(AddOne(False), context=5, teacher_forcing=4)


def test_errors_of_baselines_on_counting_frames() -> None:
    """Persistence of frame TF-1 = 3 at frames 5, 6, 7 is off by 2, 3, 4; a constant field is off by its own distance."""
    frames = counting(8)
    found = squared_error(persistence(frames, 4), frames, 4)
    assert found.tolist() == pytest.approx([(4 + 9 + 16) / 3] * 2)
    mean_field = torch.full((1, 2, 3), 6.0)
    found = squared_error(climatology(frames, mean_field, 4), frames, 4)
    assert found.tolist() == pytest.approx([2 / 3, 100 + 2 / 3])
    exact = Rollout(AddOne(True), context=4, teacher_forcing=4)(frames)
    assert squared_error(exact[:, 4:], frames, 4).tolist() == [0, 0]
    with pytest.raises(ValueError, match="targets"):
        squared_error(exact, frames, 4)


def test_scores_pool_samples_before_the_root() -> None:
    import numpy as np

    squared = np.array([1.0, 7.0])
    found = scores({"rmse_squared": squared, "persistence_rmse_squared": 4 * squared, "climatology_rmse_squared": squared})
    assert found == {"rmse": 2.0, "persistence_rmse": 4.0, "climatology_rmse": 2.0, "skill_ratio": 0.5}
    assert root_mean(squared) == 2.0
