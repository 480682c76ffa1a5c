"""Write the report of a study again from its records: one self-contained HTML file, beside tables, data set and verdicts.

examples:
  tenfold report study=dlwp_scaling
"""

from __future__ import annotations

import argparse

from harness.cli.common import add_words, select_words
from results.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME")


def run(arguments: argparse.Namespace) -> int:
    """Write it and print its path."""
    from harness.finishing import write_outputs

    chosen = select_words(arguments.words)
    index = chosen.index()
    if index is None or chosen.study is None:
        raise ConfigError("a report belongs to a study", where="command line", next_step="tenfold report study=dlwp_scaling")
    print(write_outputs(index, chosen.runs, chosen.reports / chosen.study)["report"])
    return 0
