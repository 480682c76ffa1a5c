"""Choosing with plans: totals of a study, the best layout, partitions of a site, remarks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import main
from harness.compose import Composer
from harness.experiment import Experiment
from harness.planning import machine as profiles
from harness.planning.partitions import judge
from harness.planning.search import Objective, micro_batches, search
from harness.planning.totals import Task, makespan_s
from launchers.site import PartitionProfile, SiteProfile
from results.errors import ConfigError, PlanError
from results.store import write_json
from tests.harness.test_planning import ENGINE, PROFILE

GIB = 2**30


@pytest.fixture
def profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose profile is known."""
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    profiles._file("probes").parent.mkdir(parents=True)
    write_json(profiles._file("probes"), PROFILE)
    write_json(profiles._file("links"), {"latency_s": 1e-4, "bytes_per_s": 1e9})
    for engine in ("torch", "zero0", "zero1", "zero2", "zero3", "zero3_offload"):
        for ranks in (1, 2):
            write_json(profiles._file(f"engine-{engine}-{ranks}"), ENGINE)


def experiment(*words: str) -> Experiment:
    with Composer() as composer:
        return composer.compose(["scale=tiny", "device=cpu", *words])


# Totals ---------------------------------------------------------------------------------------------------------------------


def task(seconds: float, *, cores: int = 1, stage: str = "a", exclusive: bool = False, memory: float = 0.0) -> Task:
    return Task(stage=stage, exclusive=exclusive, seconds=seconds, cores=cores, memory_gib=memory)


def test_wall_time_of_a_queue_by_hand() -> None:
    """5 and 4 start, 3 follows the 4, 2 follows the 5: done at 7."""
    tasks = [task(seconds) for seconds in (2, 5, 3, 4)]
    assert makespan_s(tasks, max_parallel=2, cores=2) == 7
    assert makespan_s(tasks, max_parallel=1, cores=2) == 14
    assert makespan_s(tasks, max_parallel=4, cores=4) == 5
    assert makespan_s(tasks, max_parallel=4, cores=2) == 7
    assert makespan_s([task(3, memory=6), task(3, memory=6)], max_parallel=2, cores=2, memory_gib=10) == 6


def test_stages_wait_for_each_other_and_an_exclusive_run_is_alone() -> None:
    assert makespan_s([task(5), task(1), task(2, stage="b")], max_parallel=2, cores=2) == 7
    assert makespan_s([task(1, exclusive=True), task(2, exclusive=True)], max_parallel=2, cores=2) == 3
    assert makespan_s([task(3, cores=8)], max_parallel=2, cores=2) == 3  # wants more than there is: by itself


@given(
    seconds=st.lists(st.integers(1, 100), min_size=1, max_size=20),
    max_parallel=st.integers(1, 5),
    cores=st.integers(1, 5),
)
def test_wall_time_lies_between_its_bounds(seconds: list[int], max_parallel: int, cores: int) -> None:
    """No less than the longest run and the work divided by the places; no more than Graham's bound for list scheduling."""
    places = min(max_parallel, cores)
    found = makespan_s([task(number) for number in seconds], max_parallel=max_parallel, cores=cores)
    least = max(max(seconds), sum(seconds) / places)
    assert least - 1e-9 <= found <= sum(seconds) / places + max(seconds) * (1 - 1 / places) + 1e-9


@pytest.mark.usefixtures("profiled")
def test_a_study_is_planned_with_its_totals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "pair.yaml").write_text(
        "common: [system=dlwp, scale=tiny, device=cpu]\nstages:\n  - {points: [['variant=fno2d', 'seed=0,1']]}\n"
    )
    words = ["plan", "study=pair", "--config-dir", str(tmp_path)]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert main([*words, "--totals", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    hours = (rows[0]["train_s"] + 6) / 3600
    assert totals["rank_hours"] == totals["core_hours"] == pytest.approx(2 * hours)
    assert totals["storage_bytes"] == 2 * rows[0]["storage_bytes"] > 0
    # 12 bytes of checkpoint per parameter, 300 per step.
    assert rows[0]["storage_bytes"] == 12 * rows[0]["params"] + 300 * rows[0]["steps"] + 300_000
    side_by_side = min(totals["max_parallel"], len(os.sched_getaffinity(0)))
    assert totals["wall_s"] == pytest.approx(3600 * hours * (2 / min(side_by_side, 2)))
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "core-hours" in shown.out
    assert "runs side by side share the memory's bandwidth" in shown.out
    assert shown.err == ""


def test_a_study_planned_for_gpus_counts_their_hours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "pair.yaml").write_text(
        "common: [system=dlwp, scale=tiny]\nstages:\n  - {points: [['variant=fno2d', 'seed=0,1']]}\n"
    )
    words = ["plan", "study=pair", "--gpu", "A100-80G", "--config-dir", str(tmp_path)]
    assert main([*words, "--totals", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    assert totals["gpu_hours"] == totals["rank_hours"] > 0
    assert totals["wall_s"] is None
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "GPU-hours" in shown
    assert "here at" not in shown
    assert shown.count("host memory of a rank") == 1


@pytest.mark.usefixtures("profiled")
def test_long_planning_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.display._PLANNING_EVERY_S", 0.0)
    words = ["variant=fno2d,unet", "seed=0,1", "scale=tiny", "device=cpu", f"paths.runs={tmp_path}"]
    assert main(["plan", *words, "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [f"planned {done} of 4 runs" for done in (1, 2, 3)]
    assert len(json.loads(shown.out)) == 4


# Layouts --------------------------------------------------------------------------------------------------------------------


@given(global_batch=st.integers(1, 200), ranks=st.integers(1, 16))
def test_micro_batches_cut_the_share_of_a_rank(global_batch: int, ranks: int) -> None:
    found = micro_batches(global_batch, ranks)
    assert all(global_batch % (ranks * size) == 0 for size in found)
    assert bool(found) == (global_batch % ranks == 0)
    assert not found or (found[0] == global_batch // ranks and found[-1] == 1)


@pytest.mark.usefixtures("profiled")
def test_the_best_layout_comes_first_and_the_impossible_last() -> None:
    found = search(experiment(), ranks=(1, 2, 3), engines=("torch", "zero3"))
    assert {(c.engine, c.ranks, c.micro_batch) for c in found if c.possible} == {
        ("torch", 1, 4), ("torch", 1, 2), ("torch", 1, 1), ("zero3", 1, 4), ("zero3", 1, 2), ("zero3", 1, 1), ("zero3", 2, 2),
        ("zero3", 2, 1),
    }  # fmt: skip
    assert [c.possible for c in found] == sorted((c.possible for c in found), reverse=True)
    times = [c.plan.train_s for c in found if c.possible]  # type: ignore[union-attr]
    assert times == sorted(times)  # type: ignore[type-var]
    assert "cannot be cut into micro-batches of 1 on 3 ranks" in found[-1].reason
    cheapest = search(experiment(), ranks=(1, 2), engines=("zero3",), objective=Objective.HOURS)
    assert cheapest[0].ranks == 1
    hours = [c.rank_hours for c in cheapest]
    assert hours == sorted(hours)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="zero9"):
        search(experiment(), ranks=(1,), engines=("zero9",))


@pytest.mark.usefixtures("profiled")
def test_what_does_not_fit_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.planning.machine.memory_gib", lambda: 0.3)
    found = search(experiment(), ranks=(1, 2), engines=("zero3",))
    assert {c.ranks for c in found if c.possible} == {1}
    assert all("needs 0.5 GiB and this machine has 0.3" in c.reason for c in found if not c.possible)


@pytest.mark.usefixtures("profiled")
def test_searching_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "scale=tiny", "device=cpu", "--search", "engine=torch,zero1", "ranks=1,2", "train.micro_batch=2"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(c["engine"], c["ranks"], c["micro_batch"]) for c in found} == {("torch", 1, 2), ("zero1", 1, 2), ("zero1", 2, 2)}
    assert all(c["train_s"] > 0 and c["bytes_per_rank"] > 0 for c in found)
    assert main(words) == 0
    best = found[0]
    assert f"best: engine={best['engine']} ranks={best['ranks']} train.micro_batch=2" in capsys.readouterr().out
    assert main([*words[:-2], "ranks=two"]) == 2
    assert "ranks takes whole numbers" in capsys.readouterr().err


# Partitions -----------------------------------------------------------------------------------------------------------------


def partition(**changes: Any) -> PartitionProfile:
    return PartitionProfile(**{"nodes": 4, "cores_per_node": 8, "memory_gib_per_node": 16.0, **changes})


def verdict(subject: Experiment, **changes: Any) -> Any:
    return judge(subject, SiteProfile(name="here", partitions={"p": partition(**changes)}))[0]


@pytest.mark.usefixtures("profiled")
def test_nodes_follow_from_cores_and_memory() -> None:
    """A rank needs 0.25 GiB; 95 % of a node's memory may be used."""
    subject = experiment("engine=zero1", "ranks=4", "launcher.cores_per_rank=2")
    assert (verdict(subject).nodes, verdict(subject).ranks_per_node) == (1, 4)
    assert verdict(subject, cores_per_node=4).nodes == 2
    found = verdict(subject, memory_gib_per_node=0.3)
    assert (found.possible, found.nodes, found.ranks_per_node) == (True, 4, 1)
    assert found.memory_gib_per_node == pytest.approx(0.25, rel=0.05)
    assert verdict(subject, memory_gib_per_node=0.3, nodes=3).reasons == ["needs 4 nodes of 1 ranks, there are 3"]
    assert "a rank needs 0.3 GiB, 0.1 of a node may be used" in verdict(subject, memory_gib_per_node=0.1).reasons
    assert "a rank wants 2 cores, a node has 1" in verdict(subject, cores_per_node=1).reasons


@pytest.mark.usefixtures("profiled")
def test_a_limit_shorter_than_the_run_needs_checkpoints() -> None:
    subject = experiment("train.steps=100000")
    refused = verdict(subject, max_time_s=60.0)
    assert not refused.possible
    assert "train.checkpoint_every=STEPS" in refused.reasons[0]
    resumed = verdict(experiment("train.steps=100000", "train.checkpoint_every=100"), max_time_s=60.0)
    assert resumed.possible
    assert "attempts, each resuming a checkpoint" in resumed.notes[0]
    assert verdict(subject, max_time_s=None).possible


@pytest.mark.usefixtures("profiled")
def test_gpu_partitions_are_judged_by_their_gpus() -> None:
    with Composer() as composer:
        subject = composer.compose(["scale=tiny", "device=cuda", "engine=zero1", "ranks=4"])
    assert verdict(subject).reasons == ["device=cuda, and its nodes have no GPUs"]
    found = verdict(subject, gpus_per_node=2, gpu_type="nvidia_a100_80gb", memory_gib_per_node=64.0)
    assert (found.possible, found.nodes, found.ranks_per_node) == (True, 2, 2)
    assert 0 < found.device_gib < 0.1
    assert found.planned_s > 0
    unknown = verdict(subject, gpus_per_node=4, gpu_type="tpu")
    assert unknown.possible
    assert "no facts are known of GPU type 'tpu'" in unknown.notes[0]


@pytest.mark.usefixtures("profiled")
def test_partitions_that_can_run_it_come_first() -> None:
    small = partition(memory_gib_per_node=0.1)
    site = SiteProfile(name="here", partitions={"small": small, "large": partition(preemptible=True)})
    found = judge(experiment(), site)
    assert [(v.partition, v.possible) for v in found] == [("large", True), ("small", False)]
    assert "jobs here may be preempted" in found[0].notes
    with pytest.raises(PlanError, match="names no partitions") as caught:
        judge(experiment(), SiteProfile(name="bare"))
    assert caught.value.next_step.startswith("tenfold doctor --site")


@pytest.mark.usefixtures("profiled")
def test_judging_a_site_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TENFOLD_CONFIG", str(tmp_path))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.yaml").write_text(
        "name: mine\nscheduler: slurm\npartitions:\n  cpu: {nodes: 2, cores_per_node: 4, memory_gib_per_node: 8}\n"
        "  tight: {nodes: 1, cores_per_node: 4, memory_gib_per_node: 0.1}\n"
    )
    words = ["plan", "scale=tiny", "device=cpu", "--site", "mine"]
    assert main([*words, "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert [(v["partition"], v["possible"]) for v in judged[0]["partitions"]] == [("cpu", True), ("tight", False)]
    assert main(words) == 0
    assert "site mine: 1 of 1 runs have a partition" in capsys.readouterr().out


@pytest.mark.usefixtures("profiled")
def test_an_engine_that_was_not_measured_is_planned_by_another_and_says_so() -> None:
    from harness.planning.plan import make_plan

    for name in ("zero3-1", "zero3_offload-1", "zero3_offload-2"):
        profiles._file(f"engine-{name}").unlink()
    for words, other in ((["engine=zero3"], "zero3 on 2 ranks"), (["engine=zero3_offload", "ranks=2"], "zero3 on 2 ranks")):
        plan = make_plan(experiment(*words))
        assert plan.step_s is not None
        assert any(f"are those of {other}" in note for note in plan.notes)
    assert profiles.stand_in("zero3", 2) is profiles.stand_in("torch", 1) is None
    profiles._file("engine-zero3-2").unlink()
    assert profiles.stand_in("zero3", 1) is None
    assert make_plan(experiment("engine=zero3")).step_s is None


@pytest.mark.usefixtures("profiled")
def test_a_profile_that_was_measured_in_company_is_said_to_be() -> None:
    from harness.planning.plan import make_plan

    for load, said in ((0.4, False), (6.0, True)):
        write_json(profiles._file("probes"), PROFILE | {"load_1m": load})
        assert any("while others computed" in note for note in make_plan(experiment()).notes) is said


# Remarks --------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("profiled")
@pytest.mark.parametrize(
    ("words", "remark"),
    [
        (["precision=bf16"], "bf16 on a CPU"),
        (["engine=zero3_offload"], "on a CPU offload moves nothing"),
        (["engine=zero2"], "on one rank shards nothing"),
        (["engine=zero1", "ranks=16", "train.global_batch=16"], "16 ranks share 8 training samples"),
        (["train.global_batch=16"], "a global batch of 16 repeats samples: there are 8"),
        (["launcher.cores_per_rank=1000"], "oversubscribed"),
    ],
)
def test_what_will_not_do_what_it_seems_to_is_said(words: list[str], remark: str) -> None:
    from harness.planning.plan import make_plan

    assert any(remark in note for note in make_plan(experiment(*words)).notes)
    assert not any(remark in note for note in make_plan(experiment()).notes)
