"""One experiment, here (launcher=slurm: as a job), with live progress. A completed one is shown, not run again;
--force runs it as a further repeat.

examples:
  tenfold run variant=fno2d size=20k
  tenfold run variant=unet size=5k scale=tiny engine=zero2 ranks=2
  tenfold run variant=unet size=5k launcher=slurm --watch
  tenfold run --from runs/dlwp-fno2d-small-1a2b3c4d train.lr=1e-3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cli.common import add_config_dir, add_json, add_words
from harness.experiment import Experiment
from results.errors import EXIT_BUSY, EXIT_OK, EXIT_RUN_FAILED
from results.store import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "overrides")
    parser.add_argument("--from", dest="source", type=Path, metavar="RUN", help="start from a frozen config.yaml or run folder")
    parser.add_argument("--force", action="store_true", help="run a completed experiment again, as a further repeat")
    parser.add_argument("--watch", action="store_true", help="launcher=slurm: stay until it has ended")
    parser.add_argument("--cfg", action="store_true", help="print the resolved configuration and stop")
    add_json(parser)
    add_config_dir(parser)


def _compose(arguments: argparse.Namespace) -> Experiment:
    from harness.compose import Composer, override_frozen

    if arguments.source is not None:
        source = arguments.source
        if not source.exists() and (Path("runs") / source).exists():
            source = Path("runs") / source
        frozen = Experiment.load(source)
        return override_frozen(frozen, arguments.words) if arguments.words else frozen
    with Composer(arguments.config_dir) as composer:
        return composer.compose(arguments.words)


def _is_done(experiment: Experiment) -> bool:
    return experiment.folder.is_completed()


def run(arguments: argparse.Namespace) -> int:
    """Compose, plan, run, show."""
    from harness.cli.showing import show_run
    from harness.display import Display
    from harness.inputs import missing_inputs
    from harness.planning.plan import make_plan
    from harness.prepare import build_data
    from harness.sweeping import run_one
    from launchers.local import Ended

    experiment = _compose(arguments)
    if arguments.cfg:
        from omegaconf import OmegaConf

        sys.stdout.write(OmegaConf.to_yaml(OmegaConf.create(experiment.plain)))
        return EXIT_OK
    if arguments.force:
        while _is_done(experiment):
            plain = {**experiment.plain, "repeat": experiment.config.repeat + 1}
            experiment = Experiment.resolve(plain, source="--force")
    if experiment.config.launcher.name == "slurm" and not _is_done(experiment):
        return _submit(experiment, arguments)
    how = Ended.ALREADY
    if not _is_done(experiment):
        with Display() as display:
            for read in missing_inputs(experiment):
                display.say(f"{read.name} is an input, and runs first")
                build_data([read], display.building)
                if run_one(read, make_plan(read, measure=True), display) not in (Ended.COMPLETED, Ended.ALREADY):
                    show_run(read.folder, Ended.FAILED)
                    return EXIT_RUN_FAILED
            plan = make_plan(experiment, measure=True)
            build_data([experiment], display.building)
            how = run_one(experiment, plan, display)
    if arguments.json:
        from results.rows import read_row

        sys.stdout.write(dumps([read_row(experiment.folder)]) + "\n")
    else:
        show_run(experiment.folder, how)
    if how is Ended.ELSEWHERE:
        return EXIT_BUSY
    return EXIT_OK if how in (Ended.COMPLETED, Ended.ALREADY) else EXIT_RUN_FAILED


def _submit(experiment: Experiment, arguments: argparse.Namespace) -> int:
    """One experiment as a job: submitted and left, or watched."""
    from harness.cli.common import select_words
    from harness.cli.submitted import tell
    from harness.cli.watch import watch
    from harness.display import Display
    from harness.schedulers import scheduler_words
    from harness.study import single_study
    from harness.submitting import Submitted, require_slurm, submit_points
    from harness.sweeping import Action, action_for

    require_slurm(experiment)
    study = single_study(experiment, "tenfold run " + " ".join(arguments.words))
    runs = Path(experiment.config.paths.runs)
    action = action_for(experiment.folder, scheduler_words(runs).get(experiment.name))
    with Display() as display:
        submitted = Submitted()
        if action not in (Action.QUEUED, Action.RUNNING, Action.UNKNOWN):
            submitted = submit_points(study, study.points, display)
    if arguments.watch:
        return watch(select_words([experiment.name, f"paths.runs={runs}"]))
    tell(submitted, experiment.name, as_json=arguments.json)
    return EXIT_OK
