"""What a cluster's commands say of it: asked once, kept as text, so that what is made of it can be tested on recorded answers."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path

from launchers.scontrol_text import config, known
from launchers.slurm.commands import Slurm
from results.errors import LaunchError


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerTexts:
    """What the commands printed.

    Attributes:
        visible: ``sinfo --format=%R``: partitions this user may see; None: it said nothing.
        associations: ``sacctmgr show assoc`` (account, default QOS, MaxSubmitJobs); None: no accounting, or it does not answer.
        wckey: ``sacctmgr show user`` (default wckey); None as above.
    """

    config: str
    partitions: str
    nodes: str
    visible: str | None = None
    associations: str | None = None
    wckey: str | None = None
    account: str | None = None


def site_name(texts: SchedulerTexts) -> str:
    """What a site is called where nobody names it: its cluster's name."""
    return (known(config(texts.config).get("ClusterName")) or "cluster").lower()


def ask_scheduler(conf: str | None = None, *, user: str | None = None) -> SchedulerTexts:
    """Ask a cluster.

    Args:
        conf: ``SLURM_CONF``; None: the ambient one.
        user: whose limits; None: the caller's.

    Raises:
        LaunchError: there is no Slurm here, or its controller does not answer. Accounting may be absent.
    """
    slurm = Slurm(conf)
    name = user or getpass.getuser()

    def accounting(*words: str) -> str | None:
        try:
            return slurm.call("sacctmgr", "--noheader", "--parsable2", "show", *words, patience_s=2.0)
        except LaunchError:
            return None

    def visible() -> str | None:
        try:
            return slurm.call("sinfo", "--noheader", "--format=%R")
        except LaunchError:
            return None

    named = slurm.environment().get("SLURM_CONF")
    try:
        if named and not Path(named).exists():  # Slurm's own commands would wait a minute for it
            raise LaunchError("slurm.conf does not exist")
        texts = slurm.call("scontrol", "show", "config")
    except LaunchError as error:
        raise LaunchError(
            f"no Slurm answers here: {error.what.splitlines()[-1]}",
            where=f"SLURM_CONF={named}" if named else "SLURM_CONF is not set",
            next_step="type it on a login node of the cluster, or set SLURM_CONF; to try without a cluster: tenfold cluster up",
        ) from error
    cluster = config(texts).get("ClusterName", "")
    with_accounting = config(texts).get("AccountingStorageType", "").endswith("slurmdbd")
    form = "format=Account,Partition,MaxSubmitJobs,DefaultQOS"
    return SchedulerTexts(
        config=texts,
        partitions=slurm.call("scontrol", "--oneliner", "show", "partition"),
        nodes=slurm.call("scontrol", "--oneliner", "show", "node"),
        visible=visible(),
        associations=accounting("assoc", f"user={name}", f"cluster={cluster}", form) if with_accounting else None,
        wckey=accounting("user", name, "format=DefaultWCKey") if with_accounting else None,
        account=accounting("user", name, "format=DefaultAccount") if with_accounting else None,
    )
