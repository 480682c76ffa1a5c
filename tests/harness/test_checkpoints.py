"""Checkpoints: complete or absent, pruned to two and the best, and refused by whoever cannot continue them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.checkpoints import Checkpoints, convert
from harness.engines import check_family
from harness.engines.torch_engine import TorchEngine
from harness.group import Group
from harness.schema import ENGINES, EngineConfig, ExperimentConfig, TrainConfig
from models.system import Batch, Context, Outcome, ParamGroup, Point, TrainData, TrainedSystem
from results.errors import ResultError
from results.metrics import Direction, MetricSpec

ROOT = Path(__file__).parent.parent.parent
ONE = Group(rank=0, world=1, local_rank=0, device=torch.device("cpu"), joined=False)


def make_engine(seed: int = 0) -> TorchEngine:
    torch.manual_seed(seed)
    return TorchEngine(
        config=EngineConfig(name="torch"),
        train=TrainConfig(steps=10, lr=0.1),
        precision="fp32",
        group=ONE,
        build=lambda: nn.Linear(3, 2),
        groups=lambda model: [ParamGroup(name="all", params=list(model.parameters()))],
        loss=lambda model, batch: model(batch["x"]).square().mean(),
    )


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", ONE)


def step(engine: TorchEngine) -> None:
    engine.step([{"x": torch.ones(1, 3)}], 0.1)


def weights(engine: TorchEngine) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in engine.module.parameters()])


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_everything_comes_back(checkpoints: Checkpoints) -> None:
    engine = make_engine()
    assert checkpoints.find() is None
    step(engine)
    checkpoints.save(engine, 1, {"best": 0.5})
    expected_noise = torch.randn(4)
    step(engine)
    expected = weights(engine)
    other = make_engine(seed=7)
    path = checkpoints.find()
    assert path is not None
    state = checkpoints.load(other, path)
    assert state == {"step": 1, "world": 1, "engine": "torch", "best": 0.5}
    assert torch.equal(torch.randn(4), expected_noise)  # random state too
    step(other)
    assert torch.equal(weights(other), expected)  # the optimiser's moments too


def test_the_last_two_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    engine = make_engine()
    for number in range(1, 7):
        checkpoints.save(engine, number, {}, best=number == 2)
    assert names(checkpoints) == ["best", "latest", "step-00000002", "step-00000005", "step-00000006"]
    assert checkpoints.find("latest").name == "step-00000006"  # type: ignore[union-attr]
    assert checkpoints.find("best").name == "step-00000002"  # type: ignore[union-attr]
    checkpoints.save(engine, 7, {}, best=True)
    assert names(checkpoints) == ["best", "latest", "step-00000006", "step-00000007"]


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [
        ("none", True, []),
        ("last", True, ["best", "latest", "step-00000004"]),
        ("best", True, ["best", "latest", "step-00000001"]),
        ("best", False, ["latest", "step-00000004"]),
    ],
)
def test_after_completion_what_was_asked_for_is_kept(keep: str, best: bool, kept: list[str], checkpoints: Checkpoints) -> None:
    engine = make_engine()
    for number in (1, 3, 4):
        checkpoints.save(engine, number, {}, best=best and number == 1)
    (checkpoints.folder / ".tmp-step-00000005").mkdir()  # left by a kill
    checkpoints.finish(keep)
    assert (names(checkpoints) if checkpoints.folder.exists() else []) == kept


MOMENTS = {"while the engine writes": 1, "before the rename": 1, "before it is pointed to": 1, "before pruning": 2}
KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.harness.test_checkpoints import Checkpoints, ONE, make_engine, step
import harness.checkpoints as module

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def half(folder):
    (folder / "torch.pt").write_bytes(b"half")
    kill()

def die(moment):
    checkpoints, engine = Checkpoints(Path(sys.argv[1]) / moment, ONE), make_engine()
    step(engine)
    checkpoints.save(engine, 1, {})
    step(engine)
    if moment == "while the engine writes":
        engine.save = half
    elif moment == "before the rename":
        module._sync_tree = kill
    elif moment == "before it is pointed to":
        module.write_text = kill
    elif moment == "before pruning":
        Checkpoints._prune = kill
    checkpoints.save(engine, 2, {})

make_engine()  # what torch imports at the first optimiser is imported once, here
for moment in json.loads(sys.argv[2]):
    child = os.fork()
    if child == 0:
        die(moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each moment the checkpoint folder of a process that was killed then."""
    root = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), json.dumps(list(MOMENTS))],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert [int(line) for line in done.stdout.split()] == [-signal.SIGKILL] * len(MOMENTS), done.stderr
    return root


@pytest.mark.parametrize(("moment", "left"), MOMENTS.items())
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(moment: str, left: int, killed: Path) -> None:
    checkpoints = Checkpoints(killed / moment, ONE)
    path = checkpoints.find()
    assert path is not None
    engine, expected = make_engine(), make_engine()
    assert checkpoints.load(engine, path)["step"] == left
    for _ in range(left):
        step(expected)
    assert torch.equal(weights(engine), weights(expected))
    checkpoints.save(engine, 2, {})  # and the run goes on over whatever lies there
    assert checkpoints.find().name == "step-00000002"  # type: ignore[union-attr]
    assert not [name for name in names(checkpoints) if name.startswith(".")]


def test_a_full_disk_leaves_the_previous_one_and_says_so(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    checkpoints.save(engine, 1, {})

    def full(folder: Path) -> None:
        (folder / "torch.pt").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine, "save", full)
    with pytest.raises(ResultError, match="cannot save a checkpoint.*No space left") as caught:
        checkpoints.save(engine, 2, {})
    assert "free space" in caught.value.next_step
    assert names(checkpoints) == ["latest", "step-00000001"]


def test_a_pointer_to_nothing_is_no_checkpoint(checkpoints: Checkpoints) -> None:
    checkpoints.save(make_engine(), 1, {})
    (checkpoints.folder / "step-00000001" / "state.json").unlink()
    assert checkpoints.find() is None


#: Engines that go on from each other's checkpoints, on whatever number of ranks.
FAMILIES = ({"torch"}, {"zero0"}, {"zero1", "zero2"}, {"zero3", "zero3_offload"})


@pytest.mark.parametrize("saved", ENGINES)
@pytest.mark.parametrize("wanted", ENGINES)
def test_engines_of_another_family_are_refused_with_the_reason(saved: str, wanted: str) -> None:
    if any({saved, wanted} <= together for together in FAMILIES):
        check_family(saved, wanted, where="here", run="dlwp-unet-tiny-01234567")
        return
    with pytest.raises(ResultError, match=f"saved by {saved}, and {wanted} cannot go on from it: they keep optimiser") as caught:
        check_family(saved, wanted, where="here", run="dlwp-unet-tiny-01234567")
    assert caught.value.where == "here"
    assert caught.value.next_step == f"tenfold retry dlwp-unet-tiny-01234567 --with engine={saved}"


def test_a_refused_checkpoint_leaves_the_engine_as_it_was(checkpoints: Checkpoints) -> None:
    engine = make_engine()
    checkpoints.save(engine, 1, {})
    path = checkpoints.find()
    assert path is not None
    before, noise = weights(engine), torch.get_rng_state()
    step(engine)
    checkpoints.save(engine, 2, {})
    engine = make_engine()
    torch.set_rng_state(noise)
    engine.config.name = "zero1"
    with pytest.raises(ResultError, match="saved by torch, and zero1 cannot"):
        checkpoints.load(engine, path)
    assert torch.equal(weights(engine), before)
    assert torch.equal(torch.get_rng_state(), noise)
    assert not (path / "universal.json").exists()


def test_random_states_on_more_and_on_fewer_ranks(checkpoints: Checkpoints) -> None:
    """A rank that the checkpoint knows goes on with its own state, a further one with one of its own, the same every time."""
    engine = make_engine()
    checkpoints.save(engine, 1, {})
    path = checkpoints.find()
    assert path is not None
    expected = torch.randn(4)

    def drawn(rank: int, world: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        Checkpoints(checkpoints.folder, replace(ONE, rank=rank, world=world)).load(make_engine(), path)
        return torch.randn(4)

    assert torch.equal(drawn(0, 3, 5), expected)
    assert torch.equal(drawn(1, 3, 5), drawn(1, 3, 6))
    states = [drawn(rank, 3, 5) for rank in range(3)]
    assert not any(torch.equal(states[i], states[j]) for i in range(3) for j in range(i))
    (path / "rng-0.pt").unlink()  # of its own world a rank's state must be there
    with pytest.raises(FileNotFoundError):
        drawn(0, 1, 5)


def test_a_checkpoint_that_cannot_be_converted_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "mp_rank_00_model_states.pt").write_bytes(b"half")
    with pytest.raises(ResultError, match="cannot be converted to another number of ranks: .") as caught:
        convert(tmp_path, ONE)
    assert caught.value.where == str(tmp_path)
    assert not (tmp_path / "universal.json").exists()


class Scripted(TrainedSystem):
    """One weight that grows by the learning rate each step (the loss is minus it), with validation scores by script."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = list(scores)
        self.asked: list[float] = []

    def build_model(self, point: Point) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def example_batch(self, point: Point, batch_size: int) -> Batch:
        return {"x": torch.ones(batch_size, 1)}

    def loss(self, point: Point, model: nn.Module, batch: Batch) -> Tensor:
        return -model(batch["x"]).mean()

    def open_data(self, point: Point) -> TrainData:
        return SimpleNamespace(num_samples=4, batch=lambda draws: self.example_batch(point, len(draws)))

    def validate(self, point: Point, model: nn.Module, context: Context) -> Mapping[str, float]:
        self.asked.append(float(model(torch.ones(1, 1))))
        return {"other": -1.0, "score": self.scores[len(self.asked) - 1]}

    def evaluate(self, point: Point, model: nn.Module, context: Context) -> Outcome:
        return Outcome(metrics={"weight": model(torch.ones(1, 1)).item()})


def trained(
    folder: Path, scores: Sequence[float], *, steps: int = 6, direction: str = "min", **train: Any
) -> tuple[float, Scripted]:
    """Weight that is evaluated after training with these validation scores every second step."""
    from harness.context import RunContext
    from harness.leave import LeaveFlag
    from harness.meter import Meter
    from harness.trainer import fit
    from results.runfolder import RunFolder

    run = RunFolder(folder)
    config = ExperimentConfig(
        system="scripted", variant="v", size="1", scale="tiny", engine=EngineConfig(name="torch"),
        train=TrainConfig(steps=steps, lr=1.0, betas=[0.0, 0.0], global_batch=1, micro_batch=1, validate_every=2,
                          timing_warmup_steps=0, select_metric="score", **train),
    )  # fmt: skip
    specs = {"score": MetricSpec("score", "1", Direction(direction), "score")}
    experiment: Any = SimpleNamespace(config=config, catalogue=SimpleNamespace(metric_specs=specs))
    system = Scripted(scores)
    point = Point(variant="v", size="1", scale="tiny", seed=0, model=None, data=None)
    context = RunContext(experiment, ONE, Meter(ONE.device), run, run.claim_attempt(), LeaveFlag())
    model = fit(context, system, point, system.open_data(point))
    return system.evaluate(point, model, context).metrics["weight"], system


@pytest.mark.parametrize(
    ("select", "scores", "steps_of_weight"),
    [
        ("last", [1.0, 0.2, 0.5], 6),
        ("best", [1.0, 0.2, 0.5], 4),
        ("best", [0.1, 0.2, 0.5], 2),
        ("best", [1.0, 0.2, 0.2], 4),  # equal is not better
        ("best", [float("nan"), 0.7, float("nan")], 4),
        ("best", [3.0, 2.0, 1.0], 6),
    ],
)
def test_the_weights_that_were_selected_are_evaluated(
    select: str, scores: list[float], steps_of_weight: int, tmp_path: Path
) -> None:
    """Adam without memory (both betas 0) moves a weight of constant gradient by exactly the rate (up to epsilon) each step."""
    weight, system = trained(tmp_path, scores, select=select)
    assert weight == pytest.approx(steps_of_weight, rel=1e-6)
    assert system.asked == pytest.approx([2, 4, 6], rel=1e-6)


def test_where_more_is_better_the_highest_score_is_the_best(tmp_path: Path) -> None:
    assert trained(tmp_path, [1.0, 3.0, 2.0], select="best", direction="max")[0] == pytest.approx(4, rel=1e-6)


def test_a_score_of_zero_is_a_score(tmp_path: Path) -> None:
    assert trained(tmp_path, [1.0, 0.0, 2.0], select="best")[0] == pytest.approx(4, rel=1e-6)


def test_the_best_is_remembered_over_a_resume(tmp_path: Path) -> None:
    trained(tmp_path, [0.2, 0.9, 0.8], select="best", checkpoint_every=6)
    weight, system = trained(tmp_path, [0.5, 0.3], steps=10, select="best")
    assert system.asked == pytest.approx([8, 10], rel=1e-6)  # it went on after step 6
    assert weight == pytest.approx(2, rel=1e-6)  # 0.2 after step 2 of the first attempt is still the best
