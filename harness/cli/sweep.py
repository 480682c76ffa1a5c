"""Carry out a study: expand it, skip what is done, plan, build data, run with bounded parallelism, collect, judge, report.
The same command again runs only what is missing. Without study= the words themselves are the study.
With launcher=slurm the runs are submitted and the command ends; watch, status, logs and cancel work from any later shell.

examples:
  tenfold sweep study=dlwp_scaling
  tenfold sweep study=dlwp_scaling --dry-run                what would be created, kept, resumed
  tenfold sweep study=dlwp_scaling launcher=slurm           submits arrays to the site that is known here
  tenfold sweep study=dlwp_scaling launcher=slurm --watch   and stays until the report is written
  tenfold sweep study=dlwp_scaling launcher=slurm --dry-run --check
                                                            every batch script, verbatim, and what sbatch says to it
  tenfold sweep study=dlwp_scaling launcher.max_parallel=1
  tenfold sweep variant=fno2d,unet size=5k seed=0,1 scale=tiny
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from harness.cli.common import add_config_dir, add_json, add_words, take_word
from results.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_RUN_FAILED
from results.store import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME and overrides of all its points, or overrides with Hydra's sweep grammar")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done (launcher=slurm: every distinct script) and stop"
    )
    parser.add_argument(
        "--check", action="store_true", help="with --dry-run: ask the scheduler whether it would take the scripts"
    )
    parser.add_argument("--watch", action="store_true", help="launcher=slurm: stay until all is done and the report is written")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_json(parser)
    add_config_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    """Expand, run, analyse."""
    from harness.display import Display
    from harness.finishing import finish_study
    from harness.study import adhoc_study, expand_study
    from harness.sweeping import carry_out, reconcile

    name, words = take_word(arguments.words, "study")
    study = (
        expand_study(name, words, config_dir=arguments.config_dir)
        if name
        else adhoc_study(words, config_dir=arguments.config_dir)
    )
    steps = reconcile(study, only_look=arguments.dry_run)
    if study.points[0].experiment.config.launcher.name == "slurm":
        from harness.cli.submitted import sweep_on_slurm

        return sweep_on_slurm(study, steps, arguments)
    if arguments.dry_run:
        _print_steps(study, steps, arguments.json)
        return EXIT_OK
    with Display(quiet=arguments.quiet) as display:
        counts = Counter(str(step.action) for step in steps)
        display.say(f"study {study.name}: {len(steps)} runs (" + ", ".join(f"{n} {what}" for what, n in counts.items()) + ")")
        study.write_index()
        result = carry_out(study, steps, display)
        if study.left_out:
            study.write_index()
        outputs = finish_study(study, display)
    if arguments.json:
        sys.stdout.write(dumps({"study": study.name, "ended": {k: str(v) for k, v in result.ended.items()}, **outputs}) + "\n")
    else:
        _print_result(study, result, outputs)
    if result.left:
        return EXIT_INTERRUPTED
    return EXIT_RUN_FAILED if result.failed else EXIT_OK


def _print_steps(study: Any, steps: list[Any], as_json: bool) -> None:
    rows = [
        {"run": step.point.experiment.name, "stage": step.point.stage, "arm": step.point.arm,
         "action": str(step.action), "overrides": list(step.point.overrides)}
        for step in steps
    ]  # fmt: skip
    if as_json:
        sys.stdout.write(dumps(rows) + "\n")
        return
    for row in rows:
        print(f"{row['action']:<18} {row['stage']:<9} {row['run']:<36} {' '.join(row['overrides'])}")
    print(f"study {study.name}: {len(rows)} runs; nothing was started")


def _print_result(study: Any, result: Any, outputs: dict[str, Any]) -> None:
    from results.rows import collect_rows
    from results.tables import render

    experiment = study.points[0].experiment
    rows = collect_rows(experiment.folder.path.parent, None, study.index())
    print(render(rows, "text", index=study.index()))
    print()
    for claim in outputs["claims"]:
        interval = "" if claim["effect"] is None else f"  {claim['effect']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]"
        print(f"{claim['verdict']:<12} {claim['claim']}{interval}  {claim['detail']}")
    if "scaling" in outputs:
        from results.scaling_tables import render as scaling_table

        print(scaling_table(outputs["scaling"]))
    if result.failed:
        print("\nsome runs did not complete: tenfold status status=failed, then: tenfold retry")
    if result.left:
        print("\nleft before the end: the same command goes on")
    print(f"\nreport: {outputs['report']}")
