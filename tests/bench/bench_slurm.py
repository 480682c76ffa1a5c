"""Submitting, leaving and looking on a real Slurm on this machine: ``python -m tests.bench.bench_slurm [--data FOLDER]``.

* A thousand points planned, deduplicated, frozen and submitted as arrays, whole process, workers that do nothing; beside it
  hydra-submitit-launcher with as many points, in turn, to the return of its last sbatch.
* ``scontrol requeue`` in the middle of training on two ranks: seconds until the run's last process is gone, steps done twice.
* ``tenfold status`` with a thousand runs in the queue.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from harness.compose import Composer
from harness.stores import ensure_all
from launchers.cluster import LoopbackCluster
from launchers.cluster.programs import missing_programs
from launchers.slurm.commands import Slurm
from results.attempts import lost_work
from results.runfolder import RunFolder, run_folders
from tests.bench import hydra_peer

VARIANTS = "variant=fno2d,tfno2d,unet,convlstm,fourcastnet"
POINTS = ("system=dlwp", "scale=small", VARIANTS, "size=5k,20k", "seed=range(100)")
COUNT = 1000
#: Two ranks in the middle of a training that would take hours.
LONG = (
    "system=dlwp",
    "scale=small",
    "variant=fno2d",
    "size=20k",
    "engine=zero2",
    "ranks=2",
    "train.steps=200000",
    "tracker=none",
)
REQUEUES, STATUSES = 3, 5
SUBMIT_GOAL_S, EXIT_GOAL_S, LOST_GOAL = 10.0, 5.0, 1


class Bench:
    """A loopback cluster with three sites: ``loopback``; ``noop``, whose jobs do nothing; ``held``, whose jobs do not start."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        os.environ["TENFOLD_CONFIG"] = str(folder / "config")
        self.cluster = LoopbackCluster(folder / "c")

    @contextmanager
    def up(self) -> Iterator[None]:
        self.cluster.up(nodes=2)
        try:
            sites = self.folder / "config" / "site"
            profile = yaml.safe_load((sites / "loopback.yaml").read_text())
            worker = self.folder / "noop"
            worker.write_text("#!/bin/sh\nexit 0\n")
            worker.chmod(0o755)
            noop = {**profile, "name": "noop", "python": str(worker)}
            (sites / "noop.yaml").write_text(yaml.safe_dump(noop))
            (sites / "held.yaml").write_text(yaml.safe_dump({**noop, "name": "held", "sbatch": {"hold": ""}}))
            self.slurm = Slurm(profile["slurm_conf"])
            yield
        finally:
            self.cluster.down()

    def tenfold(self, place: Path, *words: str) -> tuple[float, str]:
        """Wall seconds and standard output of a whole process, in a working directory of its own."""
        place.mkdir(exist_ok=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "harness", *words], cwd=place, capture_output=True, text=True)
        taken = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"tenfold {' '.join(words)}: exit {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
        return taken, done.stdout

    def sweep(self, place: Path, site: str, *words: str) -> tuple[float, list[dict[str, Any]]]:
        """Seconds to submit, and the jobs."""
        where = ["launcher=slurm", f"site={site}", f"paths.data={self.data}"]
        taken, said = self.tenfold(place, "sweep", *words, *where, "--json", "--quiet")
        jobs: list[dict[str, Any]] = json.loads(said)["jobs"]
        return taken, jobs

    def clear(self) -> None:
        """Cancel everything; the next measurement begins with an empty queue."""
        self.slurm.cancel(sorted({job.job_id.partition("_")[0] for job in self.slurm.queue().values()}))
        wait_for(lambda: not self.slurm.queue(), "the queue is empty", 120)


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float, every_s: float = 0.1) -> None:
    """Poll until it holds.

    Raises:
        RuntimeError: it does not within ``timeout_s``.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)


def submit_ours(bench: Bench, turn: str) -> float:
    """Seconds of one sweep of a thousand points nobody has seen before."""
    taken, jobs = bench.sweep(bench.folder / f"ours-{turn}", "noop", *POINTS)
    assert len({run for job in jobs for run in job["runs"]}) == COUNT
    bench.clear()
    return taken


def submit_peer(bench: Bench, turn: str, *, same: bool) -> float:
    """Seconds of the peer."""
    environment = {**bench.cluster.command_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    folder = bench.folder / f"peer-{turn}-{same}"
    folder.mkdir()
    taken = hydra_peer.submit_seconds(POINTS, COUNT, folder, environment, same=same)
    bench.clear()
    return taken


def submitting(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Both in turn; the first round of ours warms up."""
    peers = {"its own configuration of five keys": False, "our configuration, one round": True} if hydra_peer.installed() else {}
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    submit_ours(bench, "warm-up")
    for turn in range(rounds):
        ours.append(submit_ours(bench, str(turn)))
        for name, same in peers.items():
            if not same or turn == 0:  # that takes minutes
                theirs[name].append(submit_peer(bench, str(turn), same=same))
        told = [f"ours {ours[-1]:.2f} s", *(f"{name} {times[-1]:.2f} s" for name, times in theirs.items())]
        print(f"  round {turn}: " + "; peer of ".join(told), flush=True)
    found = statistics.median(ours)
    rows = []
    for name, times in theirs.items() or (("not installed", []),):
        peer = statistics.median(times) if times else None
        rows.append(row(f"submitting 1,000 points (the peer: {name})", "s", found, SUBMIT_GOAL_S, peer=peer))
    return rows


def leaving(bench: Bench) -> list[dict[str, Any]]:
    """An administrator requeues one run several times."""
    place = bench.folder / "long"
    _, (job,) = bench.sweep(place, "loopback", *LONG)
    (folder,) = run_folders(place / "runs")
    exits = []
    for attempt in range(REQUEUES):
        wait_for(lambda number=attempt: trained(folder, number) >= 30, f"attempt {attempt} trains", 240)
        assert len(workers(folder)) >= 2
        start = time.monotonic()
        bench.slurm.requeue(job["job"])
        wait_for(lambda: not workers(folder), "all ranks are gone", 60, 0.02)
        exits.append(time.monotonic() - start)
    wait_for(lambda: trained(folder, REQUEUES) >= 1, "the last attempt trains", 240)
    bench.clear()
    lost = lost_work(folder.attempts())
    assert lost is not None
    assert len(folder.attempts()) == REQUEUES + 1
    print(f"  requeue to exit: {', '.join(f'{taken:.2f}' for taken in exits)} s; steps done twice in all: {lost[0]}", flush=True)
    return [
        row(f"requeue to the last process gone, slowest of {REQUEUES} (zero2 x2)", "s", max(exits), EXIT_GOAL_S),
        row(f"steps done twice, per requeue (mean of {REQUEUES})", "steps", lost[0] / REQUEUES, LOST_GOAL),
    ]


def trained(folder: RunFolder, attempt: int) -> int:
    """Steps that an attempt has written down; 0 before it is there."""
    attempts = folder.attempts()
    path = attempts[attempt].steps_file(0) if len(attempts) > attempt else None
    if path is not None and path.exists():
        return path.read_text().count("\n")
    last = attempts[attempt].read("progress", {}) if len(attempts) > attempt else {}
    return int(last.get("done", 0)) if last.get("phase") == "train" else 0


def workers(folder: RunFolder) -> list[int]:
    """Processes of the run's ranks, those that started them among them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "harness.worker" in words and words[-1].endswith(folder.name):
            found.append(process.pid)
    return found


def looking(bench: Bench) -> list[dict[str, Any]]:
    """Status of a thousand runs that wait in the queue."""
    place = bench.folder / "held"
    bench.sweep(place, "held", *POINTS)
    times = []
    for turn in range(STATUSES + 1):
        taken, said = bench.tenfold(place, "status")
        assert f"{COUNT} runs: {COUNT} queued" in said, said[-300:]
        if turn:
            times.append(taken)
    bench.clear()
    return [row("tenfold status (1,000 runs in the queue)", "s", statistics.median(times), None)]


def row(name: str, unit: str, ours: float, goal: float | None, *, peer: float | None = None) -> dict[str, Any]:
    """One line; the goal is one of ours alone."""
    met = None if goal is None else ours <= goal
    ratio = None if peer is None else ours / peer
    print(f"{name:75} {ours:8.2f} {unit}" + ("" if peer is None else f"  peer {peer:.2f}  ratio {ratio:.3f}"), flush=True)
    return {"name": name, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio, "goal": goal, "met": met}


def build_data(root: Path) -> None:
    """The store that all points read."""
    with Composer() as composer:
        experiment = composer.compose(["system=dlwp", "scale=small", f"paths.data={root}"])
    ensure_all(experiment.system.stores(experiment.point), root, workers=len(os.sched_getaffinity(0)))


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and print; nothing where there is no Slurm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of data stores to use instead of building one")
    parser.add_argument("--rounds", type=int, default=3, help="of submitting")
    parser.add_argument("--only", choices=("submitting", "leaving", "looking"), help="one part")
    arguments = parser.parse_args([] if words is None else words)
    missing = missing_programs()
    if missing:
        print(f"no Slurm here ({', '.join(sorted(missing))} missing): make system installs it", flush=True)
        return []
    if not hydra_peer.installed():
        print("no hydra-submitit-launcher here: pip install -e '.[bench]'", flush=True)
    before = os.environ.get("TENFOLD_CONFIG")
    with tempfile.TemporaryDirectory(prefix="tenfold-bench-") as scratch:
        Path(scratch).chmod(0o711)  # Slurm's daemons run as other users
        bench = Bench(Path(scratch), arguments.data.resolve() if arguments.data else Path(scratch) / "data")
        try:
            build_data(bench.data)
            rows: list[dict[str, Any]] = []
            with bench.up():
                if arguments.only in (None, "submitting"):
                    rows += submitting(bench, arguments.rounds)
                if arguments.only in (None, "leaving"):
                    rows += leaving(bench)
                if arguments.only in (None, "looking"):
                    rows += looking(bench)
        finally:
            if before is None:
                del os.environ["TENFOLD_CONFIG"]
            else:
                os.environ["TENFOLD_CONFIG"] = before
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
