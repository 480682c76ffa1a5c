"""Binds data, backbones, protocol and metrics of the Navier-Stokes experiment to the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.dlwp.backbones import build
from models.dlwp.backbones.baselines import climatology, persistence
from models.dlwp.config import CATALOGUE, Data, fields
from models.dlwp.data import NavierStokesStore, fingerprint
from models.dlwp.metrics import root_mean, scores, squared_error
from models.dlwp.rollout import Rollout
from models.dlwp.trajectories import MEMORY_LIMIT_BYTES, Trajectories, open_trajectories
from models.stores import StoreSpec
from models.system import Batch, Context, Draw, Outcome, ParamGroup, Point, TrainData, TrainedSystem

#: Test windows per forward pass: without gradients, eight need less memory than a training step of one.
EVAL_BATCH = 8

#: From frames and outputs of a batch to one or more quantities per sample.
Rate = Callable[[Tensor, Tensor], list[Tensor]]


class TrainWindows:
    """Windows of ``sequence`` frames with a random start, drawn from the visit's own generator."""

    def __init__(self, trajectories: Trajectories, sequence: int) -> None:
        self._trajectories = trajectories
        self._sequence = sequence
        self.num_samples = trajectories.num_samples

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """``frames``: float32 ``[batch, sequence, 1, height, width]``."""
        starts = self._trajectories.frames - self._sequence + 1
        windows = [
            self._trajectories.window(draw.sample, int(draw.generator().integers(starts)), self._sequence) for draw in draws
        ]
        return {"frames": torch.from_numpy(np.stack(windows))}


class Dlwp(TrainedSystem):
    """Weather-prediction backbones on Navier-Stokes (arXiv 2407.14129)."""

    catalogue = CATALOGUE

    def stores(self, point: Point) -> Sequence[StoreSpec]:
        """The generated trajectories; none for the user's own."""
        return (NavierStokesStore(point.data),) if point.data.source == "generated" else ()

    def data_label(self, point: Point) -> str:
        """``generated``, or a fingerprint of the user's trajectories."""
        return "generated" if point.data.source == "generated" else fingerprint(Path(point.data.path))

    def build_model(self, point: Point) -> nn.Module:
        """The backbone inside its rollout."""
        return Rollout(
            build(point.model, fields(point.data)), context=point.data.context, teacher_forcing=point.data.teacher_forcing
        )

    def example_batch(self, point: Point, batch_size: int) -> Batch:
        """Zeros of a training batch's shape."""
        data: Data = point.data
        return {"frames": torch.zeros(batch_size, data.sequence, 1, data.resolution, data.resolution)}

    def loss(self, point: Point, model: nn.Module, batch: Batch) -> Tensor:
        """Plain mean squared error over all outputs, the teacher-forced ones included."""
        frames = batch["frames"]
        outputs: Tensor = model(frames)
        return (outputs.float() - frames[:, 1:].float()).square().mean()

    def param_groups(self, point: Point, model: nn.Module) -> Sequence[ParamGroup]:
        """Everything in one group; what a published model carries but does not use is frozen."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        unused = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        groups = [ParamGroup(name="all", params=trained)]
        return [*groups, ParamGroup(name="unused", params=unused, frozen=True)] if unused else groups

    def open_data(self, point: Point) -> TrainData:
        """Training windows."""
        return TrainWindows(self._open(point, "train"), point.data.sequence)

    def evaluate(self, point: Point, model: nn.Module, context: Context) -> Outcome:
        """Closed-loop RMSE on the test trajectories, and that of persistence and climatology on the same targets."""
        trajectories = self._open(point, "test")
        mean_field = torch.from_numpy(trajectories.climatology).to(context.device)
        observed = point.data.teacher_forcing

        def rate(frames: Tensor, outputs: Tensor) -> list[Tensor]:
            return [
                squared_error(outputs[:, observed:], frames, observed),
                squared_error(persistence(frames, observed), frames, observed),
                squared_error(climatology(frames, mean_field, observed), frames, observed),
            ]

        rated = _rate(trajectories, point, model, context, rate, phase="evaluate")
        names = ("rmse_squared", "persistence_rmse_squared", "climatology_rmse_squared")
        samples = {name: rated[:, column].copy() for column, name in enumerate(names)}
        return Outcome(metrics=scores(samples), samples=samples)

    def validate(self, point: Point, model: nn.Module, context: Context) -> Mapping[str, float]:
        """``val_rmse`` over all outputs: what the paper selects checkpoints by."""
        rated = _rate(
            self._open(point, "val"),
            point,
            model,
            context,
            lambda frames, outputs: [squared_error(outputs, frames, 0)],
            phase="validate",
        )
        return {"val_rmse": root_mean(rated[:, 0])}

    def plan_parts(self, point: Point) -> Mapping[str, int]:
        """Bytes of the splits held in memory; larger ones are read from disk as needed."""
        data: Data = point.data
        each = data.frames * data.resolution**2 * 4
        splits = {"training data": data.train * each, "test data": data.test * each}
        return {name: size for name, size in splits.items() if size <= MEMORY_LIMIT_BYTES}

    def pictures(self, point: Point, model: nn.Module, context: Context) -> None:
        """Truth, prediction and error of the first test window at the first, the middle and the last closed-loop output."""
        from results.pictures import save_panels

        with torch.no_grad():
            frames = _window(self._open(point, "test"), 0, point).unsqueeze(0).to(context.device)
            outputs = model(frames)
        if context.rank:
            return
        first, last = point.data.teacher_forcing, point.data.sequence - 2
        leads = sorted({first, (first + last) // 2, last})
        truth = frames[0, [lead + 1 for lead in leads], 0].float().cpu().numpy()
        forecast = outputs[0, leads, 0].float().cpu().numpy()
        save_panels(
            context.artifacts,
            "rollout",
            panels=np.stack([truth, forecast, forecast - truth]),
            row_titles=["truth", "prediction", "error"],
            column_titles=[f"{lead + 1 - first} frames after the last observation" for lead in leads],
            title=f"Vorticity, {CATALOGUE.variant(point.variant).title} {point.size}",
            units="1/time",
        )

    def _open(self, point: Point, split: str) -> Trajectories:
        data: Data = point.data
        place = Path(data.path or "") if data.source == "path" else NavierStokesStore(data).folder(point.data_root)
        return open_trajectories(data, place, split)


def _window(trajectories: Trajectories, sample: int, point: Point) -> Tensor:
    """The test window of a sample: start frames are spread over the samples by their index."""
    length = point.data.sequence
    return torch.from_numpy(trajectories.window(sample, sample % (trajectories.frames - length + 1), length))


def _batches(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(indices), EVAL_BATCH):
        yield indices[first : first + EVAL_BATCH]


def _rate(
    trajectories: Trajectories,
    point: Point,
    model: nn.Module,
    context: Context,
    rate: Rate,
    *,
    phase: str,
) -> NDArray[np.float64]:
    """Rate all samples of a split, each on one rank, in the split's order: ``[sample, quantity]``."""
    indices, weights = context.shard(trajectories.num_samples)
    rows: list[NDArray[np.float64]] = []
    with torch.no_grad():
        for batch in _batches(indices):
            frames = torch.stack([_window(trajectories, int(index), point) for index in batch]).to(context.device)
            rows.append(torch.stack(rate(frames, model(frames)), dim=1).cpu().numpy())
            context.progress(phase, sum(map(len, rows)), len(indices))
    mine = np.column_stack([indices.astype(np.float64), weights, np.concatenate(rows)])
    everyone = context.all_gather(mine)
    kept = everyone[everyone[:, 1] > 0]
    return kept[np.argsort(kept[:, 0], kind="stable"), 2:]


SYSTEM = Dlwp()
