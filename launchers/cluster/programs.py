"""The system's programs that a loopback cluster is made of, and what to install where they are missing."""

from __future__ import annotations

import os
import shutil

from results.errors import LaunchError

#: Program -> Debian package.
SLURM = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "srun": "slurm-wlm",
    "scontrol": "slurm-wlm",
    "sinfo": "slurm-wlm",
    "squeue": "slurm-wlm",
}
ACCOUNTING = {
    "slurmdbd": "slurmdbd",
    "sacct": "slurm-wlm",
    "sacctmgr": "slurm-wlm",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}


def search_path() -> str:
    """PATH, and where daemons lie but an ordinary user's PATH does not lead."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"])


def missing_programs(*, accounting: bool = True) -> dict[str, str]:
    """Programs that are not installed, each with the Debian package it comes in."""
    wanted = SLURM | (ACCOUNTING if accounting else {})
    return {name: package for name, package in wanted.items() if shutil.which(name, path=search_path()) is None}


def require_programs(*, accounting: bool = True) -> None:
    """Refuse to go on without them.

    Raises:
        LaunchError: naming the programs, their packages and the command that installs them.
    """
    missing = missing_programs(accounting=accounting)
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        without = accounting and not missing_programs(accounting=False)
        hint = "; without sacct it works as it is: tenfold cluster up --no-accounting" if without else ""
        raise LaunchError(
            f"a loopback cluster needs programs that are not installed: {', '.join(sorted(missing))}",
            where="PATH, /usr/sbin",
            next_step=f"make system   (as root; or: apt-get install {packages}){hint}",
        )


def program(name: str) -> str:
    """Full path of a program that :func:`require_programs` has found.

    Raises:
        LaunchError: it has gone since.
    """
    found = shutil.which(name, path=search_path())
    if found is None:
        raise LaunchError(f"{name} is not installed", where="PATH, /usr/sbin", next_step="make system")
    return found
