"""The site profile ``loopback``: how a submission finds the cluster that is up."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import yaml

from launchers.cluster.config import CLUSTER, HIGH_PARTITION, PARTITION, Layout
from launchers.cluster.settings import ClusterSettings, machine_cores
from launchers.site import PartitionProfile, SiteProfile, sites_folder
from launchers.site_text import site_text
from results.errors import BusyError
from results.store import make_folder, read_json, read_json_or, write_json, write_text

HEADING = (
    "A real Slurm on this one machine. Written by `tenfold cluster up`, removed by `tenfold cluster down`.",
    "Its nodes share the machine's cores: what they announce together may be more than there is.",
)


def profile_path() -> Path:
    """Where the profile lies."""
    return sites_folder() / f"{CLUSTER}.yaml"


def loopback_profile(layout: Layout, settings: ClusterSettings) -> SiteProfile:
    """The profile of a cluster."""
    high = PartitionProfile(
        nodes=settings.nodes,
        cores_per_node=settings.cpus,
        memory_gib_per_node=round(settings.memory_mib / 1024, 3),
        gpus_per_node=settings.gpus_per_node,
        gpu_type=settings.gpu_type if settings.gpus_per_node else None,
    )
    partitions = {PARTITION: dataclasses.replace(high, preemptible=settings.preempt)}
    if settings.preempt:
        partitions[HIGH_PARTITION] = high
    return SiteProfile(
        name=CLUSTER,
        description=f"a real Slurm of {settings.nodes} nodes on this machine",
        scheduler="slurm",
        partition=PARTITION,
        max_array_size=settings.max_array_size or 1001,
        array_throttle=machine_cores(),
        poll_s=1.0,
        interface="lo",
        node_address="scheduler",
        slurm_conf=str(layout.slurm_conf),
        shared_machine=True,
        partitions=partitions,
    )


def write_profile(layout: Layout, settings: ClusterSettings) -> Path:
    """Write the profile of a cluster that is up.

    Raises:
        BusyError: another cluster that exists has the profile.
    """
    path = profile_path()
    refuse_foreign_profile(layout)
    made = [str(folder) for folder in (path.parent, path.parent.parent) if not folder.exists()]
    write_json(layout.facts, {**read_json(layout.facts), "made_folders": made})
    make_folder(path.parent, what="the folder of site profiles", next_step="choose another by TENFOLD_CONFIG=FOLDER")
    write_text(path, site_text(loopback_profile(layout, settings), HEADING))
    return path


def refuse_foreign_profile(layout: Layout) -> None:
    """Two clusters cannot both be site ``loopback`` of one user.

    Raises:
        BusyError: another cluster that exists has the profile.
    """
    other = _cluster_of(profile_path())
    if other is not None and other != layout.slurm_conf and other.exists():
        raise BusyError(
            f"site {CLUSTER} belongs to another cluster, in {other.parent}",
            where=str(profile_path()),
            next_step=f"tenfold cluster down --folder {other.parent}   (or TENFOLD_CONFIG=FOLDER for profiles of your own)",
        )


def remove_profile(layout: Layout) -> bool:
    """Remove the profile if it is this cluster's; True if it was."""
    path = profile_path()
    if _cluster_of(path) != layout.slurm_conf:
        return False
    path.unlink(missing_ok=True)
    for folder in read_json_or(layout.facts, {}).get("made_folders", []):  # by `up`; one that holds more by now stays
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return True


def _cluster_of(path: Path) -> Path | None:
    """slurm.conf that a profile names; None where there is no readable profile."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return None
    named = found.get("slurm_conf") if isinstance(found, dict) else None
    return Path(named) if isinstance(named, str) else None
