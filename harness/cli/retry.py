"""Run failed runs again, exactly as they were frozen; each retry is a further attempt, from the newest checkpoint
if there is one.

examples:
  tenfold retry                          all failed runs
  tenfold retry --only failed            the same
  tenfold retry --only oom               device and host out of memory
  tenfold retry study=dlwp_scaling --only crash,timeout
  tenfold retry dlwp-unet-small-1a2b3c4d
"""

from __future__ import annotations

import argparse

from harness.cli.common import add_words, select_words
from results.errors import EXIT_OK, EXIT_RUN_FAILED, ConfigError, near_matches
from results.failures import FailureClass
from results.runfolder import RunFolder

#: Words of ``--only`` that stand for several classes.
GROUPS: dict[str, tuple[str, ...]] = {
    "failed": tuple(str(kind) for kind in FailureClass),
    "oom": (str(FailureClass.OOM_DEVICE), str(FailureClass.OOM_HOST)),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, key=value that rows must have, or names of runs")
    parser.add_argument(
        "--only", default="failed", metavar="CLASS,...", help="failed (all), oom, or classes: " + ", ".join(FailureClass)
    )
    parser.add_argument("--dry-run", action="store_true", help="name the runs and stop")


def wanted_classes(text: str) -> set[str]:
    """Classes named by ``--only``.

    Raises:
        ConfigError: an unknown class.
    """
    known = [*GROUPS, *(str(kind) for kind in FailureClass)]
    chosen: set[str] = set()
    for word in text.split(","):
        if word not in known:
            raise ConfigError(f"there is no failure class '{word}'{near_matches(word, known)}", where="command line: --only")
        chosen |= set(GROUPS.get(word, (word,)))
    return chosen


def run(arguments: argparse.Namespace) -> int:
    """Find them, run them."""
    classes = wanted_classes(arguments.only)
    chosen = select_words(arguments.words)
    rows = [row for row in chosen.rows() if row["status"] == "failed" and row["failure"]["class"] in classes]
    names = list(dict.fromkeys(row["run"] for row in rows))
    if not names:
        print(f"no failed runs of class {arguments.only}")
        return EXIT_OK
    if arguments.dry_run:
        print("\n".join(names))
        return EXIT_OK
    from harness.display import Display
    from harness.experiment import Experiment
    from harness.prepare import build_data, request_again
    from harness.sweeping import run_requests
    from launchers.local import Ended

    folders = [RunFolder(chosen.runs / name) for name in names]
    experiments = [Experiment.load(folder.path) for folder in folders]
    with Display() as display:
        build_data(experiments, display.building)
        ended = run_requests([request_again(folder) for folder in folders], experiments[0], display, group=chosen.study)
    good = sum(how in (Ended.COMPLETED, Ended.ALREADY) for how in ended.values())
    print(f"{good} of {len(names)} completed" + ("" if good == len(names) else "; tenfold status status=failed"))
    return EXIT_OK if good == len(names) else EXIT_RUN_FAILED
