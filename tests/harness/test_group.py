"""Ranks find each other by the launcher's variables or not at all: an error, never several trainings that look like one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.compose import Composer
from harness.group import VARIABLES, _gpu_of, join
from launchers.environment import free_port, rank_environment
from launchers.request import RunRequest
from results.errors import RunError
from results.runfolder import RunFolder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rendezvous variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A frozen experiment that asks for two ranks."""
    monkeypatch.chdir(tmp_path)
    with Composer() as composer:
        return composer.compose(["scale=tiny", "engine=zero1", "ranks=2"]).freeze()


def worker(folder: RunFolder, **variables: str) -> subprocess.CompletedProcess[str]:
    """One rank as somebody would start it by hand, or with a launcher that sets other variables."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", "harness.worker", str(folder.path.resolve())],
        cwd=folder.path.parent.parent, capture_output=True, text=True, timeout=120,
        env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "reason", "next_step"),
    [
        ({}, "without RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: it would train alone", "tenfold run"),
        (
            {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "the world has 3 ranks and the experiment asks for 2",
            "ranks=3",
        ),
    ],
    ids=["no variables", "another world"],
)
def test_a_worker_in_the_wrong_world_fails_and_trains_nothing(
    variables: dict[str, str], reason: str, next_step: str, pair: RunFolder
) -> None:
    done = worker(pair, **variables)
    assert done.returncode == 1
    (attempt,) = pair.attempts()
    failure = attempt.failure()
    assert failure is not None
    assert (failure["class"], failure["rank"]) == ("crash", 0)
    assert reason in failure["reason"]
    assert next_step in failure["next_step"]
    assert reason in attempt.log(0).read_text()
    assert not attempt.completed
    assert not list((attempt.path / "steps").iterdir())
    record = pair.read_record()
    assert record is not None
    assert record["status"] == "failed"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("missing", VARIABLES)
def test_every_missing_variable_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        if name != missing:
            monkeypatch.setenv(name, "0")
    with pytest.raises(RunError, match=f"without {missing}: ") as caught:
        join(expected_world=2)
    assert caught.value.where == "environment"


def test_a_larger_world_is_refused_by_a_single_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RunError, match="the world has 4 ranks and the experiment asks for 1"):
        join(expected_world=1)


@pytest.mark.usefixtures("alone")
def test_a_world_of_one_needs_nothing_and_joins_nothing() -> None:
    group = join(expected_world=1, device="cpu")
    assert (group.rank, group.world, group.local_rank, group.joined) == (0, 1, 0, False)
    values = np.array([1.0, 2.0])
    assert group.all_gather(values) is values
    assert group.broadcast("x") == "x"
    group.barrier()
    group.leave()


@pytest.mark.usefixtures("alone")
def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="no CUDA device"):
        join(expected_world=1, device="cuda")
    assert join(expected_world=1, device="auto").device.type == "cpu"


TALK = """
import json, sys
import numpy as np
from harness.communication import CommunicationClock
from harness.group import join
clock = CommunicationClock()
clock.install()
group = join(expected_world=2, device="cpu", timeout_s=60)
said = {
    "rank": group.rank,
    "world": group.world,
    "gathered": group.all_gather(np.full((1, 2), group.rank + 0.5)).tolist(),
    "broadcast": group.broadcast({"from": group.rank}),
}
group.barrier()
said["timed"] = clock.seconds > 0
group.leave()
print(json.dumps(said))
"""


@pytest.mark.distributed
def test_two_ranks_agree(tmp_path: Path) -> None:
    request, port = RunRequest(folder=tmp_path, ranks=2, environment={"PYTHONPATH": str(ROOT)}), free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TALK], env=rank_environment(request, rank, port), stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    for rank, words in enumerate(said):
        assert words == {
            "rank": rank, "world": 2, "gathered": [[0.5, 0.5], [1.5, 1.5]], "broadcast": {"from": 0},
            "timed": True,
        }  # fmt: skip


def test_ranks_of_a_node_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [_gpu_of(rank, 2) for rank in (0, 1)] == [0, 1]
    with pytest.raises(RunError, match="2 ranks of this node see 1 GPU: ranks cannot share one") as error:
        _gpu_of(1, 1)
    assert error.value.next_step == "tenfold run ranks=1 ..., or device=cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # a scheduler shows every rank its own
    assert _gpu_of(1, 1) == 0
    with pytest.raises(RunError, match="3 ranks of this node see 2 GPUs"):
        _gpu_of(2, 2)
