"""Every engine against the single-process reference, on the same global batch, with real ranks and real sharding.

FNO2D stores its complex spectral weights as real pairs, because DeepSpeed fails on complex parameters: one is trained under every
stage here.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.engines.deepspeed_engine import _Root
from results.runfolder import RunFolder
from results.series import read_run_steps
from tests.support import Workplace

DLWP = ("system=dlwp", "variant=fno2d", "scale=tiny", "train.steps=12", "train.clip=1.0", "tracker=none")
STAGES = ("zero0", "zero1", "zero2", "zero3")


def losses(workplace: Workplace, *words: str) -> np.ndarray:
    """Loss curve of a run, averaged over its ranks."""
    done = workplace.json("run", *DLWP, *words)
    assert done[0]["status"] == "completed"
    return read_run_steps(RunFolder(workplace.path / "runs" / done[0]["run"]))["loss"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """One working directory, so that data is generated once and the reference runs once."""
    return Workplace(tmp_path_factory.mktemp("engines"))


@pytest.mark.distributed
@pytest.mark.parametrize("stage", STAGES)
def test_fp32_losses_agree_with_the_reference(shared: Workplace, stage: str) -> None:
    """In fp32 all stages do the same arithmetic up to the order of summation."""
    reference = losses(shared, "engine=torch")
    sharded = losses(shared, f"engine={stage}", "ranks=2")
    assert len(reference) == 12
    np.testing.assert_allclose(sharded, reference, rtol=1e-5)


@pytest.mark.distributed
def test_accumulation_and_ranks_cut_the_same_global_batch(shared: Workplace) -> None:
    reference = losses(shared, "engine=torch")
    np.testing.assert_allclose(losses(shared, "engine=torch", "train.micro_batch=1"), reference, rtol=1e-5)
    np.testing.assert_allclose(losses(shared, "engine=zero2", "ranks=2", "train.micro_batch=1"), reference, rtol=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["zero1", "zero3"])
def test_a_sharded_run_that_is_killed_and_resumed_goes_on_with_the_same_bits(workplace: Workplace, stage: str) -> None:
    """The whole run and one cut in two by a kill end with equal losses, to the last bit."""
    words = ("system=faulty", "scale=tiny", f"engine={stage}", "ranks=2", "train.checkpoint_every=5")
    whole = Workplace(workplace.path / "whole")
    whole.path.mkdir()
    (whole.path / "cut-once").touch()
    whole.tenfold("run", *words, "variant=cut")
    workplace.tenfold("run", *words, "variant=cut", expect=1)
    workplace.tenfold("retry", "--only", "crash")
    (reference,), (resumed,) = whole.runs(), workplace.runs()
    assert len(resumed.attempts()) == 2
    for rank in range(2):
        assert np.array_equal(read_run_steps(resumed, rank)["loss"], read_run_steps(reference, rank)["loss"])
    metric = "score"
    assert resumed.read_record()["metrics"][metric] == reference.read_record()["metrics"][metric]


@pytest.mark.distributed
def test_bf16_trains_under_the_reference_and_under_zero(shared: Workplace) -> None:
    """bf16 has 8 bits of mantissa: losses stay within a few per cent of fp32 over a dozen steps."""
    reference = losses(shared, "engine=torch")
    for words in (("engine=torch", "precision=bf16"), ("engine=zero2", "ranks=2", "precision=bf16")):
        np.testing.assert_allclose(losses(shared, *words), reference, rtol=0.05)


@pytest.mark.distributed
def test_offload_trains_without_compiling_anything(shared: Workplace) -> None:
    reference = losses(shared, "engine=torch")
    np.testing.assert_allclose(losses(shared, "engine=zero3_offload", "ranks=2"), reference, rtol=1e-5)


@pytest.mark.distributed
def test_sharded_initialisation_builds_the_same_model(shared: Workplace) -> None:
    reference = losses(shared, "engine=torch")
    sharded = losses(shared, "engine=zero3", "ranks=2", "engine.sharded_init=true")
    np.testing.assert_allclose(sharded, reference, rtol=1e-5)


@pytest.mark.distributed
def test_evaluation_does_not_depend_on_the_number_of_ranks(shared: Workplace) -> None:
    rows = {}
    for words in (("engine=torch",), ("engine=zero3", "ranks=2")):
        (row,) = shared.json("run", *DLWP, *words)
        rows[words[0]] = row["metrics"]
    assert rows["engine=torch"]["rmse"] == pytest.approx(rows["engine=zero3"]["rmse"], rel=1e-4)
    assert rows["engine=torch"]["persistence_rmse"] == pytest.approx(rows["engine=zero3"]["persistence_rmse"], rel=1e-12)


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["zero0", "zero2", "zero3"])
def test_clipping_at_the_learning_rate_is_the_same_everywhere(shared: Workplace, stage: str) -> None:
    """The threshold of every step is its learning rate: small enough here to change every update's gradient."""
    words = ("train.clip=null", "train.clip_at_lr=true")
    reference = losses(shared, "engine=torch", *words)
    assert not np.allclose(reference[1:], losses(shared, "engine=torch", "train.clip=null")[1:], rtol=1e-6)
    np.testing.assert_allclose(losses(shared, f"engine={stage}", "ranks=2", *words), reference, rtol=1e-5)


WEATHER = ("system=dlwp_weather", "scale=tiny", "train.steps=6", "data.forecasts=2", "tracker=none")


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("sfno", ("engine=zero3",)),
        ("graphcast", ("engine=zero3",)),
        ("pangu", ("engine=zero3",)),
        ("convlstm_hpx", ("engine=zero2", "data.recompute=true")),
    ],
)
def test_weather_backbones_train_sharded(shared: Workplace, variant: str, words: tuple[str, ...]) -> None:
    """Parameters gathered inside one forward that covers a whole rollout; its steps computed again in backward."""
    curves = []
    for layout in (("engine=torch",), (*words, "ranks=2")):
        done = shared.json("run", *WEATHER, f"variant={variant}", *layout)
        assert done[0]["status"] == "completed"
        curves.append(read_run_steps(RunFolder(shared.path / "runs" / done[0]["run"]))["loss"])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


def test_zero_autocasts_inside_of_deepspeed() -> None:
    """On a GPU DeepSpeed switches off an autocast that began outside, and a model would mix its types by itself."""
    root = _Root(torch.nn.Linear(2, 2), lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    with torch.autocast("cpu", enabled=False):
        assert root(lambda model, x: model(x).dtype, torch.zeros(1, 2)) == torch.bfloat16
