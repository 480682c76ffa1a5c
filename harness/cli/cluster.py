"""A real Slurm of several nodes on this one machine: to try the Slurm path without a cluster, and to test it.

It lies in a folder of its own, listens on loopback, and touches no Slurm, munge or MariaDB of the system.

examples:
  tenfold cluster up                       four nodes, accounting; writes site profile 'loopback'
  tenfold cluster up --nodes 2 --preempt   a second partition 'high' whose jobs requeue those of 'main'
  tenfold cluster status
  tenfold cluster down                     ends every process of it and of its jobs, removes every file
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.common import add_json
from results.errors import EXIT_OK, EXIT_RUN_FAILED
from results.store import dumps

if TYPE_CHECKING:
    from launchers.cluster import ClusterSettings, ClusterStatus, LoopbackCluster


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--folder", type=Path, help="the cluster's folder (default: one per user under the temporary folder)")
    parser.add_argument("--nodes", type=int, default=4, metavar="N", help="up: how many nodes (4)")
    parser.add_argument("--cpus", type=int, metavar="N", help="up: CPUs each node announces (cores / nodes, at least 2)")
    parser.add_argument("--memory-gib", type=float, metavar="GIB", help="up: memory each node announces (memory / nodes)")
    parser.add_argument(
        "--gpus", type=int, default=0, metavar="N", help="up: GPUs each node pretends to have, to see requests scheduled"
    )
    parser.add_argument("--gpu-type", default="pretended", metavar="TYPE", help="up: what they are called")
    parser.add_argument("--preempt", action="store_true", help="up: partition 'high', whose jobs requeue those of 'main'")
    parser.add_argument("--accounting", action=argparse.BooleanOptionalAction, default=True, help="up: sacct (on)")
    parser.add_argument("--max-array-size", type=int, metavar="N", help="up: Slurm's MaxArraySize (1001)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Bring up, take down, or look."""
    from launchers.cluster import LoopbackCluster, default_folder

    cluster = LoopbackCluster(arguments.folder or default_folder())
    if arguments.action == "up":
        return _up(cluster, arguments)
    if arguments.action == "down":
        return _down(cluster, arguments)
    status = cluster.status()
    if arguments.json:
        sys.stdout.write(dumps(status.as_dict()) + "\n")
    else:
        _show(status)
    return EXIT_OK if status.state == "up" else EXIT_RUN_FAILED


def _up(cluster: LoopbackCluster, arguments: argparse.Namespace) -> int:
    from launchers.cluster import ClusterSettings
    from launchers.cluster.profile import profile_path

    begun = time.monotonic()
    settings = ClusterSettings(
        nodes=arguments.nodes,
        cpus_per_node=arguments.cpus,
        memory_mib_per_node=None if arguments.memory_gib is None else round(arguments.memory_gib * 1024),
        gpus_per_node=arguments.gpus,
        gpu_type=arguments.gpu_type,
        preempt=arguments.preempt,
        accounting=arguments.accounting,
        max_array_size=arguments.max_array_size,
    )
    status = cluster.up(settings)
    if arguments.json:
        sys.stdout.write(dumps(status.as_dict()) + "\n")
        return EXIT_OK
    print(f"up in {time.monotonic() - begun:.1f} s")
    _show(status)
    _say_shape(settings)
    print(f"site profile    {profile_path()}: launcher=slurm takes it when no site= is given")
    print(f"for Slurm's own commands:  export SLURM_CONF={status.slurm_conf}")
    return EXIT_OK


def _say_shape(settings: ClusterSettings) -> None:
    from launchers.cluster.settings import machine_cores

    shape = f"{settings.nodes} x {settings.cpus} CPUs, {settings.memory_mib / 1024:.1f} GiB each"
    note = f"; the machine has {machine_cores()} cores, so they are oversubscribed" if settings.oversubscribed else ""
    print(f"announced       {shape}{note}")


def _down(cluster: LoopbackCluster, arguments: argparse.Namespace) -> int:
    found = cluster.down()
    if arguments.json:
        sys.stdout.write(dumps({"state": "down", "folder": str(cluster.folder), "was_there": found}) + "\n")
    else:
        print("down: its processes, files and site profile are gone" if found else f"there is no cluster in {cluster.folder}")
    return EXIT_OK


def _show(status: ClusterStatus) -> None:
    print(f"{status.state:<15} {status.folder}")
    if not status.daemons:
        print("next: tenfold cluster up")
        return
    known = {node.name: node for node in status.nodes}
    for name, pid in status.daemons.items():
        process = f"process {pid}" if pid else "does not run"
        node = known.get(name)
        detail = "" if node is None else f"  {node.state}" + (f" ({node.reason})" if node.reason else "")
        print(f"  {name:<13} {process:<15}{detail}".rstrip())
    if not status.controller:
        print("  the controller does not answer")
    if status.accounting is False:
        print("  accounting does not answer: sacct fails until it is back")
    if not status.loopback_only:
        print("  the host's name does not resolve to 127.0.0.1: nodes listen on every address (messages need this cluster's key)")
    print("jobs            " + (", ".join(f"{count} {state}" for state, count in status.jobs.items()) or "none"))
