"""A study on a Slurm cluster: plan, freeze, build data, submit stage by stage, and leave. Everything later starts from files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.display import Display
from harness.experiment import Experiment
from harness.planning.plan import Plan
from harness.prepare import build_data, plan_all, request_for, request_of
from harness.study import Study, StudyPoint
from launchers.request import RunRequest
from launchers.slurm.commands import Slurm
from launchers.slurm.grouping import Prepared, Wish, prepare
from launchers.slurm.submit import open_ledger, submit
from launchers.slurm.survey import Survey, survey
from results.errors import ConfigError, LaunchError
from results.store import locked


@dataclass(slots=True)
class Submitted:
    """What a sweep has put into the queue: job number, what it holds."""

    jobs: list[tuple[str, Prepared]] = field(default_factory=list)

    @property
    def num_runs(self) -> int:
        """How many runs."""
        return sum(one.num_runs for _, one in self.jobs)


def wish_for(experiment: Experiment, *, study: str, command: str, paired: bool = False, after: Sequence[str] = ()) -> Wish:
    """How the runs of one stage are submitted, from the launcher's and the site's keys."""
    config = experiment.config
    return Wish(
        study=study,
        command=command,
        label=f"{config.system}-{config.scale}-{study}",
        site=config.site,
        rules=config.launcher.retry,
        pack=config.launcher.pack,
        parallel=config.launcher.max_parallel if config.launcher.pack > 1 else 1,
        paired=paired,
        after=tuple(after),
    )


def stages(points: Sequence[StudyPoint]) -> dict[str, list[StudyPoint]]:
    """Points by stage, in the order of the stages."""
    found: dict[str, list[StudyPoint]] = {}
    for point in points:
        found.setdefault(point.stage, []).append(point)
    return found


def scripts(study: Study, points: Sequence[StudyPoint], display: Display) -> list[Prepared]:
    """Every distinct script that would be submitted; nothing is written (``--dry-run``).

    Raises:
        LaunchError: a run does not fit its partition.
    """
    plans = plan_all([point.experiment for point in points], progress=display.planning)
    return _fitting(study, [point for point in points if not _left_out(study, point, plans, display)], plans)


def _left_out(study: Study, point: StudyPoint, plans: dict[str, Plan], display: Display) -> bool:
    """Whether the study says that a point as long as this one is listed and not run. One that has begun goes on."""
    started = bool(point.experiment.folder.attempts())
    return not started and study.leave_out(point, plans[point.experiment.name].whole_s, display.say)


def _fitting(study: Study, points: Sequence[StudyPoint], plans: dict[str, Plan]) -> list[Prepared]:
    """All stages, as they would be submitted.

    Raises:
        LaunchError: a run does not fit its partition.
    """
    found: list[Prepared] = []
    for members in stages(points).values():
        requests = [_asked(point, plans) for point in members]
        wish = wish_for(members[0].experiment, study=study.name, command=study.command, paired=members[0].paired)
        found += prepare(requests, wish, max_array_size=_array_limit(wish, ask=False))
    return found


def _asked(point: StudyPoint, plans: dict[str, Plan]) -> RunRequest:
    experiment = point.experiment
    return request_of(experiment.folder, experiment, plans[experiment.name].as_dict(), exclusive=point.exclusive)


def submit_points(study: Study, points: Sequence[StudyPoint], display: Display) -> Submitted:
    """Plan, freeze, build data and submit; each stage waits for the jobs of the one before.

    Raises:
        LaunchError: a run of any stage does not fit its partition (nothing is submitted then), or the cluster refuses: what was
            submitted before stays and is named.
    """
    experiments = [point.experiment for point in points]
    first = experiments[0].config
    runs = Path(first.paths.runs)
    result = Submitted()
    display.say(f"planning {len(points)} runs ...")
    plans = plan_all(experiments, progress=display.planning)
    points = [point for point in points if not _left_out(study, point, plans, display)]
    if study.left_out:
        study.write_index()
    if not points:
        return result
    _fitting(study, points, plans)  # before data are built for hours
    build_data([point.experiment for point in points], display.building)
    texts: dict[int, bytes] = {}
    with locked(open_ledger(runs), what="the ledger of submissions"):
        # Under the lock: what another sweep has submitted meanwhile is not submitted again.
        known = survey(runs, holding_lock=True)
        _say_problems(known, display)
        after: list[str] = []
        for stage, members in stages(points).items():
            fresh = [point for point in members if point.experiment.name not in known.words]
            requests = [request_for(p.experiment, plans[p.experiment.name], exclusive=p.exclusive, texts=texts) for p in fresh]
            wish = wish_for(members[0].experiment, study=study.name, command=study.command, paired=members[0].paired, after=after)
            limit = _array_limit(wish, ask=True) if len(requests) > 1 else None
            prepared = prepare(requests, wish, max_array_size=limit)
            _check_limits(prepared, wish)
            for one, job_id in submit(prepared, wish):
                result.jobs.append((job_id, one))
                display.say(f"  stage {stage}: job {job_id}, {one.num_runs} runs, {_shape(one)}")
            queued = {known.words[p.experiment.name].job_id.split("_")[0] for p in members if p.experiment.name in known.words}
            now = sorted(queued - {""}) + [job for job, one in result.jobs if _in_stage(one, members)]
            after = now or after
    return result


def submit_requests(
    requests: Sequence[RunRequest], experiment: Experiment, display: Display, *, study: str, command: str
) -> Submitted:
    """Submit frozen runs again (``tenfold retry``)."""
    runs = Path(experiment.config.paths.runs)
    result = Submitted()
    with locked(open_ledger(runs), what="the ledger of submissions"):
        known = survey(runs, holding_lock=True)
        _say_problems(known, display)
        fresh = [request for request in requests if request.name not in known.words]
        wish = wish_for(experiment, study=study, command=command)
        limit = _array_limit(wish, ask=True) if len(fresh) > 1 else None
        for one, job_id in submit(prepare(fresh, wish, max_array_size=limit), wish):
            result.jobs.append((job_id, one))
            display.say(f"  job {job_id}, {one.num_runs} runs, {_shape(one)}")
    return result


def _in_stage(one: Prepared, members: Sequence[StudyPoint]) -> bool:
    names = {point.experiment.name for point in members}
    return any(run.name in names for task in one.submission.tasks for run in task)


def _say_problems(known: Survey, display: Display) -> None:
    """What cannot be known now must not be submitted twice.

    Raises:
        LaunchError: the scheduler does not answer.
    """
    if known.problems:
        raise LaunchError(
            known.problems[0], where="launcher=slurm", next_step="the same command again, once the controller answers"
        )


def _array_limit(wish: Wish, *, ask: bool) -> int | None:
    """The site profile's limit, else the cluster's own."""
    if wish.site.max_array_size is not None or not ask:
        return wish.site.max_array_size
    value = Slurm(wish.site.slurm_conf).config().get("MaxArraySize", "")
    return int(value) if value.isdigit() else None


def _check_limits(prepared: Sequence[Prepared], wish: Wish) -> None:
    jobs = sum(len(one.submission.tasks) for one in prepared)
    most = wish.site.max_submit_jobs
    if most is not None and jobs > most:
        raise LaunchError(
            f"{jobs} jobs are more than the {most} that site '{wish.site.name}' lets one user submit",
            where=f"site {wish.site.name}: max_submit_jobs",
            next_step=f"launcher.pack={-(-jobs // most) + 1} lets several runs share a job",
        )


def _shape(one: Prepared) -> str:
    need = one.batch.allocation
    parts = [f"{need.ranks} rank{'s' if need.ranks > 1 else ''} on {need.nodes} node{'s' if need.nodes > 1 else ''}"]
    if need.gpus_per_rank:
        parts.append(f"{need.gpus_per_rank} GPU a rank")
    if need.memory_gib is not None:
        parts.append(f"{need.memory_gib:g} GiB a node")
    if need.time_limit_s is not None:
        parts.append(f"{need.time_limit_s / 60:.0f} min")
    if need.exclusive:
        parts.append("alone")
    return ", ".join(parts)


def check_scripts(prepared: Sequence[Prepared], folder: Path) -> list[str]:
    """``sbatch --test-only`` on every script; when and where each would start.

    Raises:
        LaunchError: the scheduler would refuse one.
    """
    answers = []
    for number, one in enumerate(prepared):
        path = folder / f"script-{number}.sh"
        path.write_text(one.script)
        site = one.submission.profile
        answers.append(Slurm(site.slurm_conf).test_only(str(path)))
    return answers


def require_slurm(experiment: Experiment) -> None:
    """Say early that there is no Slurm here.

    Raises:
        ConfigError: no sbatch on PATH.
    """
    import shutil

    if shutil.which("sbatch", path=os.environ.get("PATH")) is None:
        raise ConfigError(
            "launcher=slurm, but there is no sbatch on PATH",
            where=f"site {experiment.config.site.name}",
            next_step="on a cluster: log in where sbatch is; here: make system, then tenfold cluster up",
        )
