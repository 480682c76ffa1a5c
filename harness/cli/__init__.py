"""The command line: ``tenfold VERB [words]``. This module imports nothing heavy, so that ``--help`` answers at once.

Each verb is a module ``harness/cli/<verb>.py`` with ``configure(parser)`` and ``run(arguments) -> exit status``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from results.errors import EXIT_INTERRUPTED, EXIT_RUN_FAILED, TenfoldError, near_matches

#: Verb, one line for the overview.
VERBS: dict[str, str] = {
    "systems": "the systems, their variants, sizes and scales",
    "plan": "predict parameters, memory, FLOPs and time of an experiment or a study",
    "run": "one experiment, here; a completed one is shown, not run again",
    "sweep": "a study: expand, skip what is done, plan, run, analyse, report",
    "status": "where every run stands",
    "watch": "a study until it is done; then its report. From any shell",
    "logs": "what a rank printed, and why it failed",
    "cancel": "take runs out of the queue, have running ones save and stop",
    "retry": "run failed runs again, by class of failure",
    "table": "the results as text, Markdown, CSV, JSON or LaTeX",
    "report": "write the self-contained HTML report of a study",
    "claims": "verdicts on the papers' claims",
    "compare": "paired comparison of two sets of runs",
    "sync": "project records into W&B runs, and upload them",
    "doctor": "what works here; validate run folders",
    "cluster": "a real Slurm of several nodes on this one machine",
}

_EPILOG = """\
words after a verb are Hydra overrides: key=value, group=choice; sweeps take a,b and range()

  tenfold sweep study=dlwp_scaling                  the headline study (about 12 minutes on two cores)
  tenfold run variant=unet size=20k seed=1          one experiment
  tenfold plan scale=paper size=32M engine=zero3 ranks=8
  tenfold table study=dlwp_scaling --json

exit status: 0 done, 1 a run failed, 2 wrong input, 75 held by another process, 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    """The top-level parser (verbs are parsed by their own modules)."""
    from harness import __version__

    lines = "\n".join(f"  {name:<9} {text}" for name, text in VERBS.items())
    top = argparse.ArgumentParser(
        prog="tenfold",
        usage="tenfold VERB [words] [options]",
        description=f"Plans, runs and measures ten published machine-learning systems.\n\nverbs (tenfold VERB --help):\n{lines}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"tenfold {__version__}")
    top.add_argument("verb", metavar="VERB", help=argparse.SUPPRESS)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        if not words:
            parser().print_help()
            return 2
        parser().parse_args(words)
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        print(f"tenfold: there is no verb '{verb}'{near_matches(verb, VERBS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"harness.cli.{verb}")
    verb_parser = argparse.ArgumentParser(
        prog=f"tenfold {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(verb_parser)
    arguments = verb_parser.parse_intermixed_args(rest)
    try:
        status: int = module.run(arguments)
        sys.stdout.flush()
        return status
    except TenfoldError as error:
        print(f"tenfold {verb}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"tenfold {verb}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_RUN_FAILED
