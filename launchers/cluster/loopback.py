"""One loopback cluster: up, down, and what a test or a curious user does to it in between."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launchers.cluster import processes
from launchers.cluster.config import CLUSTER, Layout, Ports, gres_conf, loopback_only, slurm_conf, slurmdbd_conf
from launchers.cluster.daemons import ACCOUNTING, CONTROLLER, DATABASE, MUNGED, Daemons, wait_until
from launchers.cluster.folder import claim, clear, refuse_foreign_folder
from launchers.cluster.ports import free_ports
from launchers.cluster.profile import refuse_foreign_profile, remove_profile, write_profile
from launchers.cluster.programs import require_programs
from launchers.cluster.settings import MAX_FOLDER_BYTES, ClusterSettings, default_folder
from launchers.cluster.status import ClusterStatus, NodeStatus, ask, ask_jobs, ask_nodes
from results.errors import BusyError, ConfigError, LaunchError
from results.store import locked, read_json, read_json_or, write_json


@dataclass(slots=True)
class LoopbackCluster:
    """A Slurm cluster on this machine, in one folder. The object holds nothing: any process may make another of the same folder.

    Args:
        folder: at most 70 bytes long (unix sockets lie in it); None: :func:`default_folder`.
    """

    folder: Path = field(default_factory=default_folder)

    def __post_init__(self) -> None:
        self.folder = Path(os.path.abspath(self.folder))
        if len(os.fsencode(self.folder)) > MAX_FOLDER_BYTES:
            raise ConfigError(
                f"the folder's path is longer than {MAX_FOLDER_BYTES} bytes, too long for the sockets in it",
                where=str(self.folder),
                next_step="tenfold cluster up --folder /tmp/NAME",
            )

    @property
    def layout(self) -> Layout:
        """Where everything lies."""
        return Layout(self.folder)

    # -- up and down ---------------------------------------------------------------------------------------------------------

    def up(self, settings: ClusterSettings | None = None, *, timeout_s: float = 60.0, **shape: Any) -> ClusterStatus:
        """Bring the cluster up and wait until every node takes work; write site profile ``loopback``. If it fails, nothing stays.

        Args:
            settings: the cluster's shape; or give its fields by name (``nodes=2, preempt=True``).

        Raises:
            BusyError: it is up already, or another cluster of this user is.
            ConfigError: the folder holds something else, or the shape is impossible.
            LaunchError: programs are missing, or a daemon does not start (its last words are in the message).
        """
        settings = settings or ClusterSettings(**shape)
        require_programs(accounting=settings.accounting)
        refuse_foreign_profile(self.layout)
        claim(self.layout)
        with self._locked():
            if self._processes():
                raise BusyError(
                    f"this cluster is up already ({len(self._processes())} processes)",
                    where=str(self.folder),
                    next_step="tenfold cluster status; tenfold cluster down",
                )
            clear(self.layout)
            try:
                self._start(settings, timeout_s)
                write_profile(self.layout, settings)
            except BaseException:
                self._remove()
                raise
        return self.status()

    def down(self) -> bool:
        """Kill every process of the cluster and of its jobs, remove its folder, its shared memory and its site profile.

        Returns:
            False if there was nothing.

        Raises:
            BusyError: somebody is bringing it up or down.
            ConfigError: the folder is not a cluster's.
            LaunchError: a process does not die; or this is called from one of the cluster's own jobs.
        """
        if os.environ.get("SLURMD_NODENAME") and os.environ.get("SLURM_CONF") == str(self.layout.slurm_conf):
            raise LaunchError("this is a job of the cluster itself", where=str(self.folder), next_step="type it in another shell")
        if not self.folder.exists():
            left = bool(self._processes())
            self._kill()
            return remove_profile(self.layout) or left
        refuse_foreign_folder(self.layout)
        with self._locked():
            self._remove()
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.layout.lock, blocking=False, what="this cluster", look="tenfold cluster status"):
            yield

    def _start(self, settings: ClusterSettings, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        layout = self.layout
        numbers = free_ports(settings.nodes + 2, str(self.folder))
        ports = Ports(controller=numbers[0], accounting=numbers[1], nodes=dict(zip(settings.names, numbers[2:], strict=True)))
        write_json(layout.facts, {"settings": asdict(settings), "ports": asdict(ports), "host": socket.gethostname()})
        for path in (layout.run, layout.logs):
            path.mkdir(mode=0o755)
        for path in (layout.state, layout.spool, layout.temporary):
            path.mkdir(mode=0o755 if path == layout.spool else 0o700)
        layout.slurm_conf.write_text(slurm_conf(layout, settings, ports))
        (self.folder / "gres.conf").write_text(gres_conf(layout, settings))
        layout.devices.mkdir(mode=0o755)
        for index in range(settings.gpus_per_node):
            (layout.devices / f"gpu{index}").touch()
        (self.folder / "plugstack.conf").write_text("")  # or the system's would be read
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        daemons = Daemons(layout, ports)
        daemons.prepare()
        daemons.start(MUNGED)
        if settings.accounting:
            layout.slurmdbd_conf.touch(mode=0o600)
            layout.slurmdbd_conf.write_text(slurmdbd_conf(layout, ports))
            daemons.install_database()
            daemons.start(DATABASE)
            daemons.start(ACCOUNTING)
        daemons.start(CONTROLLER)
        daemons.start(*settings.names)
        self.wait_ready(max(1.0, deadline - time.monotonic()))

    def _processes(self, names: list[str] | None = None) -> list[int]:
        return [process.pid for process in processes.belonging(self.folder, self.layout.slurm_conf, names=names)]

    def _kill(self, names: list[str] | None = None) -> None:
        left = processes.kill_all(self.folder, self.layout.slurm_conf, names=names)
        if left:
            raise LaunchError(
                f"processes do not die: {', '.join(map(str, left))}", where=str(self.folder), next_step="tenfold cluster down"
            )

    def _remove(self) -> None:
        self._kill()
        remove_profile(self.layout)
        clear(self.layout)
        shutil.rmtree(self.folder)

    # -- looking -------------------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Variables with which Slurm's commands reach this cluster."""
        return {"SLURM_CONF": str(self.layout.slurm_conf)}

    def command_environment(self) -> dict[str, str]:
        """The caller's environment with those, and without what an enclosing job or the user's defaults would impose."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_"))}
        return {**kept, **self.environment()}

    def facts(self) -> tuple[ClusterSettings, Ports]:
        """Shape and ports of the cluster in the folder.

        Raises:
            LaunchError: there is none.
        """
        if not self.layout.facts.exists():
            raise LaunchError("there is no cluster", where=str(self.folder), next_step="tenfold cluster up")
        found = read_json(self.layout.facts)
        shape = {**found["settings"], "extra_lines": tuple(found["settings"]["extra_lines"])}
        return ClusterSettings(**shape), Ports(**found["ports"])

    def _daemons(self) -> Daemons:
        return Daemons(self.layout, self.facts()[1])

    def status(self) -> ClusterStatus:
        """What runs, and what Slurm itself says."""
        if read_json_or(self.layout.facts, None) is None:
            return ClusterStatus(state="down", folder=str(self.folder))
        settings, _ = self.facts()
        daemons = self._daemons()
        base = [MUNGED, *([DATABASE, ACCOUNTING] if settings.accounting else []), CONTROLLER]
        found = {name: daemons.find(name) for name in [*base, *settings.names]}
        pids = {name: None if process is None else process.pid for name, process in found.items()}
        environment = self.command_environment()
        nodes = ask_nodes(environment) if pids[CONTROLLER] else ()
        accounting = None
        if settings.accounting:
            accounting = pids[ACCOUNTING] is not None and self._accounted()
        whole = all(pids.values()) and accounting is not False
        works = len(nodes) == settings.nodes and all(node.works for node in nodes)
        return ClusterStatus(
            state="up" if whole and works else "partial" if any(pids.values()) else "down",
            folder=str(self.folder),
            slurm_conf=str(self.layout.slurm_conf),
            daemons=pids,
            controller=bool(nodes),
            accounting=accounting,
            nodes=nodes,
            jobs=ask_jobs(environment) if nodes else {},
            loopback_only=loopback_only(),
        )

    def node(self, name: str) -> NodeStatus:
        """One node as the controller sees it.

        Raises:
            LaunchError: there is no such node, or no controller answers.
        """
        for node in ask_nodes(self.command_environment()):
            if node.name == name:
                return node
        raise LaunchError(f"the controller knows no node {name}", where=str(self.folder), next_step="tenfold cluster status")

    def _accounted(self) -> bool:
        """Whether slurmdbd answers and knows where this cluster's controller is."""
        words = ["--noheader", "--parsable2", "show", "cluster", CLUSTER, "format=ControlPort"]
        text = ask("sacctmgr", *words, environment=self.command_environment())
        return text is not None and text.strip() not in ("", "0")

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the controller answers, every node whose slurmd runs takes work, and accounting (if it runs) knows us.

        Raises:
            LaunchError: not within ``timeout_s``.
        """
        settings, _ = self.facts()
        daemons = self._daemons()

        def ready() -> bool:
            expected = {name for name in settings.names if daemons.find(name)}
            nodes = ask_nodes(self.command_environment())
            if not nodes or not expected <= {node.name for node in nodes if node.works}:
                return False
            return daemons.find(ACCOUNTING) is None or self._accounted()

        if not wait_until(ready, timeout_s):
            nodes = ask_nodes(self.command_environment())
            silent = [node.name for node in nodes if not node.works][:1]  # one stands for all: the cause is mostly the same
            words = [f"{name}'s last words:\n{daemons.last_words(name)}" for name in [CONTROLLER, *silent]]
            found = ", ".join(f"{node.name} {node.state}" for node in nodes) or "unknown"
            raise LaunchError(
                "\n".join([f"the cluster is not ready after {timeout_s:.0f} s (nodes: {found})", *words]),
                where=str(self.layout.logs),
                next_step="tenfold cluster status; tenfold cluster down",
            )

    # -- what goes wrong on clusters -----------------------------------------------------------------------------------------

    def stop_node(self, name: str, *, kill: bool = True) -> None:
        """Stop a node. ``kill`` is its death: SIGKILL to its slurmd and to everything that runs on it, so that nothing is
        reported; the controller finds out after SlurmdTimeout, sets it DOWN and requeues its jobs. Else only its slurmd ends,
        and steps go on, as when an administrator restarts it."""
        self._known(name)
        if kill:
            self._kill([name])
        else:
            self._daemons().stop(name)

    def start_node(self, name: str) -> None:
        """Start a node's slurmd; the node returns to service by itself (see :meth:`wait_ready`)."""
        self._known(name)
        self._daemons().start(name)

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on."""
        self._daemons().stop(CONTROLLER)

    def start_controller(self) -> None:
        """Start slurmctld from its saved state."""
        self._daemons().start(CONTROLLER)

    def restart_controller(self) -> None:
        """End slurmctld and start it again; returns when it answers."""
        self.stop_controller()
        self.start_controller()

    def stop_accounting(self) -> None:
        """End slurmdbd: ``sacct`` fails, and the controller keeps what it has to tell until it is back."""
        self._daemons().stop(ACCOUNTING)

    def start_accounting(self) -> None:
        """Start slurmdbd."""
        self._daemons().start(ACCOUNTING)

    def _known(self, name: str) -> None:
        names = self.facts()[0].names
        if name not in names:
            raise ConfigError(f"there is no node {name}", where=str(self.folder), next_step=f"one of {', '.join(names)}")
