"""Sweeps on sites with GPUs, little memory, short limits: planned for where they run, refused before anything is submitted."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from results.store import read_json
from tests.launchers.fake_slurm import FakeSlurm
from tests.slurm.support import sweep_study
from tests.support import Workplace

GPU = {"nodes": 4, "cores_per_node": 64, "memory_gib_per_node": 256.0, "gpus_per_node": 4, "gpu_type": "nvidia_a100_80gb"}
CPU = {"nodes": 8, "cores_per_node": 8, "memory_gib_per_node": 32.0}
WORDS = ("system=faulty", "scale=tiny", "tracker=none", "launcher=slurm", "site=ridge")
PAIR = ("engine=zero1", "ranks=2")


@pytest.fixture
def site(workplace: Workplace, scheduler: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the profile of site ``ridge``; keywords are its keys. The scheduler is one without machines."""
    folder = workplace.path / "config"
    (folder / "site").mkdir(parents=True)
    monkeypatch.setenv("TENFOLD_CONFIG", str(folder))

    def write(**keys: Any) -> None:
        plain = {"name": "ridge", "scheduler": "slurm", "partition": "gpu", "partitions": {"gpu": GPU, "cpu": CPU}, **keys}
        (folder / "site" / "ridge.yaml").write_text(yaml.safe_dump(plain))

    write()
    return write


def flags(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))


def plan(workplace: Workplace) -> dict[str, Any]:
    (folder,) = workplace.runs()
    found: dict[str, Any] = read_json(folder.plan_file)
    return found


# GPUs ----------------------------------------------------------------------------------------------------------------


def test_a_sweep_for_gpus_is_planned_for_their_type_and_not_for_this_machine(
    workplace: Workplace, site: Any, scheduler: FakeSlurm
) -> None:
    """Typed where there is no GPU. The host's memory follows a rule: four GiB a rank, and what it holds there."""
    workplace.json("sweep", *WORDS, *PAIR)
    asked = scheduler.jobs["101"]["flags"]
    assert (asked["gres"], asked["ntasks"], asked["nodes"], asked["mem"]) == ("gpu:2", "2", "1", f"{int(8.5 * 1024)}M")
    found = plan(workplace)
    assert (found["device"], found["fits"]) == ("A100-80G", True)
    assert found["base_bytes"] == 16 << 20  # what cuBLAS holds of an A100
    assert found["bytes_per_rank"] - found["base_bytes"] < 2**20  # of the device: a handful of parameters
    assert 4 * 2**30 < found["host_bytes_per_rank"] < 4.01 * 2**30
    assert any("4 GiB taken for the process and CUDA" in note for note in found["notes"])
    assert found["step_s"] > 0
    assert any("from data sheets" in note for note in found["notes"])


def test_what_is_offloaded_is_asked_for_of_the_host(workplace: Workplace, site: Any) -> None:
    held = {}
    for engine in ("zero3", "zero3_offload"):
        words = ("plan", *WORDS, f"engine={engine}", "ranks=2", "size=2k")
        held[engine] = workplace.json(*words)["host_bytes_per_rank"] - 4 * 2**30
    assert held["zero3_offload"] == 2 * held["zero3"] > 0


@pytest.mark.parametrize(
    ("words", "keys", "device", "gres"),
    [
        (("device=cpu",), {}, "cpu", None),
        (("site.partition=cpu",), {}, "cpu", None),
        ((), {"partitions": {"gpu": {**GPU, "gpu_type": "tpu"}}}, "cuda", "gpu:2"),  # nothing is known of it
        ((), {"gpu_type": "h100"}, "H100-80G", "gpu:h100:2"),  # of several types this is the one asked for
        (("device=cuda",), {"partitions": {}}, "cuda", "gpu:2"),
    ],
)
def test_where_a_run_is_planned_for(
    words: tuple[str, ...], keys: dict[str, Any], device: str, gres: str | None, workplace: Workplace, site: Any,
    scheduler: FakeSlurm,
) -> None:  # fmt: skip
    site(**keys)
    workplace.json("sweep", *WORDS, *PAIR, *words)
    assert plan(workplace)["device"] == device
    assert scheduler.jobs["101"]["flags"].get("gres") == gres


def test_a_plan_follows_its_run_to_another_kind_of_device(workplace: Workplace, site: Any, scheduler: FakeSlurm) -> None:
    scheduler.behave("refuse")
    workplace.tenfold("sweep", *WORDS, *PAIR, "site.partition=cpu", expect=1)
    assert plan(workplace)["device"] == "cpu"
    workplace.json("sweep", *WORDS, *PAIR)
    assert plan(workplace)["device"] == "A100-80G"


# What does not fit ---------------------------------------------------------------------------------------------------


def test_nodes_follow_from_memory_too(workplace: Workplace, site: Any, scheduler: FakeSlurm) -> None:
    """Of a node's eight GiB, 7.6 may be used: one rank of more than four."""
    site(partitions={"gpu": {**GPU, "memory_gib_per_node": 8.0}})
    workplace.json("sweep", *WORDS, *PAIR)
    asked = scheduler.jobs["101"]["flags"]
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gres"], asked["mem"]) == ("2", "1", "gpu:1", "4608M")


@pytest.mark.parametrize(
    ("words", "keys", "reason"),
    [
        ((), {"partitions": {"gpu": {**GPU, "memory_gib_per_node": 4.0}}}, "a rank needs 4.0 GiB, 3.8 of a node may be used"),
        (("launcher.time_limit_s=7200",), {"partitions": {"gpu": {**GPU, "max_time_s": 3600.0}}}, "the limit is 1.00 h"),
        (("launcher.nodes=2",), {"partitions": {"gpu": {**GPU, "nodes": 1}}}, "needs 2 nodes of 1 ranks, there are 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    words: tuple[str, ...], keys: dict[str, Any], reason: str, workplace: Workplace, site: Any, scheduler: FakeSlurm
) -> None:
    site(**keys)
    said = workplace.tenfold("sweep", *WORDS, *PAIR, *words, expect=None)
    assert said.returncode != 0
    assert f"does not fit partition 'gpu': {reason}" in said.stderr or (
        reason in said.stderr and "partition 'gpu'" in said.stderr
    )
    assert "site.partition=NAME" in said.stderr
    assert scheduler.calls("sbatch") == []
    assert workplace.runs() == []  # and nothing is frozen


def test_a_later_stage_that_does_not_fit_keeps_the_first_from_being_submitted(
    workplace: Workplace, site: Any, scheduler: FakeSlurm
) -> None:
    site(partitions={"gpu": {**GPU, "nodes": 1}})
    two = (
        "common: [system=faulty, scale=tiny, variant=healthy, engine=zero1, tracker=none]\nstages:\n"
        "  - {name: small, points: [[ranks=1]]}\n  - {name: large, points: [[ranks=8]]}\n"
    )
    said = sweep_study(workplace, "two", two, "site=ridge", expect=1).stderr
    assert "needs 2 nodes of 4 ranks, there are 1" in said
    assert scheduler.calls("sbatch") == []


# What a site takes away ----------------------------------------------------------------------------------------------


def test_a_dry_run_shows_and_any_other_look_submits_again(workplace: Workplace, site: Any, scheduler: FakeSlurm) -> None:
    """The site cancels what it preempts."""
    workplace.json("sweep", *WORDS, *PAIR)
    scheduler.set("101", state="PREEMPTED", nodes="n1")
    workplace.tenfold("sweep", *WORDS, *PAIR, "--dry-run")
    assert list(scheduler.jobs) == ["101"]
    (row,) = workplace.json("status")
    assert (row["status"], row["detail"]) == ("queued", "job 102 pending: was just submitted again")
    assert workplace.json("sweep", *WORDS, *PAIR)["jobs"] == []
    (row,) = workplace.json("status")
    assert (row["status"], row["detail"]) == ("queued", "job 102 pending: others come first (Priority)")
    assert list(scheduler.jobs) == ["101", "102"]


# The self-test -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"--gres=gpu:1", "--partition=gpu"}),
        ({"gpu_flag": "gpus-per-node", "gpu_type": "a100"}, {"--gpus-per-node=a100:1", "--partition=gpu"}),
        ({"account": "abc", "sbatch": {"nice": "100", "contiguous": ""}}, {"--account=abc", "--nice=100", "--contiguous"}),
    ],
)
def test_the_self_test_asks_for_nodes_as_a_sweep_does(
    keys: dict[str, Any], expected: set[str], workplace: Workplace, site: Any, scheduler: FakeSlurm, tmp_path: Path
) -> None:
    """``doctor --all-reduce``: two ranks on two nodes. There is nobody to start them; what srun was asked for counts."""
    site(**keys)
    srun = scheduler.folder / "bin" / "srun"
    srun.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/../srun.txt"\nexit 1\n')
    workplace.tenfold("doctor", "--all-reduce", "ranks=2", "launcher=slurm", "site=ridge", "launcher.nodes=2", expect=None)
    words = set((scheduler.folder / "srun.txt").read_text().split())
    assert words >= expected | {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--time=5"}
    assert len([word for word in words if word.startswith(("--gres", "--gpus"))]) == 1
    assert os.environ["PATH"].startswith(str(srun.parent))
