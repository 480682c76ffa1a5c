"""Settings, ports and configuration files of a loopback cluster: no Slurm is needed here."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.cluster.config import Layout, Ports, gres_conf, slurm_conf, slurmdbd_conf
from launchers.cluster.loopback import LoopbackCluster
from launchers.cluster.ports import FIRST, LAST, free_ports, is_listening
from launchers.cluster.profile import loopback_profile
from launchers.cluster.settings import MAX_FOLDER_BYTES, ClusterSettings, machine_cores, machine_memory_mib
from launchers.scontrol_text import records
from results.errors import ConfigError

SETTINGS = st.builds(
    ClusterSettings,
    nodes=st.integers(1, 64),
    cpus_per_node=st.none() | st.integers(1, 256),
    memory_mib_per_node=st.none() | st.integers(1, 2**22),
    gpus_per_node=st.integers(0, 8),
    preempt=st.booleans(),
    accounting=st.booleans(),
    max_array_size=st.none() | st.integers(1, 10**6),
    requeue_hold_s=st.integers(3, 120),
)


def written(settings: ClusterSettings, folder: Path = Path("/c")) -> str:
    numbers = iter(range(20000, 20000 + settings.nodes + 2))
    ports = Ports(controller=next(numbers), accounting=next(numbers), nodes={name: next(numbers) for name in settings.names})
    return slurm_conf(Layout(folder), settings, ports)


@given(SETTINGS)
def test_slurm_conf_says_what_was_asked_for(settings: ClusterSettings) -> None:
    text = written(settings)
    single = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith(("#", "NodeName", "PartitionName")))
    nodes = records("\n".join(line for line in text.splitlines() if line.startswith("NodeName=")))
    partitions = records("\n".join(line for line in text.splitlines() if line.startswith("PartitionName=")))
    assert [node["NodeName"] for node in nodes] == [f"n{index}" for index in range(1, settings.nodes + 1)]
    assert len({node["Port"] for node in nodes} | {single["SlurmctldPort"]}) == settings.nodes + 1
    assert {node["NodeAddr"] for node in nodes} == {"127.0.0.1"}
    assert {(node["CPUs"], node["RealMemory"]) for node in nodes} == {(str(settings.cpus), str(settings.memory_mib))}
    assert {node.get("Gres") for node in nodes} == {f"gpu:pretended:{settings.gpus_per_node}" if settings.gpus_per_node else None}
    # A job that takes all CPUs of a node and names no memory gets no more than there is.
    assert all(
        int(partition["DefMemPerCPU"]) * settings.cpus <= max(settings.memory_mib, settings.cpus) for partition in partitions
    )
    assert ("MaxArraySize" in single) == (settings.max_array_size is not None)
    assert f"cred_expire={settings.requeue_hold_s}" in single["AuthInfo"]
    assert ("AccountingStorageHost" in single) == settings.accounting
    tiers = {partition["PartitionName"]: int(partition["PriorityTier"]) for partition in partitions}
    assert set(tiers) == ({"main", "high"} if settings.preempt else {"main"})
    if settings.preempt:
        assert tiers["high"] > tiers["main"]
        assert single["PreemptMode"] == "REQUEUE"
    assert set(loopback_profile(Layout(Path("/c")), settings).partitions) == set(tiers)


@given(st.integers(1, 64))
def test_by_default_the_machine_is_divided_and_two_ranks_fit_a_node(nodes: int) -> None:
    settings = ClusterSettings(nodes=nodes)
    assert settings.cpus >= 2
    assert settings.cpus * nodes >= machine_cores()
    assert settings.memory_mib * nodes <= machine_memory_mib()
    assert settings.oversubscribed == (settings.cpus * nodes > machine_cores())


@pytest.mark.parametrize(
    "wrong",
    [{"nodes": 0}, {"nodes": 65}, {"cpus_per_node": 0}, {"memory_mib_per_node": 0}, {"requeue_hold_s": 1}, {"max_array_size": 0}],
)
def test_impossible_shapes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="between"):
        ClusterSettings(**wrong)  # type: ignore[arg-type]


def test_every_file_lies_in_the_folder_and_sockets_fit() -> None:
    """A unix socket's path ends at 107 bytes; the longest is that of a step on a node with two digits."""
    folder = Path("/" + "f" * (MAX_FOLDER_BYTES - 1))
    settings = ClusterSettings(nodes=64, preempt=True)
    text = written(settings, folder) + slurmdbd_conf(Layout(folder), Ports(controller=1, accounting=2, nodes={}))
    named = re.findall(r"=(?:socket=)?(/[^\s,]+)", text)
    assert len(named) >= 10
    assert all(Path(path).is_relative_to(folder) for path in named)
    step = Layout(folder).spool / "n64" / "n64_67043328.4294967291"  # the largest job id; the batch step
    assert max(len(str(path)) for path in (step, Layout(folder).munge_socket, Layout(folder).database_socket)) <= 107
    LoopbackCluster(folder)
    with pytest.raises(ConfigError, match="too long"):
        LoopbackCluster(Path(f"{folder}f"))


def test_ports_are_distinct_free_and_out_of_the_way_of_connections() -> None:
    first = free_ports(5, "here")
    assert len(set(first)) == 5
    assert all(FIRST <= port < LAST and not is_listening(port) for port in first)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first[2]))
        listener.listen()
        assert is_listening(first[2])
        assert free_ports(5, "here") == [*first[:2], *first[3:], *free_ports(6, "here")[4:5]]
        accepted = socket.create_connection(("127.0.0.1", first[2]))
        accepted.close()
    assert not is_listening(first[2])


def test_pretended_gpus_have_a_file_each() -> None:
    layout = Layout(Path("/c"))
    assert gres_conf(layout, ClusterSettings()) == ""
    assert "Type=a100 File=/c/dev/gpu[0-3]" in gres_conf(layout, ClusterSettings(gpus_per_node=4, gpu_type="a100"))
