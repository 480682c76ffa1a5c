"""The results, one row a run (or one a group with --summary), with units in the headings.

examples:
  tenfold table study=dlwp_scaling
  tenfold table study=dlwp_scaling --summary
  tenfold table study=dlwp_scaling --json
  tenfold table study=scaling_strong --scaling
  tenfold table variant=fno2d status=completed --format tex
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness.cli.common import Selection, add_json, add_words, select_words
from results.errors import ConfigError
from results.tables import FORMATS, render


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, key=value,... that rows must have, or names of runs")
    parser.add_argument("--format", choices=FORMATS, default="text", help="default text")
    parser.add_argument("--summary", action="store_true", help="mean and 95 %% interval over seeds and repeats")
    parser.add_argument("--scaling", action="store_true", help="speed-up and efficiency over rank counts (scaling studies)")
    parser.add_argument("--metrics", help="metric columns, comma-separated")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    chosen = select_words(arguments.words)
    index = chosen.index()
    if arguments.scaling:
        return _print_scaling(chosen, index, "json" if arguments.json else arguments.format)
    metrics = arguments.metrics.split(",") if arguments.metrics else None
    text = render(
        chosen.rows(), "json" if arguments.json else arguments.format, metrics=metrics, summary=arguments.summary, index=index
    )
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0


def _print_scaling(chosen: Selection, index: dict[str, Any] | None, fmt: str) -> int:
    wanted = ((index or {}).get("analysis") or {}).get("scaling")
    if not wanted:
        raise ConfigError(
            "rank counts are compared in a study that asks for it (analysis.scaling)",
            where="command line: --scaling",
            next_step="tenfold table study=scaling_strong --scaling",
        )
    from results.scaling import scaling
    from results.scaling_tables import render as render_scaling

    sys.stdout.write(render_scaling(scaling(chosen.rows(), wanted, chosen.runs), fmt) + "\n")
    return 0
