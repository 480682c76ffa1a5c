"""Run failed runs again as they were frozen; each retry is a further attempt, from the newest checkpoint if there is one.
What the launcher's retry table says of the class of failure is done first (half the micro-batch after oom-device, say).

examples:
  tenfold retry                          all failed runs
  tenfold retry --only failed            the same
  tenfold retry --only oom               device and host out of memory
  tenfold retry study=dlwp_scaling --only crash,timeout
  tenfold retry dlwp-unet-small-1a2b3c4d
  tenfold retry dlwp-unet-small-1a2b3c4d --with ranks=4      goes on with another number of ranks
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.cli.common import add_words, select_words
from results.errors import EXIT_OK, EXIT_RUN_FAILED, ConfigError, near_matches
from results.failures import FailureClass
from results.runfolder import RunFolder
from results.store import read_json_or

if TYPE_CHECKING:
    from harness.display import Display
    from harness.experiment import Experiment
    from launchers.layout import Layout
    from launchers.request import RunRequest

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
    parser.add_argument(
        "--with",
        dest="changes",
        action="append",
        metavar="KEY=VALUE",
        help="another layout for the next attempt: ranks=N, micro_batch=N, engine=NAME (same run; it leaves timing tables)",
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
    changes = _changes(arguments.changes or [])
    chosen = select_words(arguments.words)
    rows = [row for row in chosen.rows() if row["status"] == "failed" and row["failure"]["class"] in classes]
    names = list(dict.fromkeys(row["run"] for row in rows))
    if not names:
        print(f"no failed runs of class {arguments.only}")
        return EXIT_OK
    folders = [RunFolder(chosen.runs / name) for name in names]
    layouts = [_layout(folder, changes) for folder in folders]
    if arguments.dry_run:
        for name, layout in zip(names, layouts, strict=True):
            print(f"{name}  {layout.reason}".rstrip())
        return EXIT_OK
    return _run(folders, layouts, chosen.study)


def _layout(folder: RunFolder, changes: Layout) -> Layout:
    """The layout of the next attempt: what the launcher's retry table says of this failure, then what the command line says."""
    from harness.engines import check_family
    from harness.experiment import Experiment
    from harness.prepare import host_gib
    from launchers.layout import Layout
    from launchers.retrying import RetryRule, decide
    from results.merge import build_record

    layout = Layout.read(folder.path)
    config = Experiment.load(folder.path).config
    # Asked for by hand, an action is taken however often it was before.
    rules = {name: RetryRule(rule.action, times=10**6) for name, rule in config.launcher.retry.items()}
    memory_gib = config.ranks * host_gib(read_json_or(folder.plan_file, {}))
    decision = decide(rules, build_record(folder).attempts, layout, memory_gib=memory_gib)
    layout = decision.layout if decision.again else layout
    if changes.changed:
        layout = replace(
            layout,
            engine=changes.engine or layout.engine,
            ranks=changes.ranks or layout.ranks,
            micro_batch=changes.micro_batch or layout.micro_batch,
            reason=changes.reason,
        )
        changed = Experiment.load(folder.path).with_layout(layout)  # refuses what cannot be cut that way
        latest = folder.checkpoints / "latest"
        if latest.exists():
            saved = read_json_or(folder.checkpoints / latest.read_text().strip() / "state.json", {}).get("engine")
            if saved:
                check_family(saved, changed.config.engine.name, where=str(latest), run=folder.name)
    return layout


def _changes(words: list[str]) -> Layout:
    """``engine=NAME``, ``ranks=N`` and ``micro_batch=N`` of ``--with``.

    Raises:
        ConfigError: another key, or not a positive whole number.
    """
    from launchers.layout import Layout

    found: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key == "engine" and value:
            found[key] = value
        elif key in ("ranks", "micro_batch") and value.isdigit() and int(value) > 0:
            found[key] = int(value)
        else:
            raise ConfigError(f"'{word}' is none of engine=NAME, ranks=N, micro_batch=N", where="command line: --with")
    return Layout(**found, reason=", ".join(words))


def _run(folders: list[RunFolder], layouts: list[Layout], study: str | None) -> int:
    from harness.display import Display
    from harness.experiment import Experiment
    from harness.prepare import build_data, request_again
    from harness.sweeping import run_requests
    from launchers.layout import Layout
    from launchers.local import Ended

    experiments = [Experiment.load(folder.path) for folder in folders]
    with Display() as display:
        build_data(experiments, display.building)
        for folder, layout in zip(folders, layouts, strict=True):
            if layout != Layout.read(folder.path):
                layout.write(folder.path)
        requests = [request_again(folder) for folder in folders]
        submitted = [
            one for one, experiment in zip(requests, experiments, strict=True) if experiment.config.launcher.name == "slurm"
        ]
        here = [one for one in requests if one not in submitted]
        if submitted:
            _submit(submitted, experiments, study, display)
        if not here:
            return EXIT_OK
        first = next(experiment for experiment in experiments if experiment.config.launcher.name != "slurm")
        ended = run_requests(here, first, display, group=study)
    good = sum(how in (Ended.COMPLETED, Ended.ALREADY) for how in ended.values())
    print(f"{good} of {len(here)} completed" + ("" if good == len(here) else "; tenfold status status=failed"))
    return EXIT_OK if good == len(here) else EXIT_RUN_FAILED


def _submit(requests: list[RunRequest], experiments: list[Experiment], study: str | None, display: Display) -> None:
    """Runs that were submitted to a cluster go back to it: one submission per site."""
    from harness.cli.submitted import tell
    from harness.submitting import submit_requests

    names = {request.name for request in requests}
    chosen = [experiment for experiment in experiments if experiment.name in names]
    for site in dict.fromkeys(experiment.config.site.name for experiment in chosen):
        members = {experiment.name: experiment for experiment in chosen if experiment.config.site.name == site}
        mine = [request for request in requests if request.name in members]
        first = next(iter(members.values()))
        tell(
            submit_requests(mine, first, display, study=study or "retry", command="tenfold retry"),
            f"study={study}" if study else "",
            as_json=False,
        )
