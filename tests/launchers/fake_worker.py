"""A worker without a model: ``python -m tests.launchers.fake_worker RUN_FOLDER`` does what ``orders.json`` says.

It writes when it lived (``lived-<rank>.json``, seconds of the system-wide monotonic clock), its variables and process id, and,
unless ordered otherwise, an outcome.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from results.failures import Failure, FailureClass
from results.runfolder import RunFolder
from results.store import read_json_or, write_json


def main() -> int:
    """Orders: ``last_s`` (how long the work takes), ``exit`` (status), ``exit_rank`` (only this one exits with it), ``fail``
    (class to record), ``kill_rank`` (which kills itself), ``wait`` (for ever), ``heed`` (until the stop file is there: then it
    leaves after step 7), ``leave`` (at once, as if it had got a signal of its own), ``save_s`` (how long leaving takes),
    ``quit_rank`` (which fails instead of leaving), ``boundary_s`` (what it tells of its steps), ``deaf`` (SIGTERM is ignored),
    ``unclaimed`` (no attempt is claimed), ``silent``."""
    begun = time.monotonic()
    folder, rank = RunFolder(Path(sys.argv[1])), int(os.environ["RANK"])
    orders = read_json_or(folder.path / "orders.json", {})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that a shell put in the background hands on "ignored"
    if orders.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    attempt = None
    if rank == 0 and not orders.get("unclaimed"):
        attempt = folder.claim_attempt()
        job = json.loads(os.environ["TENFOLD_JOB"]) if "TENFOLD_JOB" in os.environ else None
        facts = {"attempt": attempt.index, "engine": "torch", "ranks": int(os.environ["WORLD_SIZE"])}
        attempt.write("attempt", {**facts, "started": "2026-11-23T22:00:00+00:00", "job": job} if job else facts)
        if orders.get("boundary_s"):
            attempt.write("progress", {"phase": "train", "done": 7, "total": 9, "boundary_s": orders["boundary_s"]})
    write_json(folder.path / f"pid-{rank}.json", os.getpid())
    write_json(folder.path / f"environment-{rank}.json", dict(os.environ))
    print(f"rank {rank} is here", flush=True)
    if rank == orders.get("kill_rank"):
        os.kill(os.getpid(), signal.SIGKILL)
    exits = int(orders.get("exit", 0)) if orders.get("exit_rank") in (None, rank) else 0
    if orders.get("exit_rank") == rank:
        return exits
    if orders.get("heed") or orders.get("leave"):
        return _leave(folder, rank, orders)
    waits = orders.get("wait") or orders.get("kill_rank") is not None or orders.get("exit_rank") is not None
    threading.Event().wait(None if waits else orders.get("last_s", 0.02))
    if attempt is not None and orders.get("fail"):
        attempt.fail(Failure(kind=FailureClass(orders["fail"]), reason="ordered", rank=0, next_step="tenfold retry"))
    if attempt is not None and not orders.get("silent") and not exits:
        attempt.write("outcome", {"status": "completed", "metrics": {}})
    write_json(folder.path / f"lived-{rank}.json", [begun, time.monotonic()])
    return exits


def _leave(folder: RunFolder, rank: int, orders: dict[str, Any]) -> int:
    while True:
        attempt = folder.last_attempt()
        if attempt is not None and (orders.get("leave") or attempt.stop_file.exists()):
            break
        threading.Event().wait(0.02)
    if rank == orders.get("quit_rank"):
        return 3
    threading.Event().wait(orders.get("save_s", 0.0))
    if rank == 0:
        attempt.write("leave", {"step": 7, "reason": "asked to leave after step 7", "host": "here"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
