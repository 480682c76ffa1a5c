"""What Slurm's commands print: a loopback cluster of three nodes (Slurm 22.05.8, shortened, paths replaced), and a GPU
cluster made by the documented format of the same commands."""

from __future__ import annotations

from launchers.scheduler_texts import SchedulerTexts

_LOOPBACK_CONFIG = """\
Configuration data as of 2026-11-23T22:51:19
AccountingStorageEnforce = none
AccountingStorageType   = accounting_storage/slurmdbd
AcctGatherNodeFreq      = 0 sec
AuthInfo                = socket=/cluster/run/munge,cred_expire=5
ClusterName             = loopback
DefMemPerNode           = UNLIMITED
InteractiveStepOptions  = --interactive --preserve-env --pty $SHELL
JobSubmitPlugins        = (null)
MaxArraySize            = 1001
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SelectTypeParameters    = CR_CORE_MEMORY
SLURM_CONF              = /cluster/slurm.conf
SLURM_VERSION           = 22.05.8
SlurmctldHost[0]        = host(127.0.0.1)
TrackWCKey              = Yes

Slurmctld(primary) at host is UP
"""

_LOOPBACK_PARTITION = (
    "PartitionName={name} AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default={default} QoS=N/A "
    "DefaultTime=NONE DisableRootJobs=NO "
    "ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 LLN=NO "
    "MaxCPUsPerNode=UNLIMITED Nodes=n[1-3] PriorityJobFactor=1 PriorityTier={tier} RootOnly=NO ReqResv=NO OverSubscribe=NO "
    "OverTimeLimit=NONE PreemptMode={mode} State=UP TotalCPUs=6 TotalNodes=3 SelectTypeParameters=NONE JobDefaults=(null) "
    "DefMemPerCPU=4017 MaxMemPerNode=UNLIMITED TRES=cpu=6,mem=24105M,node=3,billing=6\n"
)

_LOOPBACK_NODE = (
    "NodeName=n{index} Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=2 CPUTot=2 CPULoad=5.39 AvailableFeatures=(null) "
    "ActiveFeatures=(null) Gres=(null) NodeAddr=127.0.0.1 NodeHostName=host Port=2061{index} Version=22.05.8 "
    "OS=Linux 6.18.44 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=8035 AllocMem=0 FreeMem=20741 Sockets=2 Boards=1 State=IDLE "
    "ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=main,high  BootTime=2026-11-23T18:31:36 "
    "SlurmdStartTime=2026-11-23T22:51:18 LastBusyTime=2026-11-23T22:51:18 CfgTRES=cpu=2,mem=8035M,billing=2 AllocTRES= "
    "CapWatts=n/a CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s\n"
)

LOOPBACK = SchedulerTexts(
    config=_LOOPBACK_CONFIG,
    partitions=_LOOPBACK_PARTITION.format(name="main", default="YES", tier=1, mode="REQUEUE")
    + _LOOPBACK_PARTITION.format(name="high", default="NO", tier=10, mode="OFF"),
    nodes="".join(_LOOPBACK_NODE.format(index=index) for index in (1, 2, 3)),
    visible="main\nhigh\n",
    associations="root|||normal\n",
    wckey="\n",
    account="root\n",
)

_GPU_CONFIG = """\
AccountingStorageEnforce = associations,limits,qos,wckeys
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = Atlas
JobSubmitPlugins        = lua
MaxArraySize            = 4001
PreemptMode             = GANG,REQUEUE
PreemptType             = preempt/qos
SLURM_VERSION           = 23.11.4
TrackWCKey              = Yes
"""


def _node(name: str, partitions: str, gres: str, *, cpus: int, memory: int, threads: int = 1, further: str = "") -> str:
    return (
        f"NodeName={name} Arch=x86_64 CPUAlloc=8 CPUEfctv={cpus} CPUTot={cpus} CPULoad=N/A AvailableFeatures=ib,nvlink "
        f"ActiveFeatures=ib,nvlink Gres={gres} NodeAddr={name} NodeHostName={name} Version=23.11.4 "
        f"OS=Linux 5.14.0 #1 SMP PREEMPT_DYNAMIC Tue Jan 2 RealMemory={memory} AllocMem=0 Sockets=2 Boards=1 {further} "
        f"State=MIXED ThreadsPerCore={threads} TmpDisk=0 Partitions={partitions} CfgTRES=cpu={cpus},mem={memory}M,gres/gpu=4 "
        "AllocTRES=cpu=8,mem=64G Reason=fan=loud Gres=lost Partitions=none [root@2026-01-05T10:00:00]\n"
    )


def _partition(name: str, **keys: str) -> str:
    base = {"Default": "NO", "DefaultTime": "01:00:00", "MaxTime": "2-00:00:00", "PriorityTier": "1", "RootOnly": "NO"}
    base |= {"PreemptMode": "GANG,REQUEUE", "State": "UP", "MaxMemPerNode": "UNLIMITED"}
    return f"PartitionName={name} " + " ".join(f"{key}={value}" for key, value in (base | keys).items()) + "\n"


#: Two kinds of GPU nodes in one partition, hyper-threads, reserved memory, partitions that are closed, hidden or empty.
GPU = SchedulerTexts(
    config=_GPU_CONFIG,
    partitions=_partition(
        "batch", Default="YES", MaxTime="UNLIMITED", DefaultTime="30:00", PreemptMode="OFF", MaxMemPerNode="200000"
    )
    + _partition("gpu")
    + _partition("drained", State="DRAIN")
    + _partition("admin", RootOnly="YES")
    + _partition("hidden")
    + _partition("empty"),
    nodes="".join(
        [
            *(_node(f"c{i:03}", "batch", "(null)", cpus=128, memory=256000, threads=2) for i in range(1, 5)),
            *(
                _node(
                    f"g{i:02}",
                    "gpu,hidden,drained,admin",
                    "gpu:a100:4(S:0-1),nic:2",
                    cpus=64,
                    memory=515000,
                    further="MemSpecLimit=3000",
                )
                for i in range(1, 4)
            ),
            _node("v01", "gpu", "gpu:v100:2(S:0),gpu:a100_3g.20gb:1(S:1)", cpus=40, memory=190000),
        ]
    ),
    visible="batch\ngpu\ndrained\nadmin\nempty\n",
    associations="phys|||normal\nphys|gpu|50|normal\nchem||2000|normal\n",
    wckey="*fusion\n",
    account="phys\n",
)
