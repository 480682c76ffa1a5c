"""What ``tenfold sweep``, ``run`` and ``retry`` do where runs go to a scheduler: submit, say so, leave (or stay and watch)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.display import Display
from harness.study import Study
from harness.submitting import Submitted, check_scripts, require_slurm, scripts, submit_points
from harness.sweeping import Action, Step
from results.errors import EXIT_OK
from results.store import dumps


def sweep_on_slurm(study: Study, steps: Sequence[Step], arguments: argparse.Namespace) -> int:
    """Submit what is missing."""
    todo = [step.point for step in steps if step.action in (Action.CREATE, Action.RESUME)]
    with Display(quiet=arguments.quiet) as display:
        counts = Counter(str(step.action) for step in steps)
        display.say(f"study {study.name}: {len(steps)} runs (" + ", ".join(f"{n} {what}" for what, n in counts.items()) + ")")
        if arguments.dry_run:
            return _dry_run(study, steps, display, check=arguments.check)
        require_slurm(study.points[0].experiment)
        study.write_index()
        submitted = submit_points(study, todo, display) if todo else Submitted()
    if arguments.watch:
        from harness.cli.watch import watch_study

        return watch_study(study.name, Path(study.points[0].experiment.config.paths.runs), study.folder().parent)
    tell(submitted, f"study={study.name}", as_json=arguments.json)
    left = [step for step in steps if step.action is Action.FAILED]
    if left and not arguments.json:
        print(f"{len(left)} runs failed before and were left alone: tenfold status study={study.name}, then: tenfold retry")
    return EXIT_OK


def tell(submitted: Submitted, words: str, *, as_json: bool) -> None:
    """What was submitted, and what to type next."""
    if as_json:
        jobs = [
            {
                "job": job,
                "runs": [run.name for task in one.submission.tasks for run in task],
                "script": str(one.submission.script),
            }
            for job, one in submitted.jobs
        ]
        sys.stdout.write(dumps({"jobs": jobs, "runs": submitted.num_runs}) + "\n")
        return
    if not submitted.jobs:
        print("nothing to submit: every run is done, queued, running, or failed before")
    else:
        numbers = ", ".join(job for job, _ in submitted.jobs)
        print(f"submitted {submitted.num_runs} runs as {len(submitted.jobs)} jobs or arrays: {numbers}")
    print(f"next: tenfold watch {words}   or: tenfold status {words}   (this shell may be closed)")


def _dry_run(study: Study, steps: Sequence[Step], display: Display, *, check: bool) -> int:
    """Distinct scripts on standard output, one after another, each from its ``#!`` line; all else goes to the error stream."""
    todo = [step.point for step in steps if step.action in (Action.CREATE, Action.RESUME)]
    prepared = scripts(study, todo, display)
    for number, one in enumerate(prepared, 1):
        display.say(f"script {number} of {len(prepared)}: {one.num_runs} runs in {len(one.submission.tasks)} jobs")
        sys.stdout.write(one.script)
        sys.stdout.flush()
    if check:
        require_slurm(study.points[0].experiment)
        with tempfile.TemporaryDirectory() as folder:
            for number, answer in enumerate(check_scripts(prepared, Path(folder)), 1):
                display.say(f"script {number}: {answer}")
    display.say("nothing was submitted")
    return EXIT_OK
