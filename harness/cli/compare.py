"""Paired comparison of two sets of runs: ratio of a metric with its interval, and faster, slower or cannot tell.
Runs are paired by everything that identifies them except what distinguishes the sets.

examples:
  tenfold compare engine=torch engine=zero1 --metric step_s study=dlwp_scaling
  tenfold compare variant=fno2d,size=50k variant=unet,size=50k --metric rmse
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness.cli.common import add_json, add_words, select_words
from results.errors import ConfigError
from results.store import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("a", help="first set: key=value,key=value or the name of a run")
    parser.add_argument("b", help="second set")
    add_words(parser, "study=NAME and key=value that both sets share")
    parser.add_argument("--metric", default="step_s", help="default step_s")
    add_json(parser)


def _query(text: str) -> dict[str, str]:
    if "=" not in text:
        return {"run": f"*{text}*"}
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(sign for _, sign, _ in pairs):
        raise ConfigError(f"'{text}' is not key=value,key=value", where="command line")
    return {key: value for key, _, value in pairs}


def run(arguments: argparse.Namespace) -> int:
    """Compare and print."""
    from models import registry
    from results.compare import compare, sentence
    from results.rows import select

    chosen = select_words(arguments.words)
    rows = chosen.rows()
    sets = [select(rows, _query(text)) for text in (arguments.a, arguments.b)]
    for text, found in zip((arguments.a, arguments.b), sets, strict=True):
        if not found:
            raise ConfigError(f"no run matches '{text}'", where="command line", next_step="tenfold status")
    specs = {name: spec for row in rows for name, spec in registry.catalogue(row["system"]).metric_specs.items()}
    result: dict[str, Any] = compare(sets[0], sets[1], arguments.metric, specs=specs)
    if arguments.json:
        sys.stdout.write(dumps(result) + "\n")
        return 0
    print(sentence(result))
    for entry in result["dropped"]:
        print(f"  left out: {entry['run']}: {entry['reason']}")
    return 0
