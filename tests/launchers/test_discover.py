"""Site profiles from recorded answers of Slurm's commands."""

from __future__ import annotations

import dataclasses
import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launchers.discover import discover
from launchers.scontrol_text import Gpus, config, gpus, records
from launchers.site import PartitionProfile, SiteProfile, site_from
from launchers.site_text import site_text
from results.errors import LaunchError
from tests.launchers.scheduler_recorded import GPU, LOOPBACK

GIB = 1024


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(null)", Gpus(0)),
        ("", Gpus(0)),
        ("gpu:4", Gpus(4)),
        ("gpu", Gpus(1)),
        ("gpu:tesla", Gpus(1, (("tesla", 1),))),
        ("gpu:a100:4(S:0-1)", Gpus(4, (("a100", 4),))),
        ("gpu:a100:4(S:0,2),nic:2", Gpus(4, (("a100", 4),))),
        ("gpu:a100:2(IDX:0,1),gpu:v100:6(S:0)", Gpus(8, (("a100", 2), ("v100", 6)))),
        ("gpu:nvidia_h100_80gb_hbm3:8,mps:800", Gpus(8, (("nvidia_h100_80gb_hbm3", 8),))),
        ("gpu:1g.5gb:7", Gpus(7, (("1g.5gb", 7),))),
        ("gpu:no_consume:2", Gpus(2)),
        ("craynetwork:4,shard:8", Gpus(0)),
    ],
)
def test_gpus_of_generic_resources(text: str, expected: Gpus) -> None:
    assert gpus(text) == expected


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z][a-z0-9_.]{0,12}", fullmatch=True), st.integers(1, 64)),
        unique_by=lambda kind: kind[0],
        max_size=4,
    ).filter(lambda kinds: "no_consume" not in dict(kinds)),
    st.sampled_from(["", "(S:0-1)", "(IDX:0,2-3)", "(S:0,1)"]),
)
def test_gpus_are_counted_whatever_stands_beside_them(kinds: list[tuple[str, int]], where: str) -> None:
    text = ",".join(["nic:2(S:0)", *(f"gpu:{name}:{count}{where}" for name, count in kinds), "license:9"])
    assert gpus(text) == Gpus(sum(count for _, count in kinds), tuple(kinds))


def test_records_keep_blanks_and_equal_signs_and_the_first_of_a_key() -> None:
    node = records(GPU.nodes)[4]
    assert node["OS"] == "Linux 5.14.0 #1 SMP PREEMPT_DYNAMIC Tue Jan 2"
    assert node["CfgTRES"] == "cpu=64,mem=515000M,gres/gpu=4"
    assert node["Gres"] == "gpu:a100:4(S:0-1),nic:2"  # not what an administrator wrote into the reason
    assert node["Reason"] == "fan=loud"
    assert records(LOOPBACK.nodes)[0]["AllocTRES"] == ""
    assert len(records(LOOPBACK.nodes)) == 3
    assert config(LOOPBACK.config)["AuthInfo"] == "socket=/cluster/run/munge,cred_expire=5"


def test_the_loopback_cluster_is_recognised_as_one_machine() -> None:
    shape = {"nodes": 3, "cores_per_node": 2, "memory_gib_per_node": round(8035 / GIB, 3)}
    assert discover(LOOPBACK, conf="/cluster/slurm.conf").profile == SiteProfile(
        name="loopback",
        description="Slurm 22.05.8",
        scheduler="slurm",
        partition="main",
        max_array_size=1001,
        array_throttle=len(os.sched_getaffinity(0)),
        poll_s=1.0,
        interface="lo",
        node_address="scheduler",
        slurm_conf="/cluster/slurm.conf",
        shared_machine=True,
        partitions={"main": PartitionProfile(**shape, preemptible=True), "high": PartitionProfile(**shape)},
    )


def test_a_gpu_cluster() -> None:
    found = discover(GPU)
    assert found.profile == SiteProfile(
        name="atlas",
        description="Slurm 23.11.4",
        scheduler="slurm",
        partition="batch",
        wckey="fusion",
        max_array_size=4001,
        max_submit_jobs=50,  # the smallest of the default account's, not the other account's
        partitions={
            "batch": PartitionProfile(
                nodes=4,
                cores_per_node=64,  # 128 hyper-threads
                memory_gib_per_node=round(200000 / GIB, 3),  # what the partition allows, less than what the node has
                max_time_s=None,
                default_time_s=1800.0,
                features=["ib", "nvlink"],
            ),
            "gpu": PartitionProfile(
                nodes=3,
                cores_per_node=64,
                memory_gib_per_node=round((515000 - 3000) / GIB, 3),
                gpus_per_node=4,
                gpu_type="a100",
                max_time_s=2 * 86400.0,
                default_time_s=3600.0,
                preemptible=True,
                features=["ib", "nvlink"],
            ),
        },
    )
    said = "\n".join(line for lines in found.notes.values() for line in lines)
    for words in (
        "gpu also has nodes of other kinds: 1 with 40 cores, 185.547 GiB, 3 x v100",
        "Left out: drained (drain)",
        "Left out: admin (for root only)",
        "Left out: empty (no nodes)",
        "Yours: chem, phys",
        "Jobs pass a plugin of the site (lua)",
    ):
        assert words in said
    assert "hidden" not in said


@pytest.mark.parametrize(
    ("wckey", "expected", "words"),
    [
        ("*fusion", "fusion", "your default"),
        ("fusion", "fusion", "your default"),
        ("", None, "name one here"),
        (None, None, "name one here"),
    ],
)
def test_a_wckey_is_named_where_the_site_enforces_it(wckey: str | None, expected: str | None, words: str) -> None:
    found = discover(dataclasses.replace(GPU, wckey=wckey))
    assert found.profile.wckey == expected
    assert words in found.notes["wckey"][0]
    tracked = dataclasses.replace(GPU, config=GPU.config.replace(",wckeys", ""), wckey=wckey)
    assert discover(tracked).profile.wckey is None


def test_a_site_without_accounting_or_default_partition_says_what_is_not_known() -> None:
    found = discover(
        dataclasses.replace(GPU, associations=None, account=None, partitions=GPU.partitions.replace("Default=YES", "Default=NO"))
    )
    assert (found.profile.max_submit_jobs, found.profile.partition) == (None, None)
    assert "not known" in found.notes["max_submit_jobs"][0]
    assert "# partition: null" in found.text.splitlines()


def test_nodes_that_are_reached_by_other_names() -> None:
    moved = dataclasses.replace(GPU, nodes=GPU.nodes.replace("NodeAddr=g02", "NodeAddr=10.0.0.2"))
    assert discover(moved).profile.node_address == "scheduler"
    assert discover(GPU).profile.node_address == "hostname"


def test_a_partition_of_the_highest_tier_is_not_preemptible() -> None:
    by_tier = dataclasses.replace(
        GPU,
        config=GPU.config.replace("preempt/qos", "preempt/partition_prio"),
        partitions=GPU.partitions.replace("PreemptMode=OFF", "PreemptMode=REQUEUE").replace(
            "PriorityTier=1", "PriorityTier=5", 1
        ),
    )
    found = discover(by_tier).profile.partitions
    assert (found["batch"].preemptible, found["gpu"].preemptible) == (False, True)
    none = dataclasses.replace(GPU, config=GPU.config.replace("preempt/qos", "preempt/none"))
    assert not any(partition.preemptible for partition in discover(none).profile.partitions.values())


def test_a_cluster_that_shows_nothing_is_an_error() -> None:
    with pytest.raises(LaunchError, match="no partition with nodes"):
        discover(dataclasses.replace(GPU, visible=""))


@pytest.mark.parametrize("texts", [LOOPBACK, GPU])
def test_the_written_text_reads_back_as_the_profile(texts: object) -> None:
    found = discover(texts)  # type: ignore[arg-type]
    assert site_from(yaml.safe_load(found.text)) == found.profile


_WORDS = st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
_PARTITIONS = st.builds(
    PartitionProfile,
    nodes=st.integers(0, 9999),
    memory_gib_per_node=st.floats(0, 1e6),
    gpu_type=_WORDS,
    max_time_s=st.none() | st.floats(0, 1e8),
    preemptible=st.booleans(),
    features=st.lists(st.text("abc:#&*!", max_size=6), max_size=3),
)


@given(
    st.builds(
        SiteProfile,
        name=st.text("abc", min_size=1, max_size=6),
        description=_WORDS.filter(lambda text: text is not None),
        account=_WORDS,
        wckey=_WORDS,
        poll_s=st.floats(0.1, 1e4),
        sbatch=st.dictionaries(st.text("abc-", min_size=1), st.text("abc #:", max_size=9), max_size=3),
        setup=st.lists(st.text("abc $\"'#:;", max_size=20), max_size=3),
        partitions=st.dictionaries(st.text("abc", min_size=1, max_size=4), _PARTITIONS, max_size=3),
    )
)
def test_any_profile_survives_being_written(profile: SiteProfile) -> None:
    notes = {"account": ["why"], "setup": ["lines"], "partitions": ["what"]}
    assert site_from(yaml.safe_load(site_text(profile, ["heading"], notes))) == profile
