"""Where every run stands: from the run folders, and from the scheduler for what it has.

examples:
  tenfold status
  tenfold status study=dlwp_scaling status=failed
  tenfold status variant=unet,convlstm --json
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from harness.cli.common import add_json, add_words, select_words
from results.runfolder import RunFolder
from results.store import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, key=value,... that rows must have, or names of runs")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one line a run."""
    chosen = select_words(arguments.words)
    rows = chosen.rows()
    if arguments.json:
        sys.stdout.write(dumps(rows) + "\n")
        return 0
    if not rows:
        print(
            f"no runs in {chosen.runs}/"
            + ("" if not chosen.query else " that match")
            + "; tenfold sweep study=dlwp_scaling makes some"
        )
        return 0
    width = max(len(row["run"]) for row in rows)
    for row in rows:
        detail = ""
        if row["status"] == "running":
            last = RunFolder(chosen.runs / row["run"]).last_attempt()
            progress = last.read("progress", {}) if last else {}
            detail = f"{progress['phase']} {progress['done']}/{progress['total']}" if progress else "starting"
        elif row.get("detail"):
            detail = row["detail"]
        elif row["failure"]:
            rank = "" if row["failure"].get("rank") is None else f" rank {row['failure']['rank']}"
            reason = str(row["failure"]["reason"]).splitlines()[0]
            detail = f"[{row['failure']['class']}{rank}] {reason[:90]}"
        size, seed = ("-" if row[key] is None else row[key] for key in ("size", "seed"))
        known = row["engine"] is not None and row["ranks"] is not None  # the study alone may not say it
        layout = f"{row['engine']} x{row['ranks']}" if known else "-"
        print(
            f"{row['run']:<{width}}  {row['status']:<9} {size:>5} seed {seed} {layout:<9} "
            f"attempts {row['attempts']}  {detail}".rstrip()
        )
    counts = Counter(row["status"] for row in rows)
    print(f"{len(rows)} runs: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    if counts.get("failed"):
        print("next: tenfold logs RUN shows why; tenfold retry --only CLASS runs them again")
    return 0
