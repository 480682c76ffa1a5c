"""dlwp against the contract, on a real tiny store."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from models import registry
from models.dlwp import config
from models.dlwp.config import CATALOGUE, Data, model_preset
from models.dlwp.data import NavierStokesStore, open_trajectories
from models.dlwp.system import SYSTEM
from models.system import Draw, Point
from models.testing import LocalContext
from results.errors import ConfigError
from results.pictures import load_panels

RECIPES = Path(__file__).parents[3] / "configs" / "recipe"
VARIANTS = [variant.name for variant in CATALOGUE.variants]


def data_of(scale: str, **changes: Any) -> Data:
    """The ``data`` section of a recipe, typed."""
    recipe = OmegaConf.load(RECIPES / f"dlwp_{scale}.yaml")
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), recipe.data))
    return dataclasses.replace(typed, **changes)


def point_of(root: Path, variant: str = "fno2d", scale: str = "tiny", **changes: Any) -> Point:
    return Point(
        variant=variant,
        size="5k",
        scale=scale,
        seed=0,
        model=model_preset(variant, "5k", scale),
        data=data_of(scale, **changes),
        global_batch=2,
        micro_batch=2,
        data_root=root,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with the tiny recipe's store."""
    folder = tmp_path_factory.mktemp("data")
    spec = NavierStokesStore(data_of("tiny"))
    place = spec.folder(folder)
    place.mkdir(parents=True)
    spec.create(place)
    for part in range(spec.parts):
        spec.build_part(place, part)
    spec.finish(place)
    return folder


def test_the_registry_finds_it() -> None:
    assert registry.system("dlwp") is SYSTEM
    assert registry.catalogue("dlwp") is CATALOGUE
    assert registry.claims("dlwp") is not None


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_point_runs(root: Path, tmp_path: Path, variant: str) -> None:
    point = point_of(root, variant)
    outcome = SYSTEM.execute(point, LocalContext(tmp_path))
    assert set(outcome.metrics) == set(CATALOGUE.metric_specs) - {"val_rmse"}
    for name, values in outcome.samples.items():
        assert values.shape == (point.data.test,)
        assert outcome.metrics[name.removesuffix("_squared")] == pytest.approx(np.sqrt(values.mean()))
    assert outcome.metrics["skill_ratio"] == outcome.metrics["rmse"] / outcome.metrics["persistence_rmse"]
    panels = load_panels(tmp_path / "rollout.npz")
    truth, forecast, error = panels.values
    assert truth.shape == (2, 16, 16)  # two closed-loop outputs: the middle one is the first
    np.testing.assert_allclose(error, forecast - truth, atol=1e-6)


def test_baselines_are_rated_on_the_closed_loop_targets(root: Path, tmp_path: Path) -> None:
    point = point_of(root)
    outcome = SYSTEM.evaluate(point, SYSTEM.build_model(point).eval(), LocalContext(tmp_path))
    u = np.asarray(open_trajectories(point.data, NavierStokesStore(point.data).folder(root), "test")._read(), dtype=np.float64)
    train = open_trajectories(point.data, NavierStokesStore(point.data).folder(root), "train")._read()
    mean_field = train.mean((0, 1), dtype=np.float64)
    persistence, climate = [], []
    for sample, frames in enumerate(u):
        window = frames[sample % 2 :][:7]  # 8 frames hold two starts of a window of 7
        targets = window[5:]  # outputs 4 and 5 predict frames 5 and 6
        persistence.append(((targets - window[3]) ** 2).mean())
        climate.append(((targets - mean_field) ** 2).mean())
    np.testing.assert_allclose(outcome.samples["persistence_rmse_squared"], persistence, rtol=1e-5)
    np.testing.assert_allclose(outcome.samples["climatology_rmse_squared"], climate, rtol=1e-5)


class ThreadContext(LocalContext):
    """One of several ranks that evaluate together."""

    def __init__(self, artifacts: Path, rank: int, world: int, barrier: threading.Barrier, board: dict[int, np.ndarray]) -> None:
        super().__init__(artifacts)
        self.rank, self.world, self._barrier, self._board = rank, world, barrier, board

    def shard(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        each = -(-count // self.world)
        indices = np.arange(self.rank * each, (self.rank + 1) * each)
        return np.minimum(indices, count - 1), (indices < count).astype(np.float64)

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        self._board[self.rank] = values
        self._barrier.wait(timeout=60)
        assert len({part.shape for part in self._board.values()}) == 1
        return np.concatenate([self._board[rank] for rank in range(self.world)])


@pytest.mark.parametrize("world", [2, 4])
def test_scores_do_not_depend_on_the_number_of_ranks(root: Path, tmp_path: Path, world: int) -> None:
    """Six samples on four ranks leave padding on the last one; it must not count."""
    point = point_of(root)
    torch.manual_seed(0)
    model = SYSTEM.build_model(point).eval()
    expected = SYSTEM.evaluate(point, model, LocalContext(tmp_path))
    barrier, board = threading.Barrier(world), {}
    found: dict[int, Any] = {}

    def rank(number: int) -> None:
        found[number] = SYSTEM.evaluate(point, model, ThreadContext(tmp_path, number, world, barrier, board))

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(world):
        for name, values in expected.samples.items():
            np.testing.assert_allclose(found[number].samples[name], values, rtol=1e-5)


def test_validation_counts_all_outputs(root: Path, tmp_path: Path) -> None:
    point = point_of(root)
    torch.manual_seed(0)
    model = SYSTEM.build_model(point).eval()
    trajectories = open_trajectories(point.data, NavierStokesStore(point.data).folder(root), "val")
    frames = torch.stack([torch.from_numpy(trajectories.window(i, i % 2, 7)) for i in range(4)])
    with torch.no_grad():
        loss = SYSTEM.loss(point, model, {"frames": frames})
    assert SYSTEM.validate(point, model, LocalContext(tmp_path))["val_rmse"] == pytest.approx(float(loss) ** 0.5, rel=1e-5)


def test_loss_is_the_mean_over_all_outputs(root: Path) -> None:
    point = point_of(root)
    frames = torch.arange(7.0).view(1, 7, 1, 1, 1).expand(2, 7, 1, 16, 16)

    def late(given: torch.Tensor) -> torch.Tensor:
        return given[:, :-1]  # every output is one frame late: off by 1 everywhere

    assert SYSTEM.loss(point, late, {"frames": frames}).item() == 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 7))
def test_training_windows_are_a_function_of_the_draw(root: Path, key: int, sample: int) -> None:
    point = point_of(root)
    data = SYSTEM.open_data(point)
    draws = [Draw(sample=sample, key=key), Draw(sample=0, key=0)]
    first, second = data.batch(draws)["frames"], data.batch(draws)["frames"]
    assert torch.equal(first, second)
    example = SYSTEM.example_batch(point, 2)["frames"]
    assert (first.shape, first.dtype) == (example.shape, example.dtype)
    trajectories = open_trajectories(point.data, NavierStokesStore(point.data).folder(root), "train")
    assert any(np.array_equal(first[0], trajectories.window(sample, start, 7)) for start in (0, 1))


def test_starts_are_drawn_evenly(root: Path) -> None:
    point = point_of(root, sequence=6)
    data = SYSTEM.open_data(point)
    batch = data.batch([Draw(sample=0, key=key) for key in range(300)])["frames"]
    firsts, counts = np.unique(batch[:, 0, 0, 0, 0].numpy(), return_counts=True)
    assert len(firsts) == 3  # 8 frames hold three windows of 6
    assert counts.min() > 60


def test_users_own_trajectories_are_read_and_fingerprinted(root: Path, tmp_path: Path) -> None:
    generated = point_of(root)
    place = NavierStokesStore(generated.data).folder(root)
    own = dataclasses.replace(generated, data=dataclasses.replace(generated.data, source="path", path=str(place)))
    assert SYSTEM.stores(own) == ()
    assert [spec.identity for spec in SYSTEM.stores(generated)] == [NavierStokesStore(generated.data).identity]
    assert SYSTEM.data_label(generated) == "generated"
    assert len(SYSTEM.data_label(own)) == 64
    torch.manual_seed(0)
    model = SYSTEM.build_model(own).eval()
    found, expected = (SYSTEM.evaluate(point, model, LocalContext(tmp_path)).metrics for point in (own, generated))
    assert found == expected


def test_memory_of_the_splits_is_planned(root: Path) -> None:
    parts = SYSTEM.plan_parts(point_of(root))
    assert parts == {"training data": 8 * 8 * 16 * 16 * 4, "test data": 6 * 8 * 16 * 16 * 4}
    assert "training data" not in SYSTEM.plan_parts(point_of(root, train=10**6))


def test_what_is_never_used_is_frozen(root: Path) -> None:
    with torch.device("meta"):
        model = SYSTEM.build_model(point_of(root, "fourcastnet"))
        groups = {group.name: group for group in SYSTEM.param_groups(point_of(root, "fourcastnet"), model)}
        plain = SYSTEM.param_groups(point_of(root), SYSTEM.build_model(point_of(root)))
    assert groups["unused"].frozen
    assert sum(p.numel() for p in groups["unused"].params) == 2 * 12
    assert sum(len(group.params) for group in groups.values()) == len(list(model.parameters()))
    assert [group.name for group in plain] == ["all"]


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_recipe_fits_every_model(scale: str) -> None:
    for variant in CATALOGUE.variants:
        for size in variant.sizes[scale]:
            model = OmegaConf.to_object(OmegaConf.structured(model_preset(variant.name, size, scale)))
            assert model == model_preset(variant.name, size, scale)
            config.check(dataclasses.replace(point_of(Path(), scale=scale), variant=variant.name, size=size, model=model))


@pytest.mark.parametrize(
    ("variant", "key", "value"),
    [
        ("fno2d", "data.context", 0),
        ("fno2d", "data.resolution", -16),
        ("fno2d", "data.train", 0),
        ("fno2d", "data.viscosity", -1e-3),
        ("fno2d", "data.time_step", 0.0),
        ("fno2d", "data.store_seed", -1),
        ("fno2d", "data.source", "paht"),
        ("fno2d", "data.source", "path"),
        ("fno2d", "data.teacher_forcing", 3),
        ("fno2d", "data.sequence", 9),
        ("fno2d", "data.sequence", 5),
        ("fno2d", "model.width", -2),
        ("fno2d", "model.modes_width", 18),
        ("tfno2d", "model.rank_height", 0),
        ("unet", "data.resolution", 24),
        ("unet", "model.channels", [4, -4]),
        ("unet", "model.channels", [4]),
        ("convlstm", "model.hidden", 0),
        ("fourcastnet", "model.patch_height", 3),
        ("fourcastnet", "model.blocks", 5),
        ("fno3d", "model.modes_time", 0),
        ("fno3d", "model.modes_height", 18),
        ("swin", "model.heads", [2, 2]),
        ("swin", "model.heads", [4]),
        ("swin", "model.patch", 3),
        ("swin", "model.window", 3),
        ("swin", "model.drop_path", 1.0),
        ("meshgraphnet", "model.graph", "gird"),
        ("meshgraphnet", "model.activation", "tanhh"),
        ("ms_meshgraphnet", "data.resolution", 15),
    ],
)
def test_impossible_points_are_refused_by_key(variant: str, key: str, value: Any) -> None:
    point = point_of(Path(), variant)
    section, leaf = key.split(".")
    changed = dataclasses.replace(point, **{section: dataclasses.replace(getattr(point, section), **{leaf: value})})
    with pytest.raises(ConfigError) as caught:
        config.check(changed)
    named = {"data.resolution": {"data.resolution", "model.graph"}, "data.source": {"data.source", "data.path"}}
    assert caught.value.where in named.get(key, {key})


@pytest.mark.parametrize("words", [("fno4d", "5k", "small"), ("fno2d", "3k", "small"), ("fno2d", "5k", "large")])
def test_unknown_names_are_refused(words: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigError):
        model_preset(*words)
