"""Commands, environment and readiness of each daemon."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from launchers.cluster import processes
from launchers.cluster.config import Layout, Ports, user_name
from launchers.cluster.ports import is_listening
from launchers.cluster.programs import program, search_path
from results.errors import LaunchError

MUNGED, DATABASE, ACCOUNTING, CONTROLLER = "munged", "mariadbd", "slurmdbd", "slurmctld"

#: A database of a few hundred jobs that lives for hours: small files, nothing forced to disk.
DATABASE_OPTIONS = [
    # Making it is a thousand waits for the disk otherwise: ten seconds in all where others use the disk, three without.
    "--loose-debug-no-sync",
    "--skip-sync-frm",
    "--innodb-flush-method=nosync",
    "--innodb-log-file-size=4M",
    "--innodb-buffer-pool-size=32M",
    "--loose-innodb-buffer-pool-size-max=64M",  # newer servers reserve terabytes of address space otherwise
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-lock-wait-timeout=900",  # what slurmdbd asks for
]


@dataclass(frozen=True, slots=True)
class Daemons:
    """Starts and finds the daemons of one cluster."""

    layout: Layout
    ports: Ports

    def pid_file(self, name: str) -> Path:
        return self.layout.run / f"{name}.pid"

    def log(self, name: str) -> Path:
        """What the daemon itself prints (Slurm's daemons write a file of the same text, with times, beside it)."""
        return self.layout.logs / f"{name}.out"

    def find(self, name: str) -> psutil.Process | None:
        """The living daemon."""
        return processes.daemon(self.layout.folder, name, self.pid_file(name))

    def environment(self, name: str) -> dict[str, str]:
        """Environment of a daemon: little of the caller's, nothing of a job that the caller may be in."""
        kept = {key: os.environ[key] for key in ("HOME", "LANG", "TZ", "TMPDIR") if key in os.environ}
        return {
            **kept,
            "PATH": search_path(),
            "SLURM_CONF": str(self.layout.slurm_conf),
            processes.MARK_CLUSTER: str(self.layout.folder),
            processes.MARK_NAME: name,
            # Where slurmdbd's client library looks for the database.
            **({"MYSQL_UNIX_PORT": str(self.layout.database_socket)} if name == ACCOUNTING else {}),
        }

    def command(self, name: str) -> list[str]:
        """The command line of a daemon, in the foreground; a node's name stands for its slurmd."""
        layout = self.layout
        if name == MUNGED:
            return [
                program("munged"),
                "--foreground",
                "--force",  # it would refuse a folder that others can enter, or cannot; what protects the key is its own mode
                f"--key-file={layout.munge_key}",
                f"--socket={layout.munge_socket}",
                f"--pid-file={layout.run}/munged.own",
                f"--seed-file={layout.run}/munge.seed",
                "--num-threads=10",
                "--origin=127.0.0.1",
            ]
        if name == DATABASE:
            return [
                program("mariadbd"),
                "--no-defaults",
                f"--datadir={layout.database}",
                f"--tmpdir={layout.temporary}",
                f"--user={user_name()}",
                f"--socket={layout.database_socket}",
                f"--pid-file={layout.run}/mariadbd.own",
                "--skip-networking",
                "--performance-schema=off",
                *DATABASE_OPTIONS,
            ]
        if name == ACCOUNTING:
            return [program("slurmdbd"), "-D"]
        if name == CONTROLLER:
            return [program("slurmctld"), "-D"]
        return [program("slurmd"), "-D", "-N", name]

    def is_ready(self, name: str) -> bool:
        """Whether a daemon answers at its socket or port."""
        if name == MUNGED:
            return _connects(self.layout.munge_socket)
        if name == DATABASE:
            return _connects(self.layout.database_socket)
        port = {ACCOUNTING: self.ports.accounting, CONTROLLER: self.ports.controller} | self.ports.nodes
        return is_listening(port[name])

    def start(self, *names: str, timeout_s: float = 30.0) -> None:
        """Start daemons together and wait until each answers; those that run already are left alone.

        Raises:
            LaunchError: one ended, or does not answer in time; its last words are in the message.
        """
        new = [name for name in names if self.find(name) is None]
        for name in new:
            self.pid_file(name).unlink(missing_ok=True)
            processes.start_detached(
                self.command(name),
                pid_file=self.pid_file(name),
                log=self.log(name),
                environment=self.environment(name),
                folder=self.layout.folder,
            )
        deadline = time.monotonic() + timeout_s
        for name in new:
            self._await(name, deadline)

    def _await(self, name: str, deadline: float) -> None:
        while not self.is_ready(name):
            dead = processes.ended(self.pid_file(name))
            if dead or time.monotonic() > deadline:
                raise LaunchError(
                    f"{name} {'ended' if dead else 'does not answer'}; its last words:\n{self.last_words(name)}",
                    where=str(self.layout.logs),
                    next_step="tenfold cluster down, then up again",
                )
            time.sleep(0.02)

    def last_words(self, name: str, lines: int = 12) -> str:
        """The end of what a daemon printed."""
        try:
            text = self.log(name).read_text(errors="replace")
        except OSError:
            return "(nothing)"
        return "\n".join(text.splitlines()[-lines:]) or "(nothing)"

    def stop(self, name: str) -> bool:
        """End one daemon gently; what it has started goes on. True if it ran.

        Raises:
            LaunchError: it does not end.
        """
        process = self.find(name)
        if process is None:
            return False
        if not processes.stop(process):
            raise LaunchError(f"{name} does not end", where=f"process {process.pid}", next_step="tenfold cluster down")
        return True

    def prepare(self) -> None:
        """What must lie there before the first start: a key of munge."""
        handle = os.open(self.layout.munge_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(128))

    def install_database(self) -> None:
        """Make an empty database whose only users are the owner of the folder, recognised by the socket, and root@localhost.

        Raises:
            LaunchError: mariadb-install-db failed.
        """
        self.layout.database.mkdir(mode=0o700)
        done = subprocess.run(
            [
                program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self.layout.database}",
                f"--user={user_name()}",
                "--skip-test-db",
                "--skip-name-resolve",
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={user_name()}",
                *DATABASE_OPTIONS,
            ],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=self.environment("mariadb-install-db"),
            cwd=self.layout.folder,
        )
        if done.returncode:
            words = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise LaunchError(f"mariadb-install-db failed:\n{words}", where=str(self.layout.database))


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], bool], timeout_s: float, *, every_s: float = 0.05) -> bool:
    """Poll a condition; False if it did not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
