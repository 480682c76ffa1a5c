"""Carries a study out on this machine: reconcile what should be with what is there, run what is missing, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from harness.display import Display
from harness.experiment import Experiment
from harness.planning.plan import Plan
from harness.prepare import build_data, plan_all, request_again, request_for
from harness.projecting import project
from harness.provenance import memory_gib
from harness.schedulers import scheduler_words
from harness.schema import ExperimentConfig
from harness.study import Study, StudyPoint
from launchers.layout import Layout
from launchers.local import Ended, Leaving, LocalQueue
from launchers.request import RunRequest
from launchers.retrying import RetryRule, decide
from launchers.starting import LocalStarter, Starter
from results.errors import TenfoldError
from results.failures import Failure, FailureClass
from results.merge import build_record, write_record
from results.runfolder import RunFolder
from results.standing import Standing, Word, Words


class Action(StrEnum):
    """What a sweep will do with a point."""

    KEEP = "keep"  # completed
    RESUME = "resume"  # started before and neither completed nor failed; goes on from its checkpoint
    CREATE = "create"
    QUEUED = "queued"  # a scheduler has it
    RUNNING = "running elsewhere"
    UNKNOWN = "unknown"  # the scheduler that has it does not answer
    FAILED = "failed before"  # left alone: tenfold retry


@dataclass(slots=True)
class Step:
    """One point with what is to be done."""

    point: StudyPoint
    action: Action
    plan: Plan | None = None


@dataclass(slots=True)
class SweepResult:
    """How a sweep ended: by run name."""

    ended: dict[str, Ended] = field(default_factory=dict)
    left: bool = False

    @property
    def counts(self) -> Counter[str]:
        """How many ended how."""
        return Counter(str(how) for how in self.ended.values())

    @property
    def failed(self) -> bool:
        """Whether anything did not complete."""
        return any(how in (Ended.FAILED, Ended.REFUSED) for how in self.ended.values())


def action_for(folder: RunFolder, word: Word | None = None) -> Action:
    """What the run folder says about a point, and the scheduler, where one has it."""
    attempts = folder.attempts()
    if folder.is_completed():
        return Action.KEEP
    if word is not None:
        return {Standing.QUEUED: Action.QUEUED, Standing.RUNNING: Action.RUNNING}.get(word.standing, Action.UNKNOWN)
    if folder.is_running():
        return Action.RUNNING
    if attempts:
        failure = attempts[-1].failure()
        resumable = failure is None or failure.get("class") in (
            FailureClass.CANCELLED,
            FailureClass.PREEMPTED,
            FailureClass.TIMEOUT,
        )
        return Action.RESUME if resumable else Action.FAILED
    return Action.CREATE


def reconcile(study: Study, *, only_look: bool = False) -> list[Step]:
    """Desired points against existing run folders and what schedulers have of them.

    Args:
        only_look: write nothing down, and submit nothing again that a scheduler has taken away.
    """
    runs = Path(study.points[0].experiment.config.paths.runs)
    words: Words
    if only_look and (runs / ".submissions").is_dir():
        from launchers.slurm.survey import survey

        words = survey(runs, settle=False).words
    else:
        words = scheduler_words(runs)
    steps = []
    for point in study.points:
        folder = point.experiment.folder
        steps.append(Step(point, action_for(folder, words.get(folder.name))))
    return steps


def memory_budget_gib(experiment: Experiment) -> float:
    """Memory that all runs together may be planned to use."""
    if experiment.config.launcher.memory_gib is not None:
        return experiment.config.launcher.memory_gib
    import psutil

    facts = psutil.virtual_memory()
    # The control group's limit where that is smaller than the machine.
    return max(memory_gib() - float(facts.total - facts.available) / 2**30, 0.0)


def carry_out(study: Study, steps: list[Step], display: Display) -> SweepResult:
    """Plan and run every step of a study that is not done; a failing run never stops another. Each is projected into W&B as it
    ends.

    Raises:
        TenfoldError: data could not be built, or run folders cannot be written; nothing has started then.
    """
    result = SweepResult()
    todo = [step for step in steps if step.action in (Action.CREATE, Action.RESUME, Action.RUNNING)]
    for step in steps:
        if step.action is Action.KEEP:
            result.ended[step.point.experiment.name] = Ended.ALREADY
        elif step.action is Action.FAILED:
            result.ended[step.point.experiment.name] = Ended.FAILED
    if not todo:
        return result
    experiments = [step.point.experiment for step in todo]
    display.say(f"planning {len(todo)} runs ...")
    plans = plan_all(experiments, progress=display.planning)
    todo = [step for step in todo if not _leave_out(step, plans[step.point.experiment.name], study, display)]
    build_data([step.point.experiment for step in todo], display.building)
    budget = memory_budget_gib(experiments[0])
    for stage in dict.fromkeys(step.point.stage for step in todo):
        if display.choice() is not Leaving.NO:
            result.left = True
            break
        requests: list[RunRequest] = []
        for step in (step for step in todo if step.point.stage == stage):
            plan = plans[step.point.experiment.name]
            request = request_for(step.point.experiment, plan, exclusive=step.point.exclusive)
            if request.memory_gib > budget:
                result.ended[request.name] = _refuse(request, budget)
                continue
            requests.append(request)
        if not requests:
            continue
        if not any(request.exclusive for request in requests):
            requests.sort(key=lambda request: -request.expected_s)  # longest first packs best
        display.stage(stage, requests)
        result.ended |= _run(requests, experiments[0], budget, display, study.name)
    _wait_elsewhere(result, steps, display)
    result.left = result.left or any(how in (Ended.NOT_STARTED, Ended.ELSEWHERE) for how in result.ended.values())
    return result


def _leave_out(step: Step, plan: Plan, study: Study, display: Display) -> bool:
    """Whether the study says that a point as long as this one is listed and not run. One that has begun goes on."""
    return step.action is Action.CREATE and study.leave_out(step.point, plan.whole_s, display.say)


def run_one(experiment: Experiment, plan: Plan, display: Display) -> Ended:
    """One run through the same queue."""
    request = request_for(experiment, plan)
    budget = memory_budget_gib(experiment)
    if request.memory_gib > budget:
        return _refuse(request, budget)
    display.stage("run", [request])
    ended = _run([request], experiment, budget, display, None)[request.name]
    if ended is not Ended.ELSEWHERE:
        _project([request], experiment, display, None)
    return ended


def _run(
    requests: list[RunRequest], experiment: Experiment, budget: float, display: Display, group: str | None
) -> dict[str, Ended]:
    """Run requests; those that fail are tried again as the launcher's retry table says."""
    queue = _queue(experiment, budget, display, group)
    ended = queue.run(requests)
    rules = experiment.config.launcher.retry
    waiting = list(requests) if rules else []
    while waiting and display.choice() is Leaving.NO:
        waiting = [
            again for request in waiting if ended[request.name] is Ended.FAILED and (again := _again(request, rules, display))
        ]
        if waiting:
            ended |= queue.run(waiting)
    return ended


def _again(request: RunRequest, rules: Mapping[str, RetryRule], display: Display) -> RunRequest | None:
    """The next attempt's request, None where the table says that there is none."""
    folder = RunFolder(request.folder)
    decision = decide(rules, build_record(folder).attempts, Layout.read(folder.path), memory_gib=request.memory_gib)
    if not decision.again:
        if decision.reason:
            display.say(f"  {folder.name}: not tried again: {decision.reason}")
        return None
    decision.layout.write(folder.path)
    display.say(f"  {folder.name}: again, {decision.action}" + (f" ({decision.layout.reason})" if decision.layout.reason else ""))
    return request_again(folder)


def _queue(experiment: Experiment, budget: float, display: Display, group: str | None) -> LocalQueue:
    return LocalQueue(
        max_parallel=experiment.config.launcher.max_parallel,
        memory_gib=budget,
        on_event=_projecting(experiment, display, group),
        on_tick=display.tick,
        on_problem=display.say,
        leaving=display.choice,
        starter=starter_for(experiment.config),
    )


def starter_for(config: ExperimentConfig) -> Starter:
    """How this machine's ranks are started: one process each, or by mpiexec.

    Raises:
        LaunchError: there is no mpiexec.
    """
    launcher = config.launcher
    if launcher.name != "mpi":
        return LocalStarter()
    from launchers.mpi import MpiStarter, find_mpiexec

    find_mpiexec()
    return MpiStarter(tuple(launcher.arguments))


def _projecting(experiment: Experiment, display: Display, group: str | None) -> Callable[[str, RunRequest, Ended | None], None]:
    """Show an event, and project a run that has just ended: a sweep that is killed later leaves W&B runs of what was done."""

    def event(what: str, request: RunRequest, how: Ended | None) -> None:
        display.event(what, request, how)
        # Offline it takes a quarter of a second. A server may take minutes, in which nobody would watch the other runs.
        if how in (Ended.COMPLETED, Ended.FAILED) and experiment.config.tracker.name == "offline":
            _project([request], experiment, display, group)

    return event


def _project(requests: Sequence[RunRequest], experiment: Experiment, display: Display, group: str | None) -> None:
    tracker = experiment.config.tracker
    project(
        [RunFolder(request.folder) for request in requests],
        group=group,
        mode=tracker.name,
        say=display.say,
        project_name=tracker.project,
        entity=tracker.entity,
    )


def run_requests(
    requests: list[RunRequest], experiment: Experiment, display: Display, *, group: str | None = None
) -> dict[str, Ended]:
    """Run frozen experiments again (``tenfold retry``)."""
    display.stage("retry", requests)
    ended = _run(requests, experiment, memory_budget_gib(experiment), display, group)
    mine = [request for request in requests if ended[request.name] is not Ended.ELSEWHERE]
    _project(mine, experiment, display, group)
    return ended


def _refuse(request: RunRequest, budget: float) -> Ended:
    """Record that the plan says no, as an attempt like any other; never into a run that somebody is running."""
    folder = RunFolder(request.folder)
    lock = folder.lock()
    if not lock.acquire():
        return Ended.ELSEWHERE
    try:
        if folder.is_completed():
            return Ended.ALREADY
        folder.claim_attempt().fail(
            Failure(
                kind=FailureClass.OOM_HOST,
                reason=f"not started: planned to need {request.memory_gib:.2f} GiB, {budget:.2f} GiB may be used",
                next_step="launcher.memory_gib=... raises the limit; engine=zero3 ranks=... divides the need",
            )
        )
        write_record(folder)
    finally:
        lock.release()
    return Ended.REFUSED


def _wait_elsewhere(result: SweepResult, steps: list[Step], display: Display) -> None:
    """Points that another sweep is running: wait for them, so that this command's table is complete."""
    names = {name for name, how in result.ended.items() if how is Ended.ELSEWHERE}
    for step in steps:
        folder = step.point.experiment.folder
        if folder.name not in names:
            continue
        display.say(f"{folder.name} is running elsewhere; waiting for it (Ctrl-C leaves)")
        lock = folder.lock()
        while not lock.acquire():
            if display.choice() is not Leaving.NO:
                return
            display.pause(0.5)
        lock.release()
        done = action_for(folder)
        result.ended[folder.name] = Ended.ALREADY if done is Action.KEEP else Ended.FAILED


__all__ = ["Action", "Step", "SweepResult", "TenfoldError", "action_for", "carry_out", "reconcile", "run_one", "run_requests"]
