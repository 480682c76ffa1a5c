"""The weather experiment against the contract, on a real tiny store."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from models import registry
from models.dlwp.weather import prepared as preparing
from models.dlwp.weather.config import CATALOGUE, Data, model_preset
from models.dlwp.weather.data import AtmosphereStore, open_period
from models.dlwp.weather.system import SYSTEM
from models.dlwp.weather.windows import monthly_climatology
from models.system import Draw, Outcome, Point, TrainData, TrainedSystem
from models.testing import LocalContext
from results.curves import load_curves
from results.errors import DataError
from results.pictures import load_panels

RECIPES = Path(__file__).parents[4] / "configs" / "recipe"
VARIANTS = [variant.name for variant in CATALOGUE.variants]
ENSEMBLE = {"crps_z500_72h", "spread_skill_z500_72h"}
LONG = {"u10_profile_rmse", "u10_trades_rmse", "u10_westerlies_rmse", "z500_drift"}
#: Without an ensemble, a longer rollout, or a validation in training.
PLAIN = set(CATALOGUE.metric_specs) - ENSEMBLE - LONG - {"val_loss"}


def data_of(scale: str = "tiny", **changes: Any) -> Data:
    """The ``data`` section of a recipe, typed."""
    recipe = OmegaConf.load(RECIPES / f"dlwp_weather_{scale}.yaml")
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), recipe.data))
    return dataclasses.replace(typed, **changes)


def point_of(root: Path, variant: str = "unet", **changes: Any) -> Point:
    return Point(
        variant=variant,
        size="5k",
        scale="tiny",
        seed=0,
        model=model_preset(variant, "5k", "tiny"),
        data=data_of(**changes),
        global_batch=2,
        micro_batch=2,
        data_root=root,
    )


def build_store(data: Data, root: Path) -> Path:
    """As the harness does."""
    spec = AtmosphereStore(data)
    place = spec.folder(root)
    place.mkdir(parents=True)
    spec.create(place)
    for part in range(spec.parts):
        spec.build_part(place, part)
    spec.finish(place)
    return place


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with the tiny recipe's store."""
    folder = tmp_path_factory.mktemp("data")
    build_store(data_of(), folder)
    return folder


class KeepingContext(LocalContext):
    """Saves what it trained."""

    def fit(self, system: TrainedSystem, point: Point, data: TrainData) -> nn.Module:
        model = super().fit(system, point, data)
        torch.save(model.state_dict(), self.artifacts / "weights.pt")
        return model


class Oracle(nn.Module):
    """Forecasts the truth, and repeats its last frame beyond the end; ``off`` is added, ``breaks`` replaces one frame by it."""

    def __init__(self, point: Point, off: float = 0.0, breaks: tuple[int, float] | None = None) -> None:
        super().__init__()
        scene = preparing.test_scene(point, torch.device("cpu"))
        statistics = scene.statistics
        fields = (scene.weather.read(0, len(scene.weather.times)) - statistics.mean) / statistics.std
        self.forcing, self.truth = torch.from_numpy(np.asarray(fields, np.float32)).split((1, 8), dim=1)
        self.context, self.off, self.breaks, self.begun = scene.context, off, breaks, set[int]()

    def forward(
        self, constants: Tensor, prescribed: Tensor, prognostic: Tensor, steps: int, state: Any, carry: bool
    ) -> tuple[Tensor, tuple[Tensor, Any]]:
        starts, done = state or ([int((self.truth - first[-1]).abs().mean((1, 2, 3)).argmin()) for first in prognostic], 0)
        self.begun |= set(starts)
        for given, start in zip(prescribed, starts, strict=True):  # from the first frame of the context on
            wanted = self.forcing[start - self.context + 1 + done :][: len(given)]
            torch.testing.assert_close(given[: len(wanted)], wanted, atol=1e-4, rtol=1e-4)
            assert len(given) == self.context - 1 + steps
        places = torch.tensor(starts)[:, None] + done + 1 + torch.arange(steps)
        out = self.truth[places.clamp(max=len(self.truth) - 1)] + self.off
        if self.breaks is not None and done <= self.breaks[0] < done + steps:
            out[:, self.breaks[0] - done, :, 3, 3] = self.breaks[1]
        return out, (prognostic, (starts, done + steps))


def scored(point: Point, model: nn.Module, folder: Path) -> Outcome:
    outcome = SYSTEM.evaluate(point, model, LocalContext(folder))
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert all(np.isfinite(values).all() for values in outcome.samples.values())
    return outcome


def test_the_registry_finds_it() -> None:
    assert registry.system("dlwp_weather") is SYSTEM
    assert registry.catalogue("dlwp_weather") is CATALOGUE


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_point_runs(root: Path, tmp_path: Path, variant: str) -> None:
    """Trains, forecasts, reports what is declared, and leaves curves and a picture; the gradient has passed every step."""
    context = LocalContext(tmp_path)
    outcome = SYSTEM.execute(point_of(root, variant), context)
    assert set(outcome.metrics) == PLAIN
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert context.phases == ["load", "evaluate"]
    for name, values in outcome.samples.items():
        assert values.shape == (3,)
        assert outcome.metrics[name.removesuffix("_squared")] == pytest.approx(np.sqrt(values.mean()))
    ratio = outcome.metrics["rmse_z500_24h"] / outcome.metrics["persistence_rmse_z500_24h"]
    assert outcome.metrics["skill_ratio_24h"] == pytest.approx(ratio)
    assert outcome.metrics["stable_days"] == 5
    curves = load_curves(tmp_path / "rmse.npz")
    np.testing.assert_allclose(curves.x, np.arange(6, 121, 6) / 24)
    assert curves.lines == ("forecast", "persistence", "climatology")
    assert curves.values[0, 0, 3] == pytest.approx(outcome.metrics["rmse_z500_24h"])
    assert curves.values[1, 0, 11] == pytest.approx(outcome.metrics["persistence_rmse_z500_72h"])
    assert curves.values[0, 1, 19] == pytest.approx(outcome.metrics["rmse_t850_120h"])
    truth, forecast, error = load_panels(tmp_path / "rollout.npz").values
    assert truth.shape == (3, 16, 32)
    np.testing.assert_allclose(error, forecast - truth, atol=1e-3)


def test_forecasts_of_the_truth_are_perfect(root: Path, tmp_path: Path) -> None:
    """No error, correlation 1, the truth's spectrum, its winds in a longer rollout; persistence and climatology by numpy."""
    point = point_of(root, long_days=8, long_forecasts=2, forecasts=0)
    oracle = Oracle(point)
    found = scored(point, oracle, tmp_path).metrics
    assert oracle.begun == {0, 12, 28, 40}  # the longer ones, too: eight days later there is truth
    for hours in (24, 72, 120):
        assert found[f"rmse_z500_{hours}h"] == pytest.approx(0, abs=0.02)
        assert found[f"rmse_t850_{hours}h"] == pytest.approx(0, abs=1e-4)
        assert found[f"acc_z500_{hours}h"] == pytest.approx(1, abs=1e-6)
    assert found["spectral_ratio_z500"] == pytest.approx(1, abs=1e-3)
    assert found["stable_days"] == 8
    assert all(found[name] == pytest.approx(0, abs=1e-4) for name in LONG - {"z500_drift"})
    weather = open_period(point.data, root, "test")
    place = weather.ids.index("z500")
    z500 = weather.read(0, 80)[:, place].astype(np.float64)
    weights = np.cos(np.radians(weather.latitudes)) / np.cos(np.radians(weather.latitudes)).mean()
    starts = np.array([0, 12, 28, 40])
    january = monthly_climatology(open_period(point.data, root, "train"))[0, place]
    for name, apart in (
        ("persistence_rmse_z500_72h", z500[starts + 12] - z500[starts]),
        ("climatology_rmse_z500", z500[starts + 20] - january),
    ):
        assert found[name] == pytest.approx(np.sqrt((apart**2 * weights[:, None]).mean()), rel=1e-5)


def test_a_rollout_beyond_the_truth_is_compared_where_there_is_some(root: Path, tmp_path: Path) -> None:
    """Thirty days from a period of twenty: winds that are right as long as they can be are not held against the rest; insolation
    goes on."""
    point = point_of(root, long_days=30, context=2)
    found = scored(point, Oracle(point), tmp_path).metrics
    assert found["stable_days"] == 30
    assert found["u10_profile_rmse"] == pytest.approx(0, abs=1e-4)
    trained = SYSTEM.execute(point, LocalContext(tmp_path)).metrics
    assert set(trained) == PLAIN | LONG


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e4])
def test_a_run_that_leaves_the_numbers_is_marked(root: Path, tmp_path: Path, value: float) -> None:
    """One frame is sent away: those before it are sound. Its lead has no scores where it is not a number, others keep theirs."""
    point = point_of(root, long_days=6, ensemble=2, keep_forecasts=True)
    for frame in (5, 11):
        found = scored(point, Oracle(point, off=1e-4, breaks=(frame, value)), tmp_path).metrics
        assert found["stable_days"] == frame / 4
        assert found["rmse_z500_24h"] < 1
        assert found["u10_profile_rmse"] < 0.01
        lost = {"rmse_z500_72h", "rmse_t850_72h", "acc_z500_72h", *ENSEMBLE} if frame == 11 and not np.isfinite(value) else set()
        assert set(found) == (PLAIN | LONG | ENSEMBLE) - lost
    SYSTEM.pictures(point, Oracle(point, breaks=(3, value)), LocalContext(tmp_path))


def test_a_trained_model_that_explodes_ends_its_run(root: Path, tmp_path: Path) -> None:
    point = point_of(root, long_days=6, ensemble=2)
    model = SYSTEM.build_model(point).eval()
    with torch.no_grad():
        model.backbone.out.weight.fill_(1e30)
    found = scored(point, model, tmp_path).metrics
    assert found["stable_days"] == 0
    assert set(found) == {"stable_days", "rollout_days_per_s", "climatology_rmse_z500"} | {
        f"persistence_rmse_z500_{hours}h" for hours in (24, 72, 120)
    }
    SYSTEM.pictures(point, model, LocalContext(tmp_path))


@pytest.mark.parametrize("variant", ["convlstm", "unet_hpx"])
def test_a_run_rates_the_forecasts_it_kept_and_the_weights_it_saved(root: Path, tmp_path: Path, variant: str) -> None:
    """The same scores from the run, from its weights, and from its forecasts without a model; an ensemble has its own."""
    first, again, given = (tmp_path / name for name in ("first", "again", "given"))
    for folder in (first, again, given):
        folder.mkdir()
    point = point_of(root, variant, keep_forecasts=True, keep_rollouts=True, ensemble=3, long_days=6, acc_wb2=True)
    outcome = SYSTEM.execute(point, KeepingContext(first))
    assert set(outcome.metrics) == PLAIN | LONG | ENSEMBLE
    assert outcome.samples["crps_z500_72h"].mean() == pytest.approx(outcome.metrics["crps_z500_72h"])
    assert 0 < outcome.metrics["crps_z500_72h"] < outcome.metrics["rmse_z500_72h"]
    rated = dataclasses.replace(point, data=dataclasses.replace(point.data, rate=str(first / "weights.pt")))
    context = LocalContext(again)
    found = SYSTEM.execute(rated, context).metrics
    assert context.phases == ["evaluate"]
    for name in set(outcome.metrics) - {"rollout_days_per_s"}:
        assert found[name] == pytest.approx(outcome.metrics[name], rel=1e-6), name
    stored = dataclasses.replace(point, data=dataclasses.replace(point.data, rate=str(first / "forecast.zarr"), long_days=0))
    kept = SYSTEM.execute(stored, LocalContext(given))
    modelled = {"rollout_days_per_s"} | ENSEMBLE | LONG
    assert set(kept.metrics) == set(outcome.metrics) - modelled
    for name in set(kept.metrics) - {"stable_days"}:
        assert kept.metrics[name] == pytest.approx(outcome.metrics[name], rel=1e-6), name
    assert not (given / "forecast.zarr").exists()
    # A longer rollout is rated from its store as far as it goes, also where more is asked for.
    longer = dataclasses.replace(point.data, rate=str(first / "rollout.zarr"), long_days=9, forecasts=1)
    kept = SYSTEM.execute(dataclasses.replace(point, data=longer), LocalContext(given))
    for name in LONG | {"stable_days"}:
        assert kept.metrics[name] == pytest.approx(outcome.metrics[name], rel=1e-6), name
    other = dataclasses.replace(stored, data=dataclasses.replace(stored.data, forecasts=0))
    with pytest.raises(DataError, match="it has no forecast from 1981-01-04T00"):
        SYSTEM.execute(other, LocalContext(given))


def test_both_layouts_and_the_users_own_data_give_the_same_batches(root: Path, tmp_path: Path) -> None:
    """A store of WeatherBench 1, and the generated one as a user's; only the latter is recognised by its bytes."""
    generated, netcdf = point_of(root), point_of(tmp_path, format="wb1_netcdf")
    folder = build_store(netcdf.data, tmp_path)
    own = point_of(tmp_path, source="path", path=str(AtmosphereStore(generated.data).folder(root)))
    users = point_of(tmp_path, source="path", path=str(folder), format="wb1_netcdf")
    draws = [Draw(sample=index, key=0) for index in (0, 5, 37)]
    expected = SYSTEM.open_data(generated).batch(draws)
    for point in (netcdf, own, users):
        found = SYSTEM.open_data(point).batch(draws)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-6)
    assert SYSTEM.stores(own) == ()
    assert [spec.identity for spec in SYSTEM.stores(generated)] == [AtmosphereStore(generated.data).identity]
    assert (SYSTEM.data_label(generated), SYSTEM.data_label(netcdf)) == ("generated", "generated")
    assert len(SYSTEM.data_label(own)) == len(SYSTEM.data_label(users)) == 64
    assert SYSTEM.data_label(own) != SYSTEM.data_label(users)


@pytest.mark.parametrize("variant", ["unet", "convlstm", "swin_hpx"])
def test_a_context_of_two(root: Path, tmp_path: Path, variant: str) -> None:
    """The first date has no frame before it and is left out."""
    point = point_of(root, variant, context=2, sequence=4, forecasts=0, recompute=True)
    outcome = SYSTEM.execute(point, LocalContext(tmp_path))
    assert set(outcome.metrics) == PLAIN
    assert outcome.samples["rmse_z500_24h_squared"].shape == (3,)


def test_validation_is_the_mean_loss_of_windows_that_do_not_overlap(root: Path, tmp_path: Path) -> None:
    point = point_of(root)
    torch.manual_seed(0)
    model = SYSTEM.build_model(point).eval()
    weather = open_period(point.data, root, "val")
    ready, frames = preparing.prepared(point), weather.read(0, 32)
    windows = torch.from_numpy(ready.statistics.normalise(np.stack([frames[s : s + 3] for s in range(0, 30, 3)])))
    constants = torch.from_numpy(ready.constants).expand(10, -1, -1, -1)
    batch = {"constants": constants, "prescribed": windows[:, :, :1], "prognostic": windows[:, :, 1:]}
    with torch.no_grad():
        loss = SYSTEM.loss(point, model, batch).item()
    assert SYSTEM.validate(point, model, LocalContext(tmp_path)) == {"val_loss": pytest.approx(loss, rel=1e-5)}


@pytest.mark.parametrize("variant", ["fourcastnet_p4x4", "swin_hpx"])
def test_examples_look_like_batches(root: Path, variant: str) -> None:
    for changes in ({}, {"legacy_offset": True}, {"context": 2, "sequence": 5}, {"constants": [], "prescribed": []}):
        point = point_of(root, variant, **changes)
        if "prescribed" in changes:
            assert SYSTEM.example_batch(point, 2)["constants"].shape == (2, 0, 16, 32)
            continue
        batch, example = SYSTEM.open_data(point).batch([Draw(sample=0, key=0)] * 2), SYSTEM.example_batch(point, 2)
        assert {name: (t.shape, t.dtype) for name, t in batch.items()} == {
            name: (t.shape, t.dtype) for name, t in example.items()
        }
    groups = {group.name: group for group in SYSTEM.param_groups(point, SYSTEM.build_model(point))}
    assert set(groups) == ({"all", "unused"} if variant.startswith("fourcastnet") else {"all"})
    parts = SYSTEM.plan_parts(point_of(root))
    assert parts == {"train data": 40 * 9 * 16 * 32 * 4, "test data": 80 * 9 * 16 * 32 * 4}
    assert set(SYSTEM.plan_parts(point_of(root, "unet_hpx"))) == {*parts, "healpy"}
