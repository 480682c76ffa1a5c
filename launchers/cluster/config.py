"""Text of the configuration files: slurm.conf, slurmdbd.conf, cgroup.conf."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path

from launchers.cluster.settings import ClusterSettings

CLUSTER = "loopback"
ADDRESS = "127.0.0.1"
PARTITION = "main"
HIGH_PARTITION = "high"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in the cluster's folder."""

    folder: Path

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def slurmdbd_conf(self) -> Path:
        return self.folder / "slurmdbd.conf"

    @property
    def facts(self) -> Path:
        """Settings and ports of this cluster; what marks the folder as one of ours."""
        return self.folder / "cluster.json"

    @property
    def lock(self) -> Path:
        return self.folder / "cluster.lock"

    @property
    def munge_key(self) -> Path:
        return self.folder / "munge.key"

    @property
    def munge_socket(self) -> Path:
        return self.run / "munge"

    @property
    def database(self) -> Path:
        return self.folder / "db"

    @property
    def database_socket(self) -> Path:
        return self.run / "db"

    @property
    def run(self) -> Path:
        """Process ids and sockets."""
        return self.folder / "run"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def devices(self) -> Path:
        """Stand-ins for device files of pretended GPUs."""
        return self.folder / "dev"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """TCP ports of the daemons; nodes by name."""

    controller: int
    accounting: int
    nodes: dict[str, int]


def user_name() -> str:
    """Who runs the daemons; the number where the user has no entry in the password file."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def host_address() -> str:
    """What the host's own name resolves to (IPv4); empty where it resolves to nothing."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""


def loopback_only() -> bool:
    """Whether slurmd and srun can be bound to loopback.

    Slurm 22.05 binds either to every address or to what the host's name resolves to, and no other word of its configuration
    changes that. Other addresses of loopback (127.0.1.1) will not do: a step answers srun at the address its call came from,
    which the kernel makes 127.0.0.1."""
    return host_address() == ADDRESS


def controller_address() -> str | None:
    """The address of loopback that slurmctld and slurmdbd are bound to; None where they must listen on every address."""
    found = host_address()
    return found if found.startswith("127.") else None


def slurm_conf(layout: Layout, settings: ClusterSettings, ports: Ports) -> str:
    """slurm.conf. Nodes have names of their own (n1, n2, ...), the machine's host name, and a port each, so that no entry in
    /etc/hosts is needed."""
    host, user, controller = socket.gethostname(), user_name(), controller_address()
    lines = [
        "# Written by `tenfold cluster up`; removed by `tenfold cluster down`.",
        f"ClusterName={CLUSTER}",
        f"SlurmctldHost={host}({controller or ADDRESS})",
        f"SlurmctldPort={ports.controller}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={layout.munge_socket},cred_expire={settings.requeue_hold_s}",
        f"StateSaveLocation={layout.state}",
        f"SlurmdSpoolDir={layout.spool}/%n",
        f"SlurmctldPidFile={layout.run}/slurmctld.own",
        f"SlurmdPidFile={layout.run}/slurmd-%n.own",
        f"SlurmctldLogFile={layout.logs}/slurmctld.log",
        f"SlurmdLogFile={layout.logs}/slurmd-%n.log",
        f"PlugStackConfig={layout.folder}/plugstack.conf",
    ]
    bound = ["NoCtldInAddrAny"] * (controller is not None) + ["NoInAddrAny"] * loopback_only()
    if bound:
        lines.append(f"CommunicationParameters={','.join(bound)}")
    lines += [
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        # Nodes announce what is written here, whatever the machine has.
        "SlurmdParameters=config_overrides",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "PriorityType=priority/basic",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,bf_max_job_test=2000,default_queue_depth=2000",
        "JobRequeue=1",
        f"KillWait={settings.kill_wait_s}",
        f"SlurmdTimeout={settings.node_timeout_s}",
        f"MessageTimeout={settings.message_timeout_s}",
        # Commands that find no controller give up after half of this.
        "SlurmctldTimeout=10",
        # A batch script that takes long to start on an oversubscribed machine is not lost.
        "BatchStartTimeout=60",
        # A node that comes back is used again, whatever it went for.
        "ReturnToService=2",
    ]
    if settings.max_array_size is not None:
        lines.append(f"MaxArraySize={settings.max_array_size}")
    if settings.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            f"AccountingStorageHost={controller or ADDRESS}",
            f"AccountingStoragePort={ports.accounting}",
            f"AccountingStoragePass={layout.munge_socket}",
            "AccountingStoreFlags=job_comment",
        ]
    lines += ["JobAcctGatherType=jobacct_gather/linux", "JobAcctGatherFrequency=task=1"]
    if settings.preempt:
        lines += ["PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"]
    lines += settings.extra_lines
    shape = f"NodeHostname={host} NodeAddr={ADDRESS} CPUs={settings.cpus} RealMemory={settings.memory_mib}"
    if settings.gpus_per_node:
        lines.append("GresTypes=gpu")
        shape += f" Gres=gpu:{settings.gpu_type}:{settings.gpus_per_node}"
    lines += [f"NodeName={name} Port={ports.nodes[name]} {shape}" for name in settings.names]
    # Without a default a job would take all the memory of its nodes, and nothing would run beside it.
    common = f"Nodes=ALL MaxTime=INFINITE DefMemPerCPU={max(1, settings.memory_mib // settings.cpus)}"
    main = f"PartitionName={PARTITION} Default=YES {common} PriorityTier=1"
    if settings.preempt:
        lines.append(f"{main} PreemptMode=REQUEUE GraceTime={settings.grace_s}")
        lines.append(f"PartitionName={HIGH_PARTITION} {common} PriorityTier=10 PreemptMode=OFF")
    else:
        lines.append(main)
    return "\n".join(lines) + "\n"


def gres_conf(layout: Layout, settings: ClusterSettings) -> str:
    """gres.conf: GPUs whose device files are empty files (slurmd counts no GPU that has none), or nothing."""
    if not settings.gpus_per_node:
        return ""
    files = f"{layout.devices}/gpu[0-{settings.gpus_per_node - 1}]"
    return f"AutoDetect=off\nName=gpu Type={settings.gpu_type} File={files}\n"


def slurmdbd_conf(layout: Layout, ports: Ports) -> str:
    """slurmdbd.conf; it must be readable by its user alone. The database's socket comes by environment (MYSQL_UNIX_PORT)."""
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo={layout.munge_socket}",
        "DbdHost=localhost",
        f"DbdAddr={controller_address() or ADDRESS}",
        f"DbdPort={ports.accounting}",
        f"SlurmUser={user_name()}",
        f"PidFile={layout.run}/slurmdbd.own",
        f"LogFile={layout.logs}/slurmdbd.log",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        f"StorageUser={user_name()}",
        "StorageLoc=slurm",
    ]
    if controller_address() is not None:
        lines.append("CommunicationParameters=NoInAddrAny")
    return "\n".join(lines) + "\n"
