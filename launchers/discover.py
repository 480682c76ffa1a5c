"""A site profile from what a cluster says of itself: ``scontrol show config / partition / node``, ``sinfo``, ``sacctmgr``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from launchers.scheduler_texts import SchedulerTexts, ask_scheduler, site_name
from launchers.scontrol_text import config, gpus, known, number, records
from launchers.site import PartitionProfile, SiteProfile, sites_folder
from launchers.site_text import site_text
from launchers.slurm.commands import seconds
from results.errors import BusyError, ConfigError, LaunchError
from results.store import make_folder, write_text

#: Physical cores, memory in MiB, GPUs, their type.
Shape = tuple[int, int, int, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """A profile, and what a reader should know about its keys.

    Attributes:
        notes: key -> lines of comment.
    """

    profile: SiteProfile
    heading: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]]

    @property
    def text(self) -> str:
        """The commented YAML."""
        return site_text(self.profile, self.heading, self.notes)


def discover(texts: SchedulerTexts, name: str | None = None, *, conf: str | None = None) -> Discovery:
    """The profile that the texts amount to.

    Args:
        name: of the site; None: the cluster's name.
        conf: ``SLURM_CONF`` that the profile names; None: the site's own default.

    Raises:
        LaunchError: the cluster shows no partition that has nodes.
    """
    settings, nodes = config(texts.config), records(texts.nodes)
    notes: dict[str, tuple[str, ...]] = {}
    partitions, remarks = _partitions(texts, settings, nodes)
    rows = records(texts.partitions)
    default = next((row["PartitionName"] for row in rows if row.get("Default") == "YES"), None)
    default = default if default in partitions else None
    if default is None:
        notes["partition"] = ("The cluster has no default partition: name one of those below.",)
    elif len(partitions) > 1:
        notes["partition"] = (f"The cluster's default; there are also {', '.join(sorted(set(partitions) - {default}))}.",)
    notes["partitions"] = (
        "Physical cores and usable memory of a node. A partition with several kinds of nodes is described by its commonest kind.",
        *remarks,
    )
    submit_limit = _limits(texts, notes)
    wckey = _wckey(texts, settings, notes)
    types = _types(default, rows, nodes)
    if len(types) > 1:
        notes["gpu_type"] = (f"The default partition has several types ({', '.join(types)}); null takes any of them.",)
    if known(settings.get("JobSubmitPlugins")):
        notes["sbatch"] = (
            f"Jobs pass a plugin of the site ({settings['JobSubmitPlugins']}): `tenfold sweep --check` shows what it says.",
        )
    notes["modules"] = ("Loaded by every job before anything else; the scheduler does not know them.",)
    here = _same_machine(nodes)
    profile = SiteProfile(
        name=name or site_name(texts),
        description=f"Slurm {settings.get('SLURM_VERSION', '')}".strip(),
        scheduler="slurm",
        partition=default,
        wckey=wckey,
        max_array_size=number(settings.get("MaxArraySize")),
        max_submit_jobs=submit_limit,
        array_throttle=len(os.sched_getaffinity(0)) if here else None,
        poll_s=1.0 if here else SiteProfile.poll_s,
        interface="lo" if here else None,
        node_address="scheduler" if here or _named_apart(nodes) else "hostname",
        slurm_conf=conf,
        shared_machine=here,
        partitions=partitions,
    )
    heading = (
        f"Site {profile.name}: discovered from Slurm on {datetime.now(UTC):%Y-%m-%d} by `tenfold doctor --site`. Yours to edit.",
    )
    return Discovery(profile=profile, heading=heading, notes=notes)


def _partitions(
    texts: SchedulerTexts, settings: Mapping[str, str], nodes: list[dict[str, str]]
) -> tuple[dict[str, PartitionProfile], list[str]]:
    """Partitions this user can submit to, and remarks on those that are left out or hold several kinds of nodes."""
    seen = None if texts.visible is None else set(texts.visible.split())
    found: dict[str, PartitionProfile] = {}
    remarks = []
    preempting = known(settings.get("PreemptType")) not in (None, "preempt/none")
    tiers = [number(row.get("PriorityTier")) or 0 for row in records(texts.partitions)]
    for row in records(texts.partitions):
        name = row["PartitionName"]
        if seen is not None and name not in seen:
            continue
        if row.get("RootOnly") == "YES" or row.get("State", "UP") != "UP":
            remarks.append(f"Left out: {name} ({'for root only' if row.get('RootOnly') == 'YES' else row['State'].lower()}).")
            continue
        members = [node for node in nodes if name in node.get("Partitions", "").split(",")]
        shapes = Counter(_shape(node, row) for node in members)
        if not shapes:
            remarks.append(f"Left out: {name} (no nodes).")
            continue
        commonest = min(shapes, key=lambda shape: (-shapes[shape], str(shape)))
        others = [f"{count} with {_words(shape)}" for shape, count in sorted(shapes.items(), key=str) if shape != commonest]
        if others:
            remarks.append(f"{name} also has nodes of other kinds: {'; '.join(others)}.")
        cores, memory, gpu_count, gpu_type = commonest
        mode = (known(row.get("PreemptMode")) or settings.get("PreemptMode", "OFF")).upper()
        # By partition, a job only gives way to one of a higher tier; by QOS, to whatever the site has set.
        lower = "qos" in settings.get("PreemptType", "") or (number(row.get("PriorityTier")) or 0) < max(tiers)
        found[name] = PartitionProfile(
            nodes=shapes[commonest],
            cores_per_node=cores,
            memory_gib_per_node=round(memory / 1024, 3),
            gpus_per_node=gpu_count,
            gpu_type=gpu_type,
            max_time_s=seconds(row.get("MaxTime", "")),
            default_time_s=seconds(row.get("DefaultTime", "")),
            preemptible=preempting and lower and not mode.startswith("OFF"),
            features=sorted({word for node in members for word in (known(node.get("ActiveFeatures")) or "").split(",") if word}),
        )
    if not found:
        raise LaunchError(
            "the cluster shows no partition with nodes to this user", where="scontrol show partition", next_step="sinfo --all"
        )
    return found, remarks


def _shape(node: Mapping[str, str], partition: Mapping[str, str]) -> Shape:
    """What one node offers to a partition's jobs."""
    threads = number(node.get("ThreadsPerCore")) or 1
    cpus = number(node.get("CPUEfctv")) or number(node.get("CPUTot")) or 0
    memory = (number(node.get("RealMemory")) or 0) - (number(node.get("MemSpecLimit")) or 0)
    limit = number(partition.get("MaxMemPerNode"))
    units = gpus(node.get("Gres"))
    return max(cpus // threads, 1), memory if limit is None else min(memory, limit), units.count, units.main_type


def _words(shape: Shape) -> str:
    cores, memory, count, kind = shape
    return f"{cores} cores, {memory / 1024:g} GiB" + (f", {count} x {kind or 'GPU'}" if count else "")


def _types(partition: str | None, rows: list[dict[str, str]], nodes: list[dict[str, str]]) -> list[str]:
    """GPU types in a partition."""
    inside = [node for node in nodes if partition in node.get("Partitions", "").split(",")]
    return sorted({kind for node in inside for kind, _ in gpus(node.get("Gres")).types})


def _limits(texts: SchedulerTexts, notes: dict[str, tuple[str, ...]]) -> int | None:
    """Jobs that may be submitted at a time, from the user's associations; no account is named where the default one will do."""
    if texts.associations is None:
        notes["max_submit_jobs"] = ("No accounting answered: whether there is a limit is not known.",)
        return None
    rows = [line.split("|") for line in texts.associations.splitlines() if line.strip()]
    default = (texts.account or "").strip()
    accounts = sorted({row[0] for row in rows})
    if len(accounts) > 1:
        notes["account"] = (f"Yours: {', '.join(accounts)}; null takes your default, {default or 'if you have one'}.",)
    mine = [row for row in rows if row[0] == default] or rows
    limits = [int(row[2]) for row in mine if len(row) > 2 and row[2].isdecimal()]
    return min(limits, default=None)


def _wckey(texts: SchedulerTexts, settings: Mapping[str, str], notes: dict[str, tuple[str, ...]]) -> str | None:
    """The wckey to name, where the site refuses jobs without a valid one."""
    if "wckeys" not in settings.get("AccountingStorageEnforce", "").lower():
        if settings.get("TrackWCKey", "").lower() == "yes":
            notes["wckey"] = ("The site records wckeys and does not ask for one.",)
        return None
    mine = (texts.wckey or "").strip().lstrip("*")
    if mine:
        notes["wckey"] = ("The site refuses jobs without a valid wckey; this is your default.",)
        return mine
    notes["wckey"] = ("The site refuses jobs without a valid wckey, and you have no default: name one here.",)
    return None


def _same_machine(nodes: list[dict[str, str]]) -> bool:
    """Whether several nodes are processes of one machine, reached on loopback."""
    addresses = [node.get("NodeAddr", "") for node in nodes]
    hosts = {node.get("NodeHostName", "") for node in nodes}
    return bool(addresses) and len(hosts) == 1 and all(address.startswith("127.") for address in addresses)


def _named_apart(nodes: list[dict[str, str]]) -> bool:
    """Whether nodes are reached by other names than their own."""
    return any(known(node.get("NodeAddr")) not in (None, node.get("NodeName"), node.get("NodeHostName")) for node in nodes)


def write_site(name: str | None = None, *, force: bool = False) -> tuple[Path, Discovery]:
    """Ask the cluster that this shell (or, if there is one, the profile of that name) points to and write its profile.

    Args:
        name: of the site; None: the cluster's name.
        force: replace a profile that exists.

    Raises:
        BusyError: a profile of that name exists.
        ConfigError: the name cannot be a file's.
        LaunchError: there is no cluster.
    """
    if name is not None and (not name or name.startswith(".") or "/" in name or name == "local"):
        raise ConfigError(f"a site cannot be called '{name}'", where="doctor --site", next_step="tenfold doctor --site NAME")
    conf = os.environ.get("SLURM_CONF") or (_conf_of(name) if name else None)
    if name is not None:
        _refuse(name, force)
    texts = ask_scheduler(conf)
    chosen = name or site_name(texts)
    _refuse(chosen, force)
    found = discover(texts, chosen, conf=conf)
    path = sites_folder() / f"{chosen}.yaml"
    make_folder(path.parent, what="the folder of site profiles", next_step="choose another by TENFOLD_CONFIG=FOLDER")
    write_text(path, found.text)
    return path, found


def _refuse(name: str, force: bool) -> None:
    path = sites_folder() / f"{name}.yaml"
    if path.exists() and not force:
        raise BusyError(
            f"there is a profile of site {name} already",
            where=str(path),
            next_step=f"tenfold doctor --site {name} --force   (loses what was edited in it), or --site OTHER_NAME",
        )


def _conf_of(name: str) -> str | None:
    """slurm.conf that the profile of a site names."""
    try:
        found = yaml.safe_load((sites_folder() / f"{name}.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return None
    named = found.get("slurm_conf") if isinstance(found, dict) else None
    return named if isinstance(named, str) else None
