"""From requests to submissions: every run once, arrays that fit the cluster, throttles that keep the site's limit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.layout import Layout
from launchers.request import RunRequest
from launchers.retrying import RetryRule
from launchers.site import PartitionProfile, SiteProfile
from launchers.slurm.grouping import Prepared, Wish, prepare
from launchers.slurm.ledger import Submission, comment_for, token_of
from launchers.slurm.script import Allocation, allocation_for

SITE = SiteProfile(name="ridge", scheduler="slurm", partition="batch", python="/opt/python")
WISH = Wish(study="scaling", command="tenfold sweep study=scaling", label="dlwp-small-scaling", site=SITE)
RUNS = Path("/scratch/runs")


def requests_of(*shapes: dict[str, Any]) -> list[RunRequest]:
    return [RunRequest(folder=RUNS / f"run-{number:04d}", **shape) for number, shape in enumerate(shapes)]


def names(prepared: list[Prepared]) -> list[str]:
    return [run.name for one in prepared for task in one.submission.tasks for run in task]


def array(one: Prepared) -> tuple[int, int] | None:
    """Largest index and throttle, as the script says."""
    found = re.search(r"^#SBATCH --array=0-(\d+)%(\d+)$", one.script, re.MULTILINE)
    return None if found is None else (int(found.group(1)), int(found.group(2)))


SHAPES = st.fixed_dictionaries(
    {
        "ranks": st.sampled_from([1, 2, 4]),
        "memory_gib": st.sampled_from([0.0, 1.0, 1.1, 6.0]),
        "time_limit_s": st.sampled_from([None, 600.0]),
        "exclusive": st.booleans(),
    }
)


@given(
    shapes=st.lists(SHAPES, min_size=1, max_size=40),
    limit=st.integers(1, 9),
    throttle=st.none() | st.integers(1, 30),
    pack=st.integers(1, 5),
    parallel=st.integers(1, 5),
)
def test_whatever_is_asked_for(shapes: list[dict[str, Any]], limit: int, throttle: int | None, pack: int, parallel: int) -> None:
    asked = requests_of(*shapes)
    wish = replace(WISH, site=replace(SITE, array_throttle=throttle), pack=pack, parallel=parallel)
    prepared = prepare(asked, wish, max_array_size=limit)
    assert Counter(names(prepared)) == Counter(request.name for request in asked)  # every run exactly once
    by_name = {request.name: request for request in asked}
    for one in prepared:
        tasks = one.submission.tasks
        assert all(1 <= len(task) <= pack for task in tasks)
        assert one.submission.array == (len(tasks) > 1)
        if one.submission.array:
            assert array(one) is not None
            assert array(one)[0] == len(tasks) - 1 < limit  # type: ignore[index]
        else:
            assert array(one) is None
        members = [allocation_for(by_name[name], wish.site) for name in names([one])]
        assert len(set(members)) == 1  # only equal needs share an array
        together = min(parallel, max(len(task) for task in tasks))
        need = one.batch.allocation
        assert need.ranks == members[0].ranks * together
        assert need.memory_gib == (None if members[0].memory_gib is None else members[0].memory_gib * together)
        assert one.submission.one_at_a_time == (parallel == 1)
    assert len({one.submission.token for one in prepared}) == len(prepared)
    arrays = [array(one) for one in prepared]
    if throttle is not None:
        running = sum(1 if found is None else found[1] for found in arrays)
        assert running <= max(throttle, len(prepared))  # one each, even where the site allows fewer
    else:
        assert all(found is None or found[1] == found[0] + 1 for found in arrays)


@given(sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=8), throttle=st.integers(1, 100))
def test_the_throttle_is_divided_by_size(sizes: list[int], throttle: int) -> None:
    from launchers.slurm.grouping import _throttles

    found = _throttles(sizes, replace(WISH, site=replace(SITE, array_throttle=throttle)))
    given_out = [share for share in found if share is not None]
    assert len(given_out) == len(sizes)
    assert min(given_out) >= 1
    assert sum(given_out) <= max(throttle, len(sizes))
    larger = sorted(zip(sizes, given_out, strict=True))
    assert [share for _, share in larger] == sorted(share for _, share in larger)


def test_2500_points_are_three_arrays() -> None:
    asked = requests_of(*([{"ranks": 2}] * 2500))
    wish = replace(WISH, site=replace(SITE, array_throttle=100))
    prepared = prepare(asked, wish, max_array_size=1001)
    assert [array(one) for one in prepared] == [(1000, 39), (1000, 39), (497, 20)]
    assert names(prepared) == [request.name for request in asked]
    assert len(prepare(asked, wish)) == 3  # 1001 is Slurm's own default
    assert len(prepare(asked, replace(wish, site=replace(SITE, max_array_size=2500)))) == 1


def test_a_cluster_without_arrays_gets_single_jobs() -> None:
    """MaxArraySize 0 switches arrays off; 1 allows index 0 alone."""
    for limit in (0, 1):
        prepared = prepare(requests_of({}, {}, {}), WISH, max_array_size=limit)
        assert [array(one) for one in prepared] == [None, None, None]
        assert [one.batch.name for one in prepared] == ["run-0000", "run-0001", "run-0002"]


def test_nothing_to_submit() -> None:
    assert prepare([], WISH) == []


def test_runs_that_differ_by_less_than_a_step_of_memory_share_an_array() -> None:
    needs = ({"memory_gib": 1.0}, {"memory_gib": 1.2}, {"memory_gib": 1.3})
    assert [len(one.submission.tasks) for one in prepare(requests_of(*needs), WISH)] == [2, 1]


def test_a_run_that_stays_away_from_a_node_has_a_job_of_its_own(tmp_path: Path) -> None:
    asked = [RunRequest(folder=tmp_path / name) for name in ("a", "b")]
    for request in asked:
        request.folder.mkdir()
    Layout(exclude_nodes=("n3", "n1")).write(asked[1].folder)
    prepared = prepare(asked, WISH)
    assert [names([one]) for one in prepared] == [["a"], ["b"]]
    assert "#SBATCH --exclude=n3,n1\n" in prepared[1].script
    assert "--exclude" not in prepared[0].script


def test_packed_runs_share_an_allocation() -> None:
    asked = requests_of(*([{"ranks": 2, "memory_gib": 0.5}] * 7))
    (one,) = prepare(asked, replace(WISH, pack=3, parallel=2))
    assert [len(task) for task in one.submission.tasks] == [3, 3, 1]
    assert one.batch.allocation == Allocation(ranks=4, memory_gib=2.0)
    assert array(one) == (2, 3)
    assert not one.submission.one_at_a_time


def test_a_job_of_several_runs_has_time_for_all_of_them() -> None:
    """Five runs of ten minutes, two at a time: three rounds."""
    (one,) = prepare(requests_of(*([{"time_limit_s": 600.0}] * 5)), replace(WISH, pack=5, parallel=2))
    assert one.batch.allocation.time_limit_s == 1800.0


def test_packed_runs_get_as_many_nodes_as_they_need_together() -> None:
    """Four runs of four ranks do not fit one node of eight cores."""
    site = replace(SITE, partitions={"batch": PartitionProfile(cores_per_node=8, gpus_per_node=4)})
    wish = replace(WISH, site=site, pack=4, parallel=4)
    (one,) = prepare(requests_of(*([{"ranks": 4, "memory_gib": 3.0}] * 4)), wish)
    assert one.batch.allocation == Allocation(ranks=16, nodes=2, memory_gib=7.0)  # twice 3.25, and 3.5 is a step
    (one,) = prepare(requests_of(*([{"ranks": 2, "gpus_per_rank": 1}] * 4)), wish)
    assert one.batch.allocation == Allocation(ranks=8, gpus_per_rank=1, nodes=2)
    (one,) = prepare(requests_of(*([{"ranks": 2, "nodes": 2}] * 4)), wish)
    assert one.batch.allocation.nodes == 2  # as each of them asked for


def test_paired_runs_follow_one_another_in_one_allocation_that_all_fit_into() -> None:
    site = replace(SITE, partitions={"batch": PartitionProfile(cores_per_node=4)})
    asked = requests_of(
        {"ranks": 1, "memory_gib": 4.0, "time_limit_s": 600.0}, {"ranks": 8, "memory_gib": 4.0, "time_limit_s": 900.0},
        {"ranks": 4, "memory_gib": 1.0, "time_limit_s": 600.0, "exclusive": True},
    )  # fmt: skip
    (one,) = prepare(asked, replace(WISH, site=site, paired=True))
    assert names([one]) == [request.name for request in asked]  # in the given order
    assert one.submission.tasks == (one.submission.tasks[0],)
    assert one.submission.one_at_a_time
    assert one.batch.allocation == Allocation(ranks=8, nodes=2, memory_gib=4.5, time_limit_s=2100.0, exclusive=True)
    assert array(one) is None
    unknown = prepare([*asked, replace(asked[0], folder=RUNS / "x", memory_gib=0.0)], replace(WISH, site=site, paired=True))
    assert unknown[0].batch.allocation.memory_gib is None  # what one of them needs is not known


def test_what_the_job_reads_later_is_what_was_asked_for(tmp_path: Path) -> None:
    rules = {"timeout": RetryRule("resume", 3)}
    asked = [
        RunRequest(folder=tmp_path / "runs" / "a", ranks=2, cores_per_rank=3, environment={"A": "é"}),
        RunRequest(folder=tmp_path / "runs" / "b", ranks=2, cores_per_rank=3, memory_gib=1.5, exclusive=True, module="m"),
    ]
    site = replace(SITE, partitions={"batch": PartitionProfile(cores_per_node=9, features=["ib"])}, sbatch={"nice": "1"})
    prepared = prepare(asked, replace(WISH, site=site, rules=rules))
    for one in prepared:
        one.submission.write(one.script)
        read = Submission.read(one.submission.folder)
        assert read == one.submission
        assert read.profile == site
        assert read.script.read_text() == one.script
        assert read.retry == {"timeout": {"action": "resume", "times": 3}}
        assert read.runs == tmp_path / "runs"
    (first,) = prepared[0].submission.tasks[0]
    (second,) = prepared[1].submission.tasks[0]
    assert (first.ranks, first.cores_per_rank, dict(first.environment), first.module) == (2, 3, {"A": "é"}, "harness.worker")
    assert (second.memory_gib, second.exclusive, second.module) == (1.5, True, "m")


@given(token=st.from_regex(r"[0-9a-f]{10}", fullmatch=True), study=st.text(max_size=20))
def test_a_comment_leads_back_to_its_token(token: str, study: str) -> None:
    assert token_of(comment_for(token, study)) == token


@given(st.text(max_size=30) | st.text(" \t:", max_size=4).map("tenfold:".__add__))
def test_comments_of_others_are_read_without_harm(comment: str) -> None:
    found = token_of(comment)
    assert found is None or comment.startswith("tenfold:")


@pytest.mark.parametrize("comment", ["", "tenfold:", "tenfold: ", "mine", "Tenfold:0123456789"])
def test_no_token(comment: str) -> None:
    assert token_of(comment) is None
