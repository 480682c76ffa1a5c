"""How a job starts the ranks of a run as a step: the srun line, ports, and what srun's own words mean."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.rank import ADDRESSES, CACHES_ROOT, RANKS
from launchers.request import RunRequest
from launchers.site import SiteProfile
from launchers.slurm.starter import PORTS, SrunStarter, first_free, port_for
from results.failures import FailureClass

SITE = SiteProfile(name="ridge", scheduler="slurm", python="/opt/python", srun=["--mpi=none", "--cpu-bind=cores"])
REQUEST = RunRequest(folder=Path("/runs/a"), ranks=6, cores_per_rank=2, gpus_per_rank=1, memory_gib=1.5)
START = ["srun", "--unbuffered", "--export=ALL", "--kill-on-bad-exit=0", "--wait=60", "--ntasks=6", "--cpus-per-task=2",
         "--job-name=a"]  # fmt: skip
RANK = ["--mpi=none", "--cpu-bind=cores", "/opt/python", "-P", "-m", "launchers.rank", "slurm", "harness.worker", "/runs/a"]


@pytest.mark.parametrize(("per_node", "nodes"), [(6, 1), (4, 2), (2, 3), (1, 6)])
def test_a_run_alone_takes_as_few_nodes_of_its_job_as_it_needs(per_node: int, nodes: int) -> None:
    assert SrunStarter(site=SITE, ranks_per_node=per_node).command(REQUEST) == [*START, f"--nodes={nodes}", *RANK]


@pytest.mark.parametrize(
    ("per_node", "asked", "nodes", "flags"),
    [
        (6, None, 1, ["--exact", "--mem=1537M"]),
        (12, None, 1, ["--exact", "--mem=1537M"]),  # room for two of them on a node
        (3, None, 2, ["--exact", "--ntasks-per-node=3", "--mem=769M"]),  # --mem is by node: half of it
        (4, None, 2, ["--exact", "--ntasks-per-node=3", "--mem=769M"]),
        (6, 4, 4, ["--exact", "--ntasks-per-node=2", "--mem=513M"]),  # as many nodes as it asked for: two of six ranks a node
    ],
)
def test_packed_runs_take_their_own_part_of_the_job(per_node: int, asked: int | None, nodes: int, flags: list[str]) -> None:
    packed = SrunStarter(site=SITE, packed=True, ranks_per_node=per_node)
    command = packed.command(replace(REQUEST, nodes=asked))
    assert command == [*START, f"--nodes={nodes}", *flags, "--gpus=6", *RANK]


def test_packed_runs_of_a_site_without_the_flag_state_no_memory() -> None:
    bare = SrunStarter(site=SiteProfile(memory_flag=False), packed=True)
    command = bare.command(RunRequest(folder=Path("/runs/a"), memory_gib=1.5))
    assert [word for word in command if word.startswith(("--mem", "--gpus"))] == []
    assert sys.executable in command


def test_variables_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SRUN_CPUS_PER_TASK", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("SLURM_JOB_ID", "77")  # srun needs to know its job
    site = SiteProfile(interface="ib0", caches="/local/caches")
    starter = SrunStarter(site=site, addresses={"n1": "10.0.0.1"}, variables={"TENFOLD_JOB": "{}"})
    first, second = starter.environment(REQUEST), starter.environment(REQUEST)
    assert "leaked" not in first.values()
    assert (first["SLURM_JOB_ID"], first[RANKS], first["TENFOLD_JOB"], first["OMP_NUM_THREADS"]) == ("77", "6", "{}", "2")
    assert (first["GLOO_SOCKET_IFNAME"], first["NCCL_SOCKET_IFNAME"], first[CACHES_ROOT]) == ("ib0", "ib0", "/local/caches")
    assert json.loads(first[ADDRESSES]) == {"n1": "10.0.0.1"}
    assert first["MASTER_PORT"] != second["MASTER_PORT"]  # steps of one job may run side by side
    plain = SrunStarter(site=SiteProfile()).environment(REQUEST)
    assert not {ADDRESSES, CACHES_ROOT} & set(plain)


# Ports ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=6), min_size=1, max_size=4))
def test_a_port_follows_from_job_restart_and_step(words: list[str]) -> None:
    port = port_for(words)
    assert port in PORTS
    assert port == port_for(list(words))


def test_ports_of_many_jobs_are_spread() -> None:
    """As birthdays of 200 in 12,000 days: two or three pairs, not more than a dozen."""
    ports = {port_for([str(job), str(restart), "1"]) for job in range(100) for restart in range(2)}
    assert len(ports) > 188


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("", first_free(port_for(["any"]))))
        taken.listen()
        port = taken.getsockname()[1]
        assert first_free(port) not in (port, PORTS.stop)
        assert first_free(port) in PORTS


def test_after_the_last_port_comes_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    class Busy:
        def __enter__(self) -> Busy:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def bind(self, address: tuple[str, int]) -> None:
            tried.append(address[1])
            if len(tried) < 4:
                raise OSError

    monkeypatch.setattr(socket, "socket", Busy)
    assert first_free(PORTS.stop - 2) == PORTS.start + 1
    assert tried == [PORTS.stop - 2, PORTS.stop - 1, PORTS.start, PORTS.start + 1]


# What srun says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("srun: error: Node failure on n3\nsrun: error: aborting", (FailureClass.NODE_FAIL, "node n3 failed")),
        ("srun: error: n2: task 1: Out Of Memory", (FailureClass.OOM_HOST, "out of memory on n2")),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", (FailureClass.OOM_HOST, "the kernel's out-of-memory")),
        ("slurmstepd: error: Detected 2 oom-kill event(s) in StepId=7.0", (FailureClass.OOM_HOST, "the kernel's out-of-memory")),
        (
            "srun: error: Unable to create step for job 7: Invalid generic resource (gres) specification",
            (FailureClass.CRASH, "Unable to create step for job 7: Invalid generic resource (gres) specification"),
        ),
        ("srun: error: n2: task 1: Exited with exit code 1", None),
        ("", None),
    ],
)
def test_what_srun_itself_says(text: str, expected: Any) -> None:
    found = SrunStarter(site=SITE).explain(text)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] is expected[0]
        assert found[1].startswith(expected[1])
