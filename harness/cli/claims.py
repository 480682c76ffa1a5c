"""Verdicts on the papers' claims over completed runs: holds, fails, or cannot tell, with effect and 95 % interval.

examples:
  tenfold claims
  tenfold claims study=dlwp_scaling --json
"""

from __future__ import annotations

import argparse
import sys

from harness.cli.common import add_json, add_words, select_words
from results.store import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, or key=value,... that rows must have; all completed runs by default")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Judge and print."""
    from harness.finishing import claims_of

    chosen = select_words(arguments.words)
    claims = claims_of(chosen.rows(), chosen.runs)
    if arguments.json:
        sys.stdout.write(dumps(claims) + "\n")
        return 0
    if not claims:
        print("no runs to judge; tenfold sweep study=dlwp_scaling makes some")
    for claim in claims:
        interval = (
            ""
            if claim["effect"] is None
            else f"  {claim['effect']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}] against {claim['bound']:g}"
        )
        print(
            f"{claim['verdict']:<12} {claim['system']} {claim['claim']} ({claim['scale']}){interval}\n"
            f"             {claim['statement']}\n             {claim['detail']}"
        )
    return 0
