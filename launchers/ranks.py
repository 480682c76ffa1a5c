"""The processes of one run on this machine: started with all rendezvous variables, watched, ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from launchers.presence import announce, withdraw
from launchers.request import RunRequest
from results.errors import TenfoldError
from results.failures import NEXT_STEP, Failure, FailureClass, classify_exit
from results.runfolder import Attempt, RunFolder
from results.store import FileLock

#: After one rank failed, the others get this long to write their own files before they are killed.
GRACE_S = 5.0


def free_port() -> int:
    """A port nobody listens on now, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def rank_environment(request: RunRequest, rank: int, port: int) -> dict[str, str]:
    """Variables of one rank. Rendezvous variables of an enclosing job are replaced, never inherited."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PMI_", "OMPI_", "TORCHELASTIC_"))
    }
    threads = str(request.cores_per_rank)
    root = Path(__file__).resolve().parents[1]
    if "site-packages" not in root.parts:  # a checkout: ranks run the code that launched them
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), inherited.get("PYTHONPATH", "")]))
    return {
        **inherited,
        "RANK": str(rank),
        "WORLD_SIZE": str(request.ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(request.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "GLOO_SOCKET_IFNAME": inherited.get("GLOO_SOCKET_IFNAME", "lo"),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        **request.environment,
    }


class RankProcesses:
    """All ranks of one run. The run's lock is held here and inherited by every rank: if this process is killed the ranks still
    hold it, and when they end the kernel frees it.

    Args:
        lock: held; released when the ranks have ended.
    """

    def __init__(self, request: RunRequest, lock: FileLock) -> None:
        self.request, self.folder = request, RunFolder(request.folder)
        self._lock = lock
        self.started = time.monotonic()
        self.shared_with = 0
        self._attempt: Attempt | None = None
        self._presence = announce()
        self._deadline: float | None = None
        self._kill_at: float | None = None
        self._failed_rank: int | None = None
        self._stopped: Failure | None = None
        before = self.folder.last_attempt()
        self._first_attempt = 0 if before is None else before.index + 1
        port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._outputs: list[IO[bytes]] = []
        try:
            for rank in range(request.ranks):
                self._start(rank, port)
        except OSError:
            self.kill()
            for output in self._outputs:
                output.close()
            withdraw(self._presence)
            raise
        if request.time_limit_s:
            self._deadline = self.started + request.time_limit_s

    def _start(self, rank: int, port: int) -> None:
        output = (self.folder.path / f".launch-{rank}.txt").open("wb")
        self._outputs.append(output)
        self.processes.append(
            subprocess.Popen(
                # -P: files in the user's working directory must not shadow packages
                [sys.executable, "-P", "-m", self.request.module, str(self.folder.path)],
                env=rank_environment(self.request, rank, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno() for lock in (self._lock, self._presence) if lock is not None],
                start_new_session=True,  # Ctrl-C in the terminal reaches the launcher alone
            )
        )

    def attempt(self) -> Attempt | None:
        """The attempt these processes have claimed, once they have."""
        if self._attempt is None:
            found = [attempt for attempt in self.folder.attempts() if attempt.index >= self._first_attempt]
            self._attempt = found[0] if found else None
        return self._attempt

    def note_company(self, others: int) -> None:
        """So many others run on the machine; written down at once, so that it is known even if this launcher is killed."""
        more = others > self.shared_with
        self.shared_with = max(self.shared_with, others)
        attempt = self.attempt()
        if attempt is not None and (more or not (attempt.path / "launch.json").exists()):
            with contextlib.suppress(TenfoldError):
                attempt.write("launch", {"shared_with": self.shared_with})

    def poll(self) -> bool:
        """Look after the ranks; True once all have ended and the ending is recorded."""
        codes = [process.poll() for process in self.processes]
        now = time.monotonic()
        if self._failed_rank is None:
            failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
            if failed:
                self._failed_rank = self._blame(failed, codes)
                self._kill_at = now + GRACE_S
                if (codes[self._failed_rank] or 0) < 0:
                    self._speak_for(self._failed_rank, codes[self._failed_rank] or 0)
        if self._deadline is not None and now > self._deadline and None in codes:
            self.stop(FailureClass.TIMEOUT, f"the limit of {self.request.time_limit_s:g} s was reached")
            self._deadline = None
        if self._kill_at is not None and now > self._kill_at:
            self.kill()
        if None in codes:
            return False
        self._finish([code for code in codes if code is not None])
        return True

    def _blame(self, failed: list[int], codes: list[int | None]) -> int:
        """Of the ranks that ended badly, the one at fault: one killed by a signal did not follow another's failure."""
        attempt = self.attempt()
        recorded = attempt.failure() if attempt else None
        if recorded is not None and recorded.get("rank") is not None:
            return int(recorded["rank"])
        killed = [rank for rank in failed if (codes[rank] or 0) < 0]
        return (killed or failed)[0]

    def stop(self, kind: FailureClass, reason: str) -> None:
        """Ask the ranks to save and leave, recording why; they are killed if they do not."""
        self._stopped = Failure(
            kind=kind, reason=reason, host=socket.gethostname(), next_step=NEXT_STEP[kind].format(run=self.folder.name)
        )
        attempt = self.attempt()
        if attempt is not None:
            attempt.fail(self._stopped)
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        self._kill_at = time.monotonic() + 6 * GRACE_S

    def kill(self) -> None:
        """End the ranks at once."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _finish(self, codes: list[int]) -> None:
        for output in self._outputs:
            output.close()
        try:
            self._record(codes)
        except (TenfoldError, OSError) as error:  # a full disk, say: other runs must not suffer for it
            with contextlib.suppress(OSError):
                print(f"{self.folder.name}: its end could not be recorded: {error}", file=sys.stderr, flush=True)
        finally:
            self._lock.release()
            withdraw(self._presence)

    def _record(self, codes: list[int]) -> None:
        """Write what only the launcher knows, and the failure that a killed rank could not write itself."""
        from results.merge import write_record

        attempt = self.attempt()
        bad = any(code != 0 for code in codes)
        if attempt is None:  # not even rank 0 got that far
            attempt = self._attempt = self.folder.claim_attempt()
        attempt.write(
            "launch",
            {
                "exit_codes": codes,
                "elapsed_s": time.monotonic() - self.started,
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
                "shared_with": self.shared_with,
            },
        )
        completed = attempt.completed
        if bad and not completed:
            rank = self._failed_rank or 0
            self._speak_for(rank, codes[rank])
        elif not completed:
            attempt.fail(
                Failure(
                    kind=FailureClass.CRASH,
                    reason="all ranks ended with status 0 and left no outcome",
                    next_step=NEXT_STEP[FailureClass.CRASH].format(run=self.folder.name),
                )
            )
        write_record(self.folder)
        for rank in range(self.request.ranks):
            (self.folder.path / f".launch-{rank}.txt").unlink(missing_ok=True)

    def _speak_for(self, rank: int, code: int) -> None:
        """Record the failure of a rank that cannot do so itself; a failure recorded earlier stays."""
        attempt = self.attempt()
        if attempt is None:
            return
        if self._stopped is not None:  # it was asked to end before it had an attempt to say so in
            attempt.fail(self._stopped)
            return
        tail = self._tail(attempt, rank)
        kind, reason = classify_exit(code, tail)
        attempt.fail(
            Failure(
                kind=kind,
                reason=reason,
                rank=rank,
                step=_last_step(attempt),
                host=socket.gethostname(),
                next_step=NEXT_STEP[kind].format(run=self.folder.name),
                traceback=tail,
            )
        )

    def _tail(self, attempt: Attempt, rank: int) -> str:
        for path in (attempt.log(rank), self.folder.path / f".launch-{rank}.txt"):
            if path.exists() and path.stat().st_size:
                return path.read_bytes()[-4000:].decode(errors="replace")
        return ""


def _last_step(attempt: Attempt) -> int | None:
    progress = attempt.read("progress", {})
    return progress.get("done") if progress.get("phase") == "train" else None
