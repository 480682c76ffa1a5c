"""Binds weather, backbones, protocol and verification to the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.dlwp.backbones import build
from models.dlwp.weather.config import CATALOGUE, ON_HEALPIX, Data, fields
from models.dlwp.weather.data import AtmosphereStore, frame_bytes, period_frames
from models.dlwp.weather.evaluation import evaluate
from models.dlwp.weather.forecasting import forecast
from models.dlwp.weather.mesh import mesh_of
from models.dlwp.weather.prepared import opened, prepared, test_scene
from models.dlwp.weather.reader import MEMORY_LIMIT_BYTES, Weather
from models.dlwp.weather.rollout import ForecastModel
from models.dlwp.weather.weights import load_weights
from models.dlwp.weather.windows import TrainWindows, forecast_starts
from models.fingerprint import fingerprint
from models.stores import StoreSpec
from models.system import Batch, Context, Draw, Outcome, ParamGroup, Point, TrainData, TrainedSystem

#: Importing healpy, and astropy with it, which nothing else needs. [Measured: 55 MiB.]
HEALPY_BYTES = 55 << 20


class DlwpWeather(TrainedSystem):
    """Weather-prediction backbones on WeatherBench-like fields (arXiv 2407.14129)."""

    catalogue = CATALOGUE

    def stores(self, point: Point) -> Sequence[StoreSpec]:
        """The generated atmosphere; none for the user's own data."""
        return (AtmosphereStore(point.data),) if point.data.source == "generated" else ()

    def data_label(self, point: Point) -> str:
        """``generated``, or a fingerprint of the user's files."""
        return "generated" if point.data.source == "generated" else fingerprint(Path(point.data.path))

    def build_model(self, point: Point) -> nn.Module:
        """The backbone inside its rollout."""
        faces = "map" if point.variant == "swin_hpx" else "samples" if point.variant in ON_HEALPIX else None
        backbone = build(point.model, fields(point.data, point.variant))
        return ForecastModel(backbone, context=point.data.context, faces=faces, recompute=point.data.recompute)

    def example_batch(self, point: Point, batch_size: int) -> Batch:
        """Zeros of a training batch's shape."""
        data: Data = point.data
        size = data.latitudes, 2 * data.latitudes
        frames = self._window(point)
        return {
            "constants": torch.zeros(batch_size, len(data.constants), *size),
            "prescribed": torch.zeros(batch_size, frames, len(data.prescribed), *size),
            "prognostic": torch.zeros(batch_size, frames, len(data.prognostic), *size),
        }

    def _window(self, point: Point) -> int:
        """Frames of a training window; the published targets of all but ConvLSTM lie one frame later."""
        return int(point.data.sequence) + int(self._offset(point))

    def _offset(self, point: Point) -> bool:
        return bool(point.data.legacy_offset) and not point.variant.startswith("convlstm")

    def loss(self, point: Point, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error of normalised fields over forecast frames, channels and points; weighted by area if asked for."""
        data: Data = point.data
        mesh = mesh_of(data, point.variant)
        frames = mesh.enter(batch["prognostic"])
        steps = data.sequence - data.context
        outputs: Tensor = model(mesh.enter(batch["constants"]), mesh.enter(batch["prescribed"]), frames[:, : data.context], steps)
        error = (outputs.float() - frames[:, frames.shape[1] - steps :].float()).square()
        if data.latitude_loss:
            error = error * mesh.area_weights.to(error.device)
        return error.mean()

    def param_groups(self, point: Point, model: nn.Module) -> Sequence[ParamGroup]:
        """Everything in one group; what a published model carries but does not use is frozen."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        unused = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        groups = [ParamGroup(name="all", params=trained)]
        return [*groups, ParamGroup(name="unused", params=unused, frozen=True)] if unused else groups

    def plan_parts(self, point: Point) -> Mapping[str, int]:
        """Bytes of the periods in memory, and of the library that knows HEALPix."""
        sizes = {f"{name} data": frame_bytes(point.data, period_frames(point.data, name)) for name in ("train", "test")}
        held = {name: size for name, size in sizes.items() if size <= MEMORY_LIMIT_BYTES}
        return {**held, "healpy": HEALPY_BYTES} if point.variant in ON_HEALPIX else held

    def open_data(self, point: Point) -> TrainData:
        """Training windows."""
        return self._windows(point, prepared(point).train, point.data.stride)

    def _windows(self, point: Point, weather: Weather, stride: int) -> TrainWindows:
        ready = prepared(point)
        return TrainWindows(
            weather,
            ready.statistics,
            ready.constants,
            prescribed=len(point.data.prescribed),
            length=self._window(point),
            stride=stride,
        )

    def validate(self, point: Point, model: nn.Module, context: Context) -> Mapping[str, float]:
        """``val_loss`` over windows of the validation period that do not overlap."""
        windows = self._windows(point, opened(point, "val"), point.data.sequence)
        indices, weights = context.shard(windows.num_samples)
        losses = []
        for index in indices:
            batch = windows.batch([Draw(sample=int(index), key=0)])
            with torch.no_grad():
                losses.append(float(self.loss(point, model, {key: value.to(context.device) for key, value in batch.items()})))
        mine = np.column_stack([weights, np.array(losses)])
        everyone = context.all_gather(mine)
        return {"val_loss": float((everyone[:, 0] * everyone[:, 1]).sum() / everyone[:, 0].sum())}

    def execute(self, point: Point, context: Context) -> Outcome:
        """Train and evaluate; with ``data.rate`` only evaluate: given weights, or given forecasts."""
        if point.data.rate is None:
            return super().execute(point, context)
        given = Path(point.data.rate)
        with context.phase("evaluate"):
            if given.is_dir():
                return evaluate(point, None, context)
            model = load_weights(self.build_model(point), given).to(context.device).eval()
            outcome = evaluate(point, model, context)
            self.pictures(point, model, context)
        return outcome

    def evaluate(self, point: Point, model: nn.Module, context: Context) -> Outcome:
        """See :func:`models.dlwp.weather.evaluation.evaluate`."""
        return evaluate(point, model, context)

    def pictures(self, point: Point, model: nn.Module, context: Context) -> None:
        """z500 of the first test forecast: truth, forecast and error at one, three and five days, and at the end."""
        from results.pictures import save_panels

        scene = test_scene(point, context.device)
        steps = 4 * point.data.forecast_days
        starts = forecast_starts(scene.weather, point.data, frames=steps + 1, wanted=1)
        channel = scene.prognostic.index("z500")
        wanted = sorted({step for step in (4, 12, 20, steps) if step <= steps})
        kept = []
        for before, block in forecast(model, scene, starts, steps):
            kept += [block[0, step - 1 - before, channel] for step in wanted if before < step <= before + block.shape[1]]
        if context.rank:
            return
        made = torch.stack(kept).cpu().numpy() / 9.80665
        truth = np.stack([scene.frames(int(starts[0]), step, 1)[0, channel].cpu().numpy() for step in wanted]) / 9.80665
        save_panels(
            context.artifacts,
            "rollout",
            panels=np.stack([truth, made, made - truth]),
            row_titles=["truth", "prediction", "error"],
            column_titles=[f"{step / 4:g} d" for step in wanted],
            title=f"500 hPa height, {CATALOGUE.variant(point.variant).title} {point.size}",
            units="m",
        )


SYSTEM = DlwpWeather()
