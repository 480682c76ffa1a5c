"""What works here: torch, DeepSpeed, gloo or NCCL all-reduce, MPI, Slurm, W&B, faiss, the machine's profile; each with its fix.
Or hold run folders against their schema and against themselves.

examples:
  tenfold doctor
  tenfold doctor --prepare                 measure this machine's profile, which plans stand on (about a minute, once)
  tenfold doctor --runs                    validate every run folder
  tenfold doctor --runs --repair           rebuild damaged or missing records from the attempts' files
  tenfold doctor --data                    verify checksums of generated data
  tenfold doctor --all-reduce ranks=4 launcher=slurm launcher.nodes=2
                                           do ranks find each other, and how fast is the network between them
  tenfold doctor --site                    ask this cluster's Slurm and write its site profile
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cli.common import add_json, add_words, select_words
from results.errors import EXIT_OK, EXIT_RUN_FAILED, TenfoldError
from results.store import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "paths.runs=FOLDER; with --all-reduce: launcher=, site=, ranks=, launcher.nodes=")
    parser.add_argument("--all-reduce", action="store_true", help="start ranks as runs are started, and time their all-reduce")
    parser.add_argument("--prepare", action="store_true", help="measure the machine's profile")
    parser.add_argument("--runs", action="store_true", help="validate run folders")
    parser.add_argument("--repair", action="store_true", help="with --runs: rebuild records")
    parser.add_argument(
        "--data", type=Path, nargs="?", const=Path("data"), metavar="FOLDER", help="verify data stores (default data/)"
    )
    parser.add_argument(
        "--site", nargs="?", const="", metavar="NAME", help="write the profile of this cluster (NAME: its ClusterName)"
    )
    parser.add_argument("--force", action="store_true", help="with --site: replace a profile that exists")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examine."""
    if arguments.prepare:
        return _prepare()
    if arguments.all_reduce:
        return _all_reduce(arguments)
    if arguments.runs:
        return _runs(arguments)
    if arguments.data is not None:
        return _data(arguments.data)
    if arguments.site is not None:
        return _site(arguments)
    from harness.doctoring import examine

    findings = examine()
    if arguments.json:
        sys.stdout.write(dumps([finding.as_dict() for finding in findings]) + "\n")
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'MISS' if finding.optional else 'FAIL'}  {finding.name:<18} {finding.detail}")
            if not finding.ok and finding.fix:
                print(f"      {'':<18} fix: {finding.fix}")
    return EXIT_OK if all(finding.ok or finding.optional for finding in findings) else EXIT_RUN_FAILED


def _all_reduce(arguments: argparse.Namespace) -> int:
    from harness.allreducing import all_reduce

    found = all_reduce(arguments.words, lambda text: print(text, file=sys.stderr, flush=True))
    if arguments.json:
        sys.stdout.write(dumps(found) + "\n")
        return EXIT_OK
    nodes = ", ".join(f"{name} x {found['hosts'].count(name)}" for name in dict.fromkeys(found["hosts"]))
    print(f"ok    {found['world']} ranks on {nodes}; {found['backend']} on {found['device']}; every sum is right")
    for row in found["sizes"]:
        print(
            f"      {row['bytes'] / 1024:>8.0f} KiB  median {row['median_s'] * 1e6:>10.0f} us"
            f"   bus {row['bus_bytes_per_s'] / 1e9:>7.3f} GB/s"
        )
    return EXIT_OK


def _site(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from launchers.discover import write_site

    path, found = write_site(arguments.site or None, force=arguments.force)
    if arguments.json:
        sys.stdout.write(dumps({"path": str(path), "profile": asdict(found.profile)}) + "\n")
    else:
        print(
            f"{found.text}\nwritten to {path}\nnext: tenfold sweep study=NAME launcher=slurm site={found.profile.name} --dry-run"
        )
    return EXIT_OK


def _prepare() -> int:
    from harness.planning.machine import base, machine

    print("measuring this machine's profile (once per environment, about a minute) ...", flush=True)
    found = machine(measure=True)
    print(f"  matrix product   {(found.gemm_flops or 0) / 1e9:8.1f} GFLOP/s per rank")
    print(f"  copy             {(found.copy_bytes or 0) / 1e9:8.1f} GB/s")
    print(f"  operation        {(found.operation_s or 0) * 1e6:8.1f} us")
    for engine, ranks in [("torch", 1), ("zero0", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2)]:
        size = base(engine, ranks, measure=True) or 0
        print(f"  base of {engine:<8} {size / 2**20:8.1f} MiB per rank on {ranks} rank{'s' if ranks > 1 else ''}", flush=True)
    return EXIT_OK


def _runs(arguments: argparse.Namespace) -> int:
    from results.check import check_runs
    from results.merge import write_record
    from results.runfolder import RunFolder

    chosen = select_words(arguments.words)
    found = check_runs(chosen.runs)
    if arguments.repair:
        for name in [name for name, problems in found.items() if problems]:
            try:
                write_record(RunFolder(chosen.runs / name))
            except TenfoldError as error:
                print(f"{name}: cannot be rebuilt: {error}", file=sys.stderr)
        found = check_runs(chosen.runs)
    if arguments.json:
        sys.stdout.write(dumps(found) + "\n")
    else:
        for name, problems in found.items():
            for problem in problems:
                print(f"{name}: {problem}")
        bad = sum(bool(problems) for problems in found.values())
        print(
            f"{len(found)} run folders, {bad} with problems"
            + ("" if not bad or arguments.repair else "; next: tenfold doctor --runs --repair")
        )
    return EXIT_RUN_FAILED if any(found.values()) else EXIT_OK


def _data(root: Path) -> int:
    from models.stores import MANIFEST, verify

    status, count = EXIT_OK, 0
    for path in sorted(root.glob(f"*/{MANIFEST}")):
        count += 1
        try:
            verify(path.parent)
            print(f"ok    {path.parent}")
        except TenfoldError as error:
            print(f"FAIL  {path.parent}: {error}")
            status = EXIT_RUN_FAILED
    print(f"{count} data stores under {root}/")
    return status
