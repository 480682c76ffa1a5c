"""The facts of one cluster that requests are translated with: a site profile (``configs/site/NAME.yaml``, or discovered).

A profile is data. Nothing here asks a scheduler; :mod:`launchers.discover` does, and writes a profile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.errors import ConfigError


@dataclass
class PartitionProfile:
    """One partition's nodes, as the planner and the submitter need them."""

    nodes: int = 0
    cores_per_node: int = 0
    memory_gib_per_node: float = 0.0
    gpus_per_node: int = 0
    gpu_type: str | None = None  # a key of harness.planning.devices, or the scheduler's own word
    max_time_s: float | None = None  # null: no limit
    default_time_s: float | None = None
    preemptible: bool = False  # a job here may be requeued for another
    features: list[str] = field(default_factory=list)


@dataclass
class SiteProfile:
    """Facts of one machine or cluster; only the name is part of a run's identity: it says whose numbers these are."""

    name: str = "local"
    description: str = ""
    scheduler: str = "none"  # none | slurm
    # Flags that every job of this site gets; null: the flag is not written.
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodelist: str | None = None  # these nodes must be among the job's
    exclude: str | None = None  # these must not
    wckey: str | None = None
    gpu_type: str | None = None  # as the scheduler spells it, for the flag below
    gpu_flag: str = "gres"  # gres | gpus-per-node: the spelling that this site accepts
    memory_flag: bool = True  # false where the site refuses --mem
    time_limit_s: float | None = None  # limit of a job whose run states none; null: the partition's default
    sbatch: dict[str, str] = field(default_factory=dict)  # further flags, verbatim: {nice: "100"}; an empty text is a bare flag
    srun: list[str] = field(default_factory=list)  # further words of every srun
    # Limits of the scheduler; null: asked for at submission.
    max_array_size: int | None = None
    max_submit_jobs: int | None = None
    array_throttle: int | None = None  # tasks of all arrays of one submission that may run at a time
    poll_s: float = 30.0  # one question about all jobs, at most this often
    # What a job does before anything else.
    modules: list[str] = field(default_factory=list)  # module load ...
    setup: list[str] = field(default_factory=list)  # further shell lines
    python: str | None = None  # null: the interpreter that submits
    environment: dict[str, str] = field(default_factory=dict)  # set for every rank
    pass_environment: list[str] = field(default_factory=list)  # copied from the submitting shell if set there
    caches: str | None = None  # node-local folder for compiled extensions; null: under the job's temporary folder
    # Network.
    interface: str | None = None  # GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME
    node_address: str = "hostname"  # hostname | scheduler (NodeAddr): how other nodes reach rank 0
    # The machine.
    slurm_conf: str | None = None  # SLURM_CONF of commands to this cluster; null: the ambient one
    shared_machine: bool = False  # nodes are processes on one machine (loopback): an exclusive stage runs one job at a time
    partitions: dict[str, PartitionProfile] = field(default_factory=dict)


def sites_folder() -> Path:
    """Where discovered profiles are written and found: ``$TENFOLD_CONFIG/site``, else ``$XDG_CONFIG_HOME/tenfold/site``."""
    return user_config_folder() / "site"


def user_config_folder() -> Path:
    """The user's own configuration groups: ``$TENFOLD_CONFIG``, else ``$XDG_CONFIG_HOME/tenfold`` (``~/.config/tenfold``)."""
    if os.environ.get("TENFOLD_CONFIG"):
        return Path(os.environ["TENFOLD_CONFIG"])
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tenfold"


def site_from(plain: dict[str, Any]) -> SiteProfile:
    """A profile from plain values (a frozen configuration, a ledger); unknown keys are ignored.

    Raises:
        ConfigError: ``partitions`` is not a mapping of mappings.
    """
    known = {name: plain[name] for name in SiteProfile.__dataclass_fields__ if name in plain}
    try:
        partitions = {
            name: PartitionProfile(**{key: value for key, value in keys.items() if key in PartitionProfile.__dataclass_fields__})
            for name, keys in (known.pop("partitions", None) or {}).items()
        }
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"'partitions' is no mapping of partitions: {error}", where="site.partitions") from error
    return SiteProfile(**known, partitions=partitions)


def default_site() -> str:
    """The site that ``launcher=slurm`` means where none is named: ``$TENFOLD_SITE``, the loopback cluster, or the only one known.

    Raises:
        ConfigError: none is known, or several are.
    """
    named = os.environ.get("TENFOLD_SITE")
    if named:
        return named
    known = sorted(path.stem for path in sites_folder().glob("*.yaml"))
    if "loopback" in known:
        return "loopback"
    if len(known) == 1:
        return known[0]
    if known:
        raise ConfigError(
            f"several sites are known: {', '.join(known)}", where="site", next_step="site=NAME, or TENFOLD_SITE=NAME"
        )
    raise ConfigError(
        "launcher=slurm needs a site, and none is known here",
        where="site",
        next_step="tenfold doctor --site (on a cluster), or tenfold cluster up (to try it on this machine)",
    )
