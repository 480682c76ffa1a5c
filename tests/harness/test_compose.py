"""From words to experiments: the sweep grammar, model keys, frozen configurations, users' own folders, studies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compose import Composer, expand, override_frozen
from harness.experiment import Experiment
from harness.study import adhoc_study, expand_study, study_names
from models.dlwp.shapes import FNO2D, UNet
from results.errors import ConfigError, ResultError
from results.store import read_json, write_json

TINY = ("system=dlwp", "scale=tiny")
NAMES = st.sampled_from(["a", "b.c", "model.width", "train.steps"])
VALUES = st.lists(st.integers(0, 99), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer() as opened:
        yield opened


# Sweep grammar -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(NAMES, VALUES), max_size=3))
def test_lists_expand_to_their_product_in_order(axes: list[tuple[str, list[int]]]) -> None:
    words = [f"{name}={','.join(map(str, values))}" for name, values in axes]
    product = itertools.product(*([f"{name}={value}" for value in values] for name, values in axes))
    assert expand(words) == [list(point) for point in product]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=range(1,4)", ["seed=1", "seed=2", "seed=3"]),
        ("seed=range(0,10,4)", ["seed=0", "seed=4", "seed=8"]),
        ("variant=choice(unet,fno2d)", ["variant=unet", "variant=fno2d"]),
        ("train.lr=1e-3,2e-3", ["train.lr=0.001", "train.lr=0.002"]),
        ("train.clip=null,1.0", ["train.clip=null", "train.clip=1.0"]),
        ("train.betas=[0.9,0.95]", ["train.betas=[0.9,0.95]"]),  # a list is one value
        ("train.betas=[0.9,0.95],[0.9,0.99]", ["train.betas=[0.9,0.95]", "train.betas=[0.9,0.99]"]),
        ("+new.key=1", ["+new.key=1"]),
    ],
)
def test_hydras_grammar(word: str, expected: list[str]) -> None:
    assert expand([word]) == [[one] for one in expected]


def test_no_words_are_one_point() -> None:
    assert expand([]) == [[]]


# One experiment ------------------------------------------------------------------------------------------------------


def test_model_keys_are_typed_by_the_variants_preset(composer: Composer) -> None:
    plain = composer.compose([*TINY, "variant=fno2d"]).config.model
    assert isinstance(plain, FNO2D)
    changed = composer.compose([*TINY, "variant=fno2d", "model.width=6", "model.layers=2"]).config.model
    assert (changed.width, changed.layers, changed.modes_height) == (6, 2, plain.modes_height)
    unet = composer.compose([*TINY, "variant=unet", "model.channels=[2,4]"]).config.model
    assert isinstance(unet, UNet)
    assert unet.channels == [2, 4]
    with pytest.raises(ConfigError, match="no key 'model.width'"):  # another variant's key
        composer.compose([*TINY, "variant=unet", "model.width=6"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), 4), (("engine=zero1", "ranks=2"), 2), (("train.global_batch=8", "engine=zero1", "ranks=4"), 2),
        (("train.micro_batch=1",), 1), (("engine=zero1", "ranks=2", "train.micro_batch=1"), 1),
    ],
)  # fmt: skip
def test_the_micro_batch_follows_from_global_batch_and_ranks(words: Sequence[str], expected: int, composer: Composer) -> None:
    assert composer.compose([*TINY, *words]).config.train.micro_batch == expected


def test_saying_what_is_the_default_is_the_same_experiment(composer: Composer) -> None:
    plain = composer.compose(TINY)
    said = composer.compose([*TINY, "train.micro_batch=4", "seed=0", "size=5k", "train.lr=0.002", "model.layers=4"])
    assert said.name == plain.name
    assert composer.compose([*TINY, "train.lr=0.003"]).name != plain.name


def test_a_recipe_belongs_to_system_and_scale(composer: Composer) -> None:
    sizes = {scale: composer.compose([f"scale={scale}"]).config.data.resolution for scale in ("tiny", "small", "paper")}
    assert sizes == {"tiny": 16, "small": 32, "paper": 64}


# Frozen configurations -----------------------------------------------------------------------------------------------


@pytest.fixture
def frozen(composer: Composer, tmp_path: Path) -> Experiment:
    """An experiment that went through its file."""
    words = [*TINY, "seed=3", "train.lr=0.004", "model.width=6", f"paths.runs={tmp_path}/runs"]
    first = composer.compose(words)
    loaded = Experiment.load(first.freeze().path)
    assert loaded.plain == first.plain
    assert loaded.name == first.name
    return loaded


def test_what_is_not_hashed_may_change_until_the_run_completes(frozen: Experiment) -> None:
    folder = frozen.folder
    before = folder.config_file.read_text()
    changed = override_frozen(frozen, ["launcher.time_limit_s=60"])
    assert changed.name == frozen.name
    running = folder.lock()
    assert running.acquire()
    changed.freeze()
    assert folder.config_file.read_text() == before  # not under the feet of whoever runs it
    running.release()
    changed.freeze()
    assert "time_limit_s: 60.0" in folder.config_file.read_text()
    folder.claim_attempt().write("outcome", {"status": "completed"})
    frozen.freeze()
    assert "time_limit_s: 60.0" in folder.config_file.read_text()


def test_two_experiments_never_share_a_folder(frozen: Experiment) -> None:
    """Names carry eight digits of the identity; the folder remembers all of them."""
    known = read_json(frozen.folder.path / "run.json")
    write_json(frozen.folder.path / "run.json", {**known, "identity": known["identity"][:8] + "0" * 56})
    with pytest.raises(ResultError, match="same eight digits"):
        frozen.freeze()


def test_overrides_stand_on_top_of_a_frozen_configuration(frozen: Experiment) -> None:
    changed = override_frozen(frozen, ["train.lr=0.001", "model.layers=2", "seed=4"])
    config = changed.config
    assert (config.train.lr, config.seed, config.model.layers) == (0.001, 4, 2)
    assert config.model.width == 6  # what was frozen stays
    assert changed.name != frozen.name
    assert override_frozen(frozen, ["keep=none", "launcher.max_parallel=7"]).name == frozen.name
    assert override_frozen(frozen, ["seed=3", "tracker=none"]).name == frozen.name
    assert override_frozen(frozen, ["tracker=none"]).config.tracker.name == "none"


def test_another_engine_or_model_brings_its_own_keys(frozen: Experiment) -> None:
    sharded = override_frozen(frozen, ["engine=zero3", "ranks=2"]).config
    assert sharded.train.micro_batch == 2  # it followed from batch and ranks, and does so again
    assert (sharded.engine.name, sharded.engine.stage, sharded.engine.persistence_threshold_elements) == ("zero3", 3, 0)
    assert isinstance(override_frozen(frozen, ["variant=unet"]).config.model, UNet)
    assert override_frozen(frozen, ["size=2k"]).config.model.width == 2  # the preset's, not the frozen 6


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.stepz=3", "did you mean 'steps'"),
        ("engine=zero9", "no engine 'zero9'"),
        ("train.steps=x", "steps"),
        ("modle.width=3", "model"),
        ("scale=small", "cannot be changed on top of a frozen configuration"),
    ],
)
def test_wrong_overrides_of_a_frozen_configuration_are_refused(word: str, expected: str, frozen: Experiment) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        override_frozen(frozen, [word])
    assert "command line" in caught.value.where


@pytest.mark.parametrize("text", [None, "a: [", "- a\n", "system: dlwp\n"])
def test_what_is_no_frozen_configuration_is_refused_by_name(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Experiment.load(tmp_path)
    assert str(tmp_path / "config.yaml") in caught.value.where


# Users' own folders --------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder with a site, an experiment and a study."""
    for path, text in {
        "site/ridge.yaml": "name: ridge\ndescription: two nodes\n",
        "experiment/mine.yaml": "# @package _global_\nscale: tiny\nseed: 5\ntrain: {lr: 0.007}\n",
        "study/twice.yaml": (
            "title: Twice\ncommon: [scale=tiny]\nstages:\n"
            "  - {name: first, points: [['variant=fno2d,unet', 'seed=0,1']]}\n"
            "  - {name: again, exclusive: true, points: [[variant=unet, 'seed=1,2'], [variant=fno2d, engine=zero1, ranks=2]]}\n"
        ),
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_a_users_groups_are_found_and_an_experiment_is_optional(own: Path) -> None:
    with Composer(own) as opened:
        assert opened.compose([*TINY, "site=ridge"]).config.site.name == "ridge"
        assert opened.compose([*TINY, "site=ridge"]).name != opened.compose(TINY).name  # whose numbers these are
        mine = opened.compose(["experiment=mine", "recipe=dlwp_tiny"]).config
        assert (mine.scale, mine.seed, mine.train.lr) == ("tiny", 5, 0.007)
        assert opened.compose(["experiment=mine", "recipe=dlwp_tiny", "seed=6"]).config.seed == 6  # words win over all
        assert opened.compose(TINY).config.train.lr == 0.002
        assert opened.choices("site") == ["local", "ridge"]
        with pytest.raises(ConfigError, match="did you mean 'ridge'"):
            opened.compose(["site=rigde"])
    with Composer() as opened, pytest.raises(ConfigError, match="no site 'ridge'"):
        opened.compose(["site=ridge"])


def test_a_folder_that_does_not_exist_is_said() -> None:
    with pytest.raises(ConfigError, match="--config-dir"), Composer(Path("/nowhere/at/all")):
        pass


# Studies -------------------------------------------------------------------------------------------------------------


def test_a_point_that_two_stages_name_is_one_run_in_both(own: Path) -> None:
    assert "twice" in study_names(own)
    study = expand_study("twice", [], config_dir=own)
    assert [(point.stage, point.exclusive, point.arm, point.experiment.config.seed) for point in study.points] == [
        ("first", False, "fno2d 5k", 0), ("first", False, "fno2d 5k", 1), ("first", False, "unet 5k", 0),
        ("first", False, "unet 5k", 1), ("again", True, "unet 5k torch", 1), ("again", True, "unet 5k torch", 2),
        ("again", True, "fno2d 5k zero1", 0),
    ]  # fmt: skip
    names = [point.experiment.name for point in study.points]
    assert names[3] == names[4]
    assert len(set(names)) == 6
    index = study.index()
    assert [entry["run"] for entry in index["runs"]] == names
    assert (index["title"], index["system"], index["scale"]) == ("Twice", "dlwp", "tiny")
    assert study.command == "tenfold sweep study=twice"


def test_words_on_the_command_line_are_added_to_every_point_and_win(own: Path) -> None:
    study = expand_study("twice", ["train.steps=20", "seed=8"], config_dir=own)
    assert {point.experiment.config.train.steps for point in study.points} == {20}
    assert {point.experiment.config.seed for point in study.points} == {8}
    assert len(study.points) == 4  # the seeds fell together
    assert len({point.experiment.name for point in study.points}) == 3


def test_words_alone_are_a_study_with_a_name_of_its_own() -> None:
    one, same, other = (adhoc_study([*TINY, word]) for word in ("seed=0,1", "seed=0,1", "seed=0,2"))
    assert one.name == same.name != other.name
    assert len(one.points) == 2
    assert one.command == "tenfold sweep system=dlwp scale=tiny seed=0,1"
