"""Starts the all-reduce self-test through a launcher, the way runs are started, and reads what it measured."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.compose import Composer
from harness.prepare import wants_gpu
from harness.schema import ExperimentConfig
from harness.selftest import ASKED, FILE
from harness.sweeping import starter_for
from launchers.request import RunRequest
from launchers.site import SiteProfile
from launchers.starting import Starter, launch_log, program_log
from results.errors import LaunchError
from results.store import make_folder, read_json, write_json

if TYPE_CHECKING:
    from launchers.slurm.script import Allocation

MODULE = "harness.selftest"
#: Flags that every srun line has anyway.
STATED = ("nodes", "ntasks", "cpus-per-task")


def all_reduce(words: Sequence[str], say: Callable[[str], None], *, timeout_s: float = 300.0) -> dict[str, Any]:
    """Run the self-test on the ranks, launcher and site that the words name.

    Returns:
        ``world``, ``hosts`` (by rank), ``device``, ``backend``, ``sizes`` (``bytes``, ``median_s``, ``bus_bytes_per_s``).

    Raises:
        LaunchError: the ranks cannot be started, do not find each other, or do not answer in time.
    """
    named = [word for word in words if word.startswith("ranks=")]
    with Composer() as composer:  # several ranks need an engine that takes several: nothing is trained
        config = composer.compose([*words, *([] if named else ["ranks=2"]), "engine=zero0", "train.global_batch=4096"]).config
    site = config.site
    shared = Path(config.paths.runs) / ".selftest"  # nodes need a folder that all of them see
    make_folder(shared, what="the folder of the self-test", next_step="paths.runs=FOLDER")
    with tempfile.TemporaryDirectory(dir=shared.resolve()) as folder:
        request = RunRequest(
            folder=Path(folder),
            ranks=config.ranks,
            cores_per_rank=config.launcher.cores_per_rank,
            gpus_per_rank=int(wants_gpu(config)),
            nodes=config.launcher.nodes,
            time_limit_s=timeout_s,
            module=MODULE,
        )
        write_json(request.folder / ASKED, {"device": config.device})
        starter = _starter(config, request)
        say(f"all-reduce over {config.ranks} ranks, launcher {config.launcher.name}, site {site.name} ...")
        found = _run(starter, request, timeout_s)
    return found


def _run(starter: Starter, request: RunRequest, timeout_s: float) -> dict[str, Any]:
    try:
        started = starter.start(request, [])
    except OSError as error:
        raise LaunchError(f"the ranks cannot be started: {error}", where=f"launcher {starter.name}") from error
    deadline = time.monotonic() + timeout_s
    while not started.ended:
        if time.monotonic() > deadline:
            started.kill()
            started.close()
            raise LaunchError(f"no answer within {timeout_s:g} s", where=f"launcher {starter.name}", next_step="tenfold doctor")
        time.sleep(0.1)
    started.close()
    failed = [rank for rank, code in enumerate(started.codes()) if code]
    path = request.folder / FILE
    if failed or not path.exists():
        files = [launch_log(request.folder, rank) for rank in failed[:1]] + [program_log(request.folder)]
        said = [line for file in files if file.exists() for line in file.read_text(errors="replace").strip().splitlines()[-3:]]
        raise LaunchError(
            f"rank {failed[0] if failed else 0} failed: {' | '.join(said) or 'it said nothing'}",
            where=f"launcher {starter.name}",
            next_step="site.interface=NAME chooses the network interface; tenfold doctor examines this machine",
        )
    found: dict[str, Any] = read_json(path)
    return found


def _starter(config: ExperimentConfig, request: RunRequest) -> Starter:
    if config.launcher.name != "slurm":
        return starter_for(config)
    from launchers.slurm.script import allocation_for
    from launchers.slurm.starter import SrunStarter

    need = allocation_for(request, config.site)
    flags = dataclasses.replace(config.site, srun=[*config.site.srun, *_flags(need, config.site)])
    return SrunStarter(site=flags, ranks_per_node=-(-need.ranks // need.nodes), addresses=_addresses(config.site))


def _flags(need: Allocation, site: SiteProfile) -> list[str]:
    """srun outside a job makes an allocation of its own: it is asked for as sbatch asks for a run's. What the starter states
    itself is left out."""
    from launchers.slurm.script import allocation_flags

    flags = {name: value for name, value in allocation_flags(need, site).items() if name not in STATED}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]


def _addresses(site: SiteProfile) -> dict[str, str]:
    if site.node_address != "scheduler":
        return {}
    from launchers.slurm.commands import Slurm

    return Slurm(site.slurm_conf).node_addresses()
