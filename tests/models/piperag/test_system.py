"""PipeRAG bound to the contract: what is trained, what is served, and that both are the same network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.compose import Composer
from harness.stores import ensure_all
from models import registry
from models.piperag.config import SCHEDULE_OF, num_parameters
from models.piperag.data import TrainingTexts, store_of, texts_of
from models.piperag.retro.network import Retro
from models.piperag.retro.shape import parameters
from models.piperag.scheduling.schedule import SCHEDULES
from models.system import Draw, Outcome, Point
from models.testing import LocalContext
from results.errors import ConfigError
from tests.support import Workplace

SYSTEM = registry.system("piperag")


class Served(LocalContext):
    """A context that knows what the base was trained to."""

    def __init__(self, artifacts: Path, weights: Mapping[str, Tensor]) -> None:
        super().__init__(artifacts)
        self._weights = weights

    def input_weights(self, name: str) -> Mapping[str, Tensor]:
        assert name == "base"
        return self._weights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of the tiny points."""
    folder = tmp_path_factory.mktemp("piperag")
    ensure_all(SYSTEM.stores(compose(folder)), folder, workers=1)
    return folder


def compose(root: Path, *words: str) -> Point:
    with Composer() as composer:
        point = composer.compose(["system=piperag", "scale=tiny", *words]).point
    return dataclasses.replace(point, data_root=root)


@pytest.fixture(scope="module")
def weights() -> Mapping[str, Tensor]:
    """An untrained network of some size of output: ratings differ by schedule."""
    torch.manual_seed(3)
    return Retro(registry.config("piperag").model_preset("base", "7k", "tiny")).state_dict()


def rate(root: Path, weights: Mapping[str, Tensor], *words: str) -> Outcome:
    return SYSTEM.execute(compose(root, *words), Served(root, weights))


def base(root: Path, weights: Mapping[str, Tensor], *words: str) -> Outcome:
    point = compose(root, "variant=base", *words)
    model = Retro(point.model)
    model.load_state_dict(dict(weights))
    return SYSTEM.evaluate(point, model.eval(), LocalContext(root))


def test_served_and_trained_are_the_same_network(root: Path, weights: Mapping[str, Tensor]) -> None:
    """RETRO decoded token by token rates every text as the teacher-forced network does, and so does no retrieval."""
    trained = base(root, weights)
    retro, none = (rate(root, weights, f"variant={name}", "data.serving.nprobe=16") for name in ("retro", "none"))
    np.testing.assert_allclose(retro.samples["loss"], trained.samples["loss"], rtol=1e-5)
    np.testing.assert_allclose(none.samples["loss"], trained.samples["none_loss"], rtol=1e-5)
    assert none.metrics["perplexity"] == pytest.approx(trained.metrics["none_perplexity"], rel=1e-5)
    assert none.metrics["retrievals"] == 0


def test_retro_plus_at_a_chunk_is_retro_and_every_schedule_rates_differently(root: Path, weights: Mapping[str, Tensor]) -> None:
    found = {
        words: rate(root, weights, *words.split()).metrics["loss"]
        for words in (
            "variant=retro",
            "variant=retro_plus",
            "variant=retro_plus data.serving.interval=2",
            "variant=piperag data.serving.interval=2",
            "variant=piperag data.serving.interval=2 data.serving.shifted=false",
            "variant=piperag data.serving.interval=2 data.serving.pipeline=client",
            "variant=none",
        )
    }
    assert found.pop("variant=retro") == found["variant=retro_plus"]
    assert len(set(found.values())) == len(found)


def test_what_is_served_reads_the_run_that_trained_it_whatever_it_is_served_like(workplace: Workplace) -> None:
    common = ["system=piperag", "scale=tiny"]
    with Composer() as composer:
        trained = composer.compose([*common, "variant=base"])
        for words in (["variant=none"], ["variant=piperag", "data.serving.interval=2", "data.serving.nprobe=1"]):
            assert composer.compose([*common, *words]).inputs["base"].name == trained.name
        other = composer.compose([*common, "variant=none", "train.lr=0.1"])
    assert other.inputs["base"].name != trained.name


def test_training_texts_are_functions_of_their_draw(root: Path) -> None:
    point = compose(root, "variant=base", "data.without_share=0.5")
    data = TrainingTexts(point)
    draws = [Draw(sample=sample, key=sample * 7 + 1) for sample in range(32)]
    batch, again = data.batch(draws), TrainingTexts(point).batch(draws[::-1])
    for name, value in batch.items():
        torch.testing.assert_close(value, again[name].flip(0))
        assert value.shape == SYSTEM.example_batch(point, 32)[name].shape
    without = (batch["neighbours"] == 0).flatten(1).all(1)
    assert 5 < int(without.sum()) < 27
    # A text's own document is in the database: its windows find it.
    assert data.num_samples == 48 * 4


def test_held_out_texts_are_of_other_documents(root: Path) -> None:
    point = compose(root)
    train, held_out = texts_of(point, "train"), texts_of(point, "eval")
    assert (train.num_documents, held_out.num_documents) == (48, 12)
    assert not {tuple(text) for text in train.take(range(200))} & {tuple(text) for text in held_out.take(range(12))}


def test_every_variant_has_a_schedule_and_counts_are_closed_forms() -> None:
    assert set(SCHEDULE_OF.values()) <= set(SCHEDULES)
    for scale, size, total in (("paper", "633M", 633_142_016), ("small", "272k", 271_616)):
        shape = registry.config("piperag").model_preset("base", size, scale)
        assert num_parameters(shape) == parameters(shape)["total"] == total


def test_the_paper_is_planned_on_meta_tensors() -> None:
    with Composer() as composer:
        experiment = composer.compose(["system=piperag", "scale=paper", "variant=piperag"])
    plan = SYSTEM.plan(experiment.point)
    assert plan is not None
    assert plan.params == 633_142_016


@pytest.mark.parametrize(
    ("word", "where"),
    [
        ("data.corpus=books", "data.corpus"),
        ("data.corpus=text", "data.path"),
        ("data.training_documents=60", "data.training_documents"),
        ("data.sequence_tokens=41", "data.sequence_tokens"),
        ("data.sequence_tokens=4", "data.sequence_tokens"),
        ("data.successors=16", "data.successors"),
        ("data.without_share=1.5", "data.without_share"),
        ("data.serving.interval=5", "data.serving.interval"),
        ("data.serving.pipeline=none", "data.serving.pipeline"),
        ("data.serving.nprobe=0", "data.serving.nprobe"),
        ("model.decoder.heads=5", "model.decoder.heads"),
    ],
)
def test_impossible_points_are_refused(word: str, where: str) -> None:
    with Composer() as composer, pytest.raises(ConfigError) as error:
        composer.compose(["system=piperag", "scale=tiny", word])
    assert where in error.value.where


def test_real_text_needs_a_vocabulary_for_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be")
    point = compose(root, "data.corpus=text", f"data.path={tmp_path}")
    with pytest.raises(ConfigError, match="258 tokens"):
        store_of(point)
