"""The results, one row a run (or one a group with --summary), with units in the headings.

examples:
  tenfold table study=dlwp_scaling
  tenfold table study=dlwp_scaling --summary
  tenfold table study=dlwp_scaling --json
  tenfold table variant=fno2d status=completed --format tex
"""

from __future__ import annotations

import argparse
import sys

from harness.cli.common import add_json, add_words, select_words
from results.tables import FORMATS, render


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, key=value,... that rows must have, or names of runs")
    parser.add_argument("--format", choices=FORMATS, default="text", help="default text")
    parser.add_argument("--summary", action="store_true", help="mean and 95 %% interval over seeds and repeats")
    parser.add_argument("--metrics", help="metric columns, comma-separated")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    chosen = select_words(arguments.words)
    index = chosen.index()
    metrics = arguments.metrics.split(",") if arguments.metrics else None
    text = render(
        chosen.rows(), "json" if arguments.json else arguments.format, metrics=metrics, summary=arguments.summary, index=index
    )
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0
