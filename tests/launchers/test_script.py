"""Batch scripts: known requests byte for byte, flags only where something was asked for, nothing of whoever submits."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.environment import import_path
from launchers.request import RunRequest
from launchers.site import PartitionProfile, SiteProfile
from launchers.slurm.commands import Slurm
from launchers.slurm.script import (
    JOB_MEMORY_GIB,
    MEMORY_STEP_GIB,
    Allocation,
    Batch,
    allocation_for,
    nodes_for,
    render,
)
from results.errors import LaunchError

FOLDER = Path("/scratch/runs/.submissions/0123456789")
COMMENT = "tenfold:0123456789 dlwp_scaling"
#: A checkout puts itself on the import path; where it lies is the one thing that differs between machines.
IMPORT = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in import_path({}).items())

CPU_SITE = SiteProfile(name="ridge", scheduler="slurm", partition="batch", account="climate", python="/opt/python/bin/python3")
CPU_BATCH = Batch(
    folder=FOLDER,
    name="dlwp-unet-small-1a2b3c4d",
    comment=COMMENT,
    allocation=Allocation(ranks=4, cores_per_rank=2, memory_gib=1.5, time_limit_s=61.0),
)
CPU_SCRIPT = f"""\
#!/bin/bash

# Parameters
#SBATCH --account=climate
#SBATCH --comment='tenfold:0123456789 dlwp_scaling'
#SBATCH --cpus-per-task=2
#SBATCH --job-name=dlwp-unet-small-1a2b3c4d
#SBATCH --mem=1536M
#SBATCH --nodes=1
#SBATCH --ntasks=4
#SBATCH --open-mode=append
#SBATCH --output=/scratch/runs/.submissions/0123456789/job-%j.txt
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --time=2

# setup
{IMPORT}
# command
exec /opt/python/bin/python3 -P -m launchers.slurm.job /scratch/runs/.submissions/0123456789
"""

GPU_SITE = SiteProfile(
    name="summit",
    scheduler="slurm",
    partition="gpu",
    qos="long",
    constraint="a100&nvlink",
    reservation="course",
    wckey="",
    gpu_type="a100",
    sbatch={"nice": "100", "contiguous": ""},
    modules=["cuda/12.4", "gcc 13"],
    setup=["ulimit -l unlimited", 'echo "on $(hostname)"'],
    environment={"NCCL_DEBUG": "WARN", "NOTE": "two words"},
    python="/opt/my envs/bin/python3",
)
GPU_BATCH = Batch(
    folder=FOLDER,
    name="dlwp-small-dlwp_scaling",
    comment=COMMENT,
    allocation=Allocation(
        ranks=8, gpus_per_rank=1, nodes=2, memory_gib=64.0, time_limit_s=86_400.0, exclusive=True, exclude=("g03", "g07")
    ),
    tasks=12,
    throttle=3,
    after=("41", "42"),
)
GPU_SCRIPT = f"""\
#!/bin/bash

# Parameters
#SBATCH --array=0-11%3
#SBATCH --comment='tenfold:0123456789 dlwp_scaling'
#SBATCH --constraint='a100&nvlink'
#SBATCH --contiguous
#SBATCH --cpus-per-task=1
#SBATCH --dependency=afterany:41:42
#SBATCH --exclude=g03,g07
#SBATCH --exclusive
#SBATCH --gres=gpu:a100:4
#SBATCH --job-name=dlwp-small-dlwp_scaling
#SBATCH --mem=65536M
#SBATCH --nice=100
#SBATCH --nodes=2
#SBATCH --ntasks=8
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/scratch/runs/.submissions/0123456789/job-%A_%a.txt
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --reservation=course
#SBATCH --time=1440
#SBATCH --wckey=''

# setup
module load cuda/12.4
module load 'gcc 13'
export NCCL_DEBUG=WARN
export NOTE='two words'
{IMPORT}ulimit -l unlimited
echo "on $(hostname)"

# command
exec '/opt/my envs/bin/python3' -P -m launchers.slurm.job /scratch/runs/.submissions/0123456789
"""


def flags(script: str) -> dict[str, str | None]:
    """Flags with their values as the shell would read them; None for a bare one."""
    found: dict[str, str | None] = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            name, sign, value = word.removeprefix("--").partition("=")
            assert name not in found, f"{name} twice"
            found[name] = value if sign else None
    return found


# Byte for byte -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("site", "batch", "expected"), [(CPU_SITE, CPU_BATCH, CPU_SCRIPT), (GPU_SITE, GPU_BATCH, GPU_SCRIPT)])
def test_the_script_of_a_known_request(site: SiteProfile, batch: Batch, expected: str) -> None:
    assert render(batch, site) == expected


def test_nothing_of_whoever_submits_is_in_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who they are nor what their shell or an enclosing job says; what the profile names is taken along."""
    leaks = {"SBATCH_PARTITION": "leaked", "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "99", "SRUN_CPUS_PER_TASK": "9"}
    for name, value in {**leaks, "USER": "leaked", "HOME": "/home/leaked", "LICENSE": "on loan"}.items():
        monkeypatch.setenv(name, value)
    assert render(CPU_BATCH, CPU_SITE) == CPU_SCRIPT
    passing = render(CPU_BATCH, replace(CPU_SITE, pass_environment=["LICENSE", "NOT_SET_ANYWHERE"]))
    assert set(passing.splitlines()) - set(CPU_SCRIPT.splitlines()) == {"export LICENSE='on loan'"}


def test_commands_do_not_inherit_an_enclosing_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """SBATCH_* would silently win over what a script says; only the cluster's address stays."""
    leaks = (
        "SBATCH_PARTITION", "SBATCH_WCKEY", "SLURM_JOB_ID", "SLURM_NTASKS", "SRUN_DEBUG", "SUBMITIT_EXECUTOR", "PMI_RANK",
        "OMPI_COMM_WORLD_RANK", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
    )  # fmt: skip
    for name in leaks:
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/ambient.conf")
    monkeypatch.setenv("KEPT", "yes")
    ambient, named = Slurm().environment(), Slurm("/etc/slurm/named.conf").environment()
    assert not set(leaks) & set(ambient)
    assert "leaked" not in ambient.values()
    assert ambient["KEPT"] == "yes"
    assert (ambient["SLURM_CONF"], named["SLURM_CONF"]) == ("/etc/slurm/ambient.conf", "/etc/slurm/named.conf")
    monkeypatch.delenv("SLURM_CONF")
    assert "SLURM_CONF" not in Slurm().environment()


# Flags only where something was asked for ----------------------------------------------------------------------------

#: Flags of every job.
ALWAYS = {"comment", "cpus-per-task", "job-name", "nodes", "ntasks", "open-mode", "output"}
WORDS = st.text("abcdefgh0123456789_-&|, '\"$", min_size=1, max_size=8)


@given(st.data())
def test_what_is_not_asked_for_is_not_written(data: st.DataObject) -> None:
    profile = {name: data.draw(st.none() | WORDS, name) for name in ("partition", "account", "qos", "constraint", "reservation")}
    profile["wckey"] = data.draw(st.none() | st.just("") | WORDS, "wckey")
    need: dict[str, Any] = {
        "ranks": data.draw(st.integers(1, 9), "ranks"),
        "nodes": 1,
        "cores_per_rank": data.draw(st.integers(1, 4), "cores"),
        "gpus_per_rank": data.draw(st.integers(0, 2), "gpus"),
        "memory_gib": data.draw(st.none() | st.sampled_from([0.5, 3.0]), "memory"),
        "time_limit_s": data.draw(st.none() | st.floats(0.1, 1e6), "time"),
        "exclusive": data.draw(st.booleans(), "exclusive"),
        "exclude": tuple(data.draw(st.lists(st.sampled_from(["n1", "n2"]), unique=True), "exclude")),
    }
    need["nodes"] = data.draw(st.integers(1, need["ranks"]), "nodes")
    tasks = data.draw(st.none() | st.integers(2, 2000), "tasks")
    throttle = data.draw(st.none() | st.integers(1, 3000), "throttle")
    after = tuple(data.draw(st.lists(st.sampled_from(["7", "8"]), unique=True), "after"))
    requeue = data.draw(st.booleans(), "requeue")
    batch = Batch(
        folder=FOLDER, name="n", comment=COMMENT, allocation=Allocation(**need), tasks=tasks, throttle=throttle, after=after,
        requeue=requeue,
    )  # fmt: skip
    found = flags(render(batch, SiteProfile(python="/opt/python", **profile)))
    expected = ALWAYS | {name for name, value in profile.items() if value is not None}
    expected |= {"mem"} if need["memory_gib"] else set()
    expected |= {"time"} if need["time_limit_s"] else set()
    expected |= {"gres"} if need["gpus_per_rank"] else set()
    expected |= {"ntasks-per-node"} if need["nodes"] > 1 else set()
    expected |= {name for name in ("exclusive", "exclude") if need[name]}
    expected |= {"array"} if tasks else set()
    expected |= {"dependency"} if after else set()
    expected |= {"requeue" if requeue else "no-requeue"}
    assert set(found) == expected
    assert {name: found[name] for name, value in profile.items() if value is not None} == {
        name: value for name, value in profile.items() if value is not None
    }
    assert (found["ntasks"], found["nodes"]) == (str(need["ranks"]), str(need["nodes"]))
    if tasks:
        assert found["array"] == f"0-{tasks - 1}%{min(throttle or tasks, tasks)}"
    if need["nodes"] > 1:  # as even as it gets: memory and GPUs are asked for by node
        assert found["ntasks-per-node"] == str(math.ceil(need["ranks"] / need["nodes"]))


@pytest.mark.parametrize(
    ("spelling", "gpu_type", "expected"),
    [
        ("gres", "a100", {"gres": "gpu:a100:4"}),
        ("gres", None, {"gres": "gpu:4"}),
        ("gpus-per-node", "h100", {"gpus-per-node": "h100:4"}),
        ("gpus-per-node", None, {"gpus-per-node": "4"}),
    ],
)
def test_gpus_are_spelt_as_the_site_wants_them(spelling: str, gpu_type: str | None, expected: dict[str, str]) -> None:
    site = replace(GPU_SITE, gpu_flag=spelling, gpu_type=gpu_type)
    found = flags(render(GPU_BATCH, site))
    assert {name: value for name, value in found.items() if name in ("gres", "gpus-per-node")} == expected


@pytest.mark.parametrize(("wckey", "expected"), [(None, {}), ("", {"wckey": ""}), ("course", {"wckey": "course"})])
def test_a_wckey_is_written_only_where_the_profile_has_one(wckey: str | None, expected: dict[str, str]) -> None:
    found = flags(render(CPU_BATCH, replace(CPU_SITE, wckey=wckey)))
    assert {name: value for name, value in found.items() if name == "wckey"} == expected


def test_an_early_signal_is_sent_only_where_the_profile_wants_it() -> None:
    assert "signal" not in flags(render(CPU_BATCH, CPU_SITE))
    assert flags(render(CPU_BATCH, replace(CPU_SITE, sbatch={"signal": "B:TERM@60"})))["signal"] == "B:TERM@60"


def test_a_profile_that_cannot_be_written_is_refused_by_its_name() -> None:
    with pytest.raises(LaunchError, match="no script can be written") as caught:
        render(replace(CPU_BATCH, name=None), replace(CPU_SITE, setup=[3]))  # type: ignore[arg-type, list-item]
    assert caught.value.where == "site ridge"


# Need and allocation -------------------------------------------------------------------------------------------------


@given(st.floats(1.0, 1e6))
def test_time_is_rounded_up_to_minutes(limit_s: float) -> None:
    batch = replace(CPU_BATCH, allocation=Allocation(ranks=1, time_limit_s=limit_s))
    minutes = int(flags(render(batch, CPU_SITE))["time"] or 0)
    assert minutes >= 1
    assert 60 * (minutes - 1) < limit_s <= 60 * minutes


@given(memory_gib=st.floats(0.001, 2000), nodes=st.integers(1, 8))
def test_memory_is_by_node_in_steps_and_enough(memory_gib: float, nodes: int) -> None:
    request = RunRequest(folder=Path("/runs/a"), ranks=8, nodes=nodes, memory_gib=memory_gib)
    found = allocation_for(request, CPU_SITE).memory_gib
    assert found is not None
    assert math.isclose(found / MEMORY_STEP_GIB, round(found / MEMORY_STEP_GIB))
    wanted = memory_gib * math.ceil(8 / nodes) / 8 + JOB_MEMORY_GIB  # of the node that holds most ranks
    assert wanted <= found < wanted + MEMORY_STEP_GIB


@pytest.mark.parametrize(("need_gib", "asked_gib"), [(0.25, 0.5), (0.26, 1.0), (0.75, 1.0), (1.0, 1.5), (11.9, 12.5)])
def test_steps_of_memory(need_gib: float, asked_gib: float) -> None:
    assert allocation_for(RunRequest(folder=Path("/runs/a"), memory_gib=need_gib), CPU_SITE).memory_gib == asked_gib


def test_memory_is_left_to_the_site_where_it_is_unknown_or_refused() -> None:
    known = RunRequest(folder=Path("/runs/a"), memory_gib=3.0)
    assert allocation_for(replace(known, memory_gib=0.0), CPU_SITE).memory_gib is None
    assert allocation_for(known, replace(CPU_SITE, memory_flag=False)).memory_gib is None


def test_a_run_without_a_limit_gets_the_sites() -> None:
    request = RunRequest(folder=Path("/runs/a"))
    site = replace(CPU_SITE, time_limit_s=600.0)
    assert allocation_for(request, CPU_SITE).time_limit_s is None
    assert allocation_for(request, site).time_limit_s == 600.0
    assert allocation_for(replace(request, time_limit_s=90.0), site).time_limit_s == 90.0


def partitioned(cores: int = 0, gpus: int = 0, **further: Any) -> SiteProfile:
    profile = PartitionProfile(**{"nodes": 8, "cores_per_node": cores, "gpus_per_node": gpus, **further})
    return SiteProfile(name="ridge", partition="p", partitions={"p": profile})


@pytest.mark.parametrize(
    ("needs", "site", "expected"),
    [
        ({"ranks": 9}, partitioned(cores=8), 2),
        ({"ranks": 8}, partitioned(cores=8), 1),
        ({"ranks": 8, "cores_per_rank": 3}, partitioned(cores=8), 4),  # two ranks a node: two cores stay idle
        ({"ranks": 8, "gpus_per_rank": 1}, partitioned(cores=64, gpus=4), 2),
        ({"ranks": 8, "gpus_per_rank": 2}, partitioned(cores=64, gpus=4), 4),
        ({"ranks": 8, "gpus_per_rank": 1, "cores_per_rank": 40}, partitioned(cores=64, gpus=4), 8),  # cores are scarcer
        ({"ranks": 64}, partitioned(), 1),  # nothing is known of the nodes
        ({"ranks": 64}, SiteProfile(), 1),  # nor of the partition
        ({"ranks": 8, "memory_gib": 40.0}, partitioned(cores=8, memory_gib_per_node=16.0), 3),  # three ranks of 5 GiB a node
        ({"ranks": 8, "nodes": 3}, partitioned(cores=8), 3),  # asked for by hand
        ({"ranks": 2, "nodes": 3}, partitioned(cores=8), 2),  # no node without a rank
    ],
)
def test_as_few_nodes_as_the_ranks_fit_on(needs: dict[str, Any], site: SiteProfile, expected: int) -> None:
    assert nodes_for(RunRequest(folder=Path("/runs/a"), **needs), site) == expected


@pytest.mark.parametrize(
    ("needs", "reason", "next_step"),
    [
        ({"cores_per_rank": 9}, "a rank wants 9 cores, a node has 8", "launcher.cores_per_rank=8"),
        ({"gpus_per_rank": 5}, "a rank wants 5 GPUs, a node has 4", "device=cpu"),
        ({"memory_gib": 31.0}, "a rank needs 31.0 GiB, 30.4 of a node may be used", "engine=zero3"),
        ({"ranks": 65}, "needs 9 nodes of 8 ranks, there are 8", "fewer ranks="),
        ({"ranks": 9, "nodes": 1}, "9 ranks on 1 nodes are 9 a node, a node holds 8", "launcher.nodes=2"),
        ({"time_limit_s": 7200.0}, "asks for 2.00 h, the limit is 1.00 h", "launcher.time_limit_s=3600"),
        ({"expected_s": 7200.0}, "planned 2.00 h, the limit is 1.00 h", "train.checkpoint_every=STEPS"),
    ],
)
def test_what_does_not_fit_its_partition_is_refused_before_submission(needs: dict[str, Any], reason: str, next_step: str) -> None:
    """Naming partition, limit and what to do; the planner judges partitions by the same words."""
    site = partitioned(cores=8, gpus=4, memory_gib_per_node=32.0, max_time_s=3600.0)
    with pytest.raises(LaunchError, match=re.escape(f"does not fit partition 'p': {reason}")) as caught:
        allocation_for(RunRequest(folder=Path("/runs/a"), **needs), site)
    assert caught.value.where == "site ridge: partitions.p"
    assert caught.value.next_step.startswith(next_step)
    assert "site.partition=" in caught.value.next_step


def test_a_run_longer_than_the_limit_goes_on_in_a_further_attempt_where_it_saves() -> None:
    site = partitioned(cores=8, max_time_s=3600.0)
    assert nodes_for(RunRequest(folder=Path("/runs/a"), expected_s=7200.0, saves=True), site) == 1


def test_the_sites_own_limit_is_held_against_the_partitions() -> None:
    with pytest.raises(LaunchError, match="asks for 2.00 h, the limit is 1.00 h"):
        allocation_for(RunRequest(folder=Path("/runs/a")), replace(partitioned(max_time_s=3600.0), time_limit_s=7200.0))


@pytest.mark.parametrize(("need_gib", "asked_gib"), [(3.6, 4.0), (7.4, 7.846)])
def test_memory_is_not_rounded_up_beyond_what_a_node_has(need_gib: float, asked_gib: float) -> None:
    """A node of 8035 MiB, as profiles have it."""
    site = partitioned(memory_gib_per_node=7.847)
    found = allocation_for(RunRequest(folder=Path("/runs/a"), memory_gib=need_gib), site).memory_gib
    assert found == pytest.approx(asked_gib, abs=1e-3)
    assert math.ceil((found or 0) * 1024) <= 8035
