"""Composing from parts that are kept (one Hydra composition per choice of groups) gives what Hydra composes from all words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.compose import Composer, _nested, parse
from harness.experiment import Experiment
from results.errors import ConfigError, TenfoldError

GROUPS = [
    "system=dlwp", "scale=tiny", "scale=small", "engine=torch", "engine=zero1", "engine=zero3", "launcher=mpi", "tracker=none",
    "recipe=dlwp_small",
]  # fmt: skip
PLAIN = [
    "variant=unet", "variant=fno2d", "size=2k", "train.steps=20", "train.steps=30", "train.lr=3e-3", "train={steps: 40, lr: 0.1}",
    "train.global_batch=8", "train.clip=null", "train.clip=1", "train.betas=[0.9,0.95]", "keep=none", "precision=bf16",
    "launcher.max_parallel=3", "launcher={max_parallel: 5}", "launcher.retry={crash: {action: resume, times: 2}}",
    "engine.bucket_elements=1000", "site.modules=[a,b]", "site.name=here", "paths.runs='/a b/runs'", "tracker.project='a=b'",
    "data.resolution=16", "data={train_trajectories: 4}",
]  # fmt: skip
#: Neither plain nor about groups: where they touch a plain word, their order counts.
OTHER = [
    "++train.steps=50", "++train={lr: 0.2}", "+launcher.retry.crash={action: resume}", "++launcher.retry.crash.times=3",
    "+site.sbatch.nice='7'", "++seed=4", "~site.modules",
]  # fmt: skip
MODEL = ["model.width=6", "model.width=8", "model.layers=2"]
NUMBERS = ["seed=3", "seed=0", "seed=7", "repeat=1", "repeat=0"]
#: Word, and what the error must name.
WRONG = {
    "train.stepz=3": "train.stepz", "train.steps=x": "train.steps", "train.steps=[1]": "train.steps", "train=3": "train",
    "engine=zero9": "zero9", "scale=huge": "huge", "site=nowhere": "nowhere", "system=nothing": "nothing",
    "variant=unett": "unett", "size=9z": "9z", "modle.width=3": "modle", "model.widht=3": "widht", "model.width=x": "width",
    "seed=x": "seed",
    "seed=-1": "seed", "seed=2.5": "seed", "repeat=-1": "repeat", "repeat=null": "repeat", "train.lr=-1": "train.lr",
    "train.betas=[a,b]": "betas", "keep=all": "keep", "+train.new=1": "new", "launcher.retry.crush.action=resume": "crush",
    "seed=1,2": "seed=1,2", "=3": "=3", "~train.nothing": "nothing",
}  # fmt: skip


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    """One for all examples: what it keeps of one must not show in another."""
    with Composer() as opened:
        yield opened


def directly(words: Sequence[str]) -> Experiment:
    """Without anything kept: all words to Hydra, the model's on top. Hydra is held open by the fixture."""
    model: dict[str, Any] = {}
    rest = []
    for word in parse(words):
        if word.is_sweep_override():
            raise ConfigError(f"'{word.input_line}' names several values")
        if word.key_or_group.startswith("model."):
            model[word.key_or_group.removeprefix("model.")] = word.value()
        else:
            rest.append(word.input_line)
    node = Composer()._compose(rest)
    OmegaConf.set_struct(node, False)
    node.model = _nested(model)
    return Experiment.resolve(node, source="command line")


def sample(pool: Sequence[str], most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(pool), max_size=most)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Any words in any order, some of them several times."""
    pools = ((GROUPS, 3), (PLAIN, 4), (OTHER, 1), (MODEL, 1), (NUMBERS, 2))
    words = [word for pool, most in pools for word in draw(sample(pool, most))]
    shuffled: list[str] = draw(st.permutations(words))
    return shuffled


def key(word: str) -> str:
    return word.split("=")[0].strip("+~")


def outcome(compose: Any, words: Sequence[str]) -> Any:
    """The whole configuration and the types of its parts, or the class of the error and its first line."""
    try:
        experiment = compose(words)
    except TenfoldError as error:
        return type(error), error.what
    return experiment.plain, type(experiment.config.model), type(experiment.config.data)


@settings(max_examples=40, deadline=None)
@given(words=lines())
def test_any_words_give_what_hydra_gives(words: list[str], composer: Composer) -> None:
    assert outcome(composer.compose, words) == outcome(directly, words)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_word_among_right_ones_is_the_same_error_and_is_named(wrong: str, first: bool, composer: Composer) -> None:
    right = ["variant=fno2d", "engine=zero1", "ranks=2", "train.steps=20", "seed=3", "launcher.max_parallel=3"]
    right = [word for word in right if key(word) != key(wrong)]  # a later word about the same key would mend it
    words = [wrong, *right] if first else [*right, wrong]
    if wrong.startswith("model."):
        words.append("model.layers=2")
    with pytest.raises(TenfoldError) as expected:
        directly(words)
    for _ in range(2):  # what is kept of the first time must not hide it
        with pytest.raises(TenfoldError) as caught:
            composer.compose(words)
        assert (caught.type, caught.value.what) == (expected.type, expected.value.what)
        assert WRONG[wrong] in str(caught.value)


@settings(max_examples=15, deadline=None)
@given(words=lines(), wrong=st.sampled_from(sorted(WRONG)))
def test_a_wrong_word_anywhere_is_an_error(words: list[str], wrong: str, composer: Composer) -> None:
    # A later word about the same key, or about the section it lies in, would mend it.
    others = [word for word in words if not f"{key(wrong)}.".startswith(f"{key(word)}.")]
    for place in {0, len(others) // 2, len(others)}:
        with pytest.raises(TenfoldError):
            composer.compose([*others[:place], wrong, *others[place:]])


def test_the_order_of_words_about_one_key_counts(composer: Composer) -> None:
    for words, steps, seed in [
        (["train.steps=20", "++train.steps=30", "seed=1"], 30, 1),
        (["++train.steps=30", "train.steps=20", "seed=1", "seed=2"], 20, 2),
        (["train={steps: 40}", "train.steps=20", "++seed=4", "seed=5"], 20, 5),
        (["train.steps=20", "train={steps: 40}", "seed=5", "++seed=4"], 40, 4),
        (["train.steps=20", "train={steps: 40}", "++train.lr=0.1"], 40, 0),
    ]:
        config = composer.compose([*words, "scale=tiny"]).config
        assert (config.train.steps, config.seed) == (steps, seed), words


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_order_of_words_about_different_keys_does_not_count(data: st.DataObject, composer: Composer) -> None:
    words = [
        "scale=tiny",
        "engine=zero1",
        "ranks=2",
        "variant=fno2d",
        "model.width=6",
        "train.steps=20",
        "train.lr=0.1",
        "seed=3",
    ]
    shuffled = data.draw(st.permutations(words))
    assert composer.compose(shuffled).plain == composer.compose(words).plain


def test_points_that_share_parts_do_not_share_changes(composer: Composer) -> None:
    """Sections are shared between points that differ by seed; a point with other keys has its own."""
    one, other = (composer.compose(["scale=tiny", f"seed={seed}"]) for seed in (1, 2))
    changed = composer.compose(["scale=tiny", "seed=1", "train.steps=20", "train.betas=[0.5,0.6]"])
    assert (one.config.seed, other.config.seed) == (1, 2)
    assert one.config.train.steps == other.config.train.steps != changed.config.train.steps
    assert composer.compose(["scale=tiny", "seed=1"]).plain == one.plain == directly(["scale=tiny", "seed=1"]).plain
