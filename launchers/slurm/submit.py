"""From requests to jobs: equal allocations become arrays, arrays fit the cluster's limits, every call is in the ledger first."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from launchers.layout import Layout
from launchers.request import RunRequest
from launchers.retrying import Action, RetryRule
from launchers.site import SiteProfile
from launchers.slurm.commands import Slurm, UnreachableError
from launchers.slurm.ledger import Submission, TaskRun, comment_for, ledger_folder, new_token, token_of
from launchers.slurm.script import Allocation, Batch, allocation_for, memory_steps, nodes_for, render
from results.errors import LaunchError
from results.failures import FailureClass
from results.store import locked, make_folder

#: Slurm's own default: the largest index of an array is one less.
DEFAULT_MAX_ARRAY = 1001


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be submitted together, and how.

    Attributes:
        pack: runs per job; more than one share an allocation.
        parallel: of those, how many at a time.
        paired: the runs of a job follow one another in the given order, whatever fits beside them.
        after: jobs that must have ended before.
    """

    study: str
    command: str
    label: str
    site: SiteProfile
    rules: Mapping[str, RetryRule] = field(default_factory=dict)
    pack: int = 1
    parallel: int = 1
    paired: bool = False
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission that is ready: its ledger entry and its script."""

    submission: Submission
    batch: Batch
    script: str

    @property
    def num_runs(self) -> int:
        """How many runs it holds."""
        return sum(len(task) for task in self.submission.tasks)


def prepare(requests: Sequence[RunRequest], wish: Wish, *, max_array_size: int | None = None) -> list[Prepared]:
    """Group requests into submissions; nothing is written and nobody is asked.

    Runs of equal allocation make one array, cut so that no index reaches ``max_array_size``; the throttle is divided over what is
    cut. An exclusive stage on a shared machine becomes a chain of single jobs (``after`` is set at submission).

    Raises:
        LaunchError: a run does not fit the site.
    """
    if not requests:
        return []
    runs = requests[0].folder.parent.resolve()
    known = wish.site.max_array_size if max_array_size is None else max_array_size
    limit = DEFAULT_MAX_ARRAY if known is None else max(known, 1)  # 0: the cluster knows no arrays
    groups: dict[Allocation, list[RunRequest]] = {}
    for request in requests:
        layout = Layout.read(request.folder)
        groups.setdefault(allocation_for(request, wish.site, layout.exclude_nodes), []).append(request)
    chunks: list[tuple[Allocation, list[list[RunRequest]]]] = []
    if wish.paired:  # whatever they need, all share one allocation: what is compared ran on the same nodes
        widest = _widest([allocation for allocation, members in groups.items() for _ in members])
        chunks.append((widest, [list(requests)]))
        groups = {}
    for allocation, members in groups.items():
        tasks = [members[start : start + wish.pack] for start in range(0, len(members), wish.pack)]
        chunks += [(allocation, tasks[start : start + limit]) for start in range(0, len(tasks), limit)]
    prepared = []
    for (allocation, tasks), throttle in zip(chunks, _throttles([len(tasks) for _, tasks in chunks], wish), strict=True):
        parallel = 1 if wish.paired else min(wish.parallel, max(len(task) for task in tasks))
        if not wish.paired and allocation.time_limit_s is not None:  # a run's limit; the job works off several, a few at a time
            rounds = -(-max(len(task) for task in tasks) // parallel)
            allocation = replace(allocation, time_limit_s=allocation.time_limit_s * rounds)
        if parallel > 1:
            allocation = _side_by_side(allocation, parallel, wish.site)
        prepared.append(_prepared(runs, allocation, tasks, throttle, wish))
    return prepared


def _side_by_side(one: Allocation, parallel: int, site: SiteProfile) -> Allocation:
    """Room for several runs of equal need at a time, on as many nodes as their ranks together fit on."""
    ranks = one.ranks * parallel
    needed = RunRequest(folder=Path(), ranks=ranks, cores_per_rank=one.cores_per_rank, gpus_per_rank=one.gpus_per_rank)
    nodes = max(one.nodes, nodes_for(needed, site))
    memory = None if one.memory_gib is None else memory_steps(one.memory_gib * one.nodes * parallel / nodes)
    return replace(one, ranks=ranks, nodes=nodes, memory_gib=memory)


def _widest(allocations: Sequence[Allocation]) -> Allocation:
    """One allocation that any run's fits into; its time is for all of them, one after another.

    Args:
        allocations: one for each run.
    """
    limits = [one.time_limit_s for one in allocations]
    memories = [one.memory_gib for one in allocations]
    return Allocation(
        ranks=max(one.ranks for one in allocations),
        cores_per_rank=max(one.cores_per_rank for one in allocations),
        gpus_per_rank=max(one.gpus_per_rank for one in allocations),
        nodes=max(one.nodes for one in allocations),
        memory_gib=None if None in memories else max(memory for memory in memories if memory is not None),
        time_limit_s=None if None in limits else sum(limit for limit in limits if limit is not None),
        exclusive=any(one.exclusive for one in allocations),
        exclude=tuple(sorted({node for one in allocations for node in one.exclude})),
    )


def _throttles(sizes: Sequence[int], wish: Wish) -> list[int | None]:
    """The site's limit of running tasks, divided over the arrays: one each, the rest by their size."""
    total = wish.site.array_throttle
    if total is None:
        return [None] * len(sizes)
    spare = max(total - len(sizes), 0)
    return [1 + spare * size // sum(sizes) for size in sizes]


def _prepared(
    runs: Path, allocation: Allocation, tasks: Sequence[Sequence[RunRequest]], throttle: int | None, wish: Wish
) -> Prepared:
    token = new_token()
    folder = ledger_folder(runs) / token
    array = len(tasks) > 1
    names = [request.name for task in tasks for request in task]
    batch = Batch(
        folder=folder,
        name=names[0] if len(names) == 1 else wish.label,
        comment=comment_for(token, wish.study),
        allocation=allocation,
        tasks=len(tasks) if array else None,
        throttle=throttle,
        after=wish.after,
        requeue=_comes_back(wish.rules),
    )
    submission = Submission(
        folder=folder,
        token=token,
        study=wish.study,
        command=wish.command,
        created=datetime.now(UTC).isoformat(),
        site=asdict(wish.site),
        tasks=tuple(tuple(_task_run(request) for request in task) for task in tasks),
        retry={name: asdict(rule) for name, rule in wish.rules.items()},
        one_at_a_time=wish.paired or wish.parallel == 1,
        array=array,
    )
    return Prepared(submission, batch, render(batch, wish.site))


def _comes_back(rules: Mapping[str, RetryRule]) -> bool:
    """Whether the retry table wants jobs that the scheduler takes off their nodes back in the queue."""
    kinds = (FailureClass.PREEMPTED, FailureClass.TIMEOUT, FailureClass.NODE_FAIL)
    return any(rules[kind].action != Action.NEVER for kind in kinds if kind in rules)


def _task_run(request: RunRequest) -> TaskRun:
    return TaskRun(
        name=request.name,
        ranks=request.ranks,
        cores_per_rank=request.cores_per_rank,
        gpus_per_rank=request.gpus_per_rank,
        memory_gib=request.memory_gib,
        exclusive=request.exclusive,
        module=request.module,
        nodes=request.nodes,
        environment=dict(request.environment),
    )


def submit(
    prepared: Sequence[Prepared], wish: Wish, *, told: Callable[[Prepared, str], None] = lambda *_: None
) -> list[tuple[Prepared, str]]:
    """Submit what was prepared, each written into the ledger first. The ledger's lock must be held.

    On a machine that nodes share, exclusive jobs follow one another.

    Raises:
        LaunchError: sbatch refuses; says what was submitted before, which stays.
    """
    slurm = Slurm(wish.site.slurm_conf)
    done: list[tuple[Prepared, str]] = []
    for one in prepared:
        if wish.site.shared_machine and one.batch.allocation.exclusive:
            batch = replace(one.batch, throttle=1, after=(done[-1][1],) if done else one.batch.after)
            one = Prepared(one.submission, batch, render(batch, wish.site))
        one.submission.write(one.script)
        try:
            job_id = _sbatch(slurm, one)
        except LaunchError as error:
            refused = not isinstance(error, UnreachableError)
            if refused:  # without an answer it may have been accepted: then the next survey finds it
                one.submission.settle(f"refused: {error.what}")
            before = ", ".join(job for _, job in done)
            look = "tenfold status, once the controller answers: the job may have been accepted all the same"
            raise LaunchError(
                error.what + (f"; submitted before: {before}" if before else ""),
                where=str(one.submission.script),
                next_step=error.next_step
                or (f"sbatch --test-only {shlex.quote(str(one.submission.script))}" if refused else look),
            ) from error
        one.submission.found(job_id)
        done.append((one, job_id))
        told(one, job_id)
    return done


def _sbatch(slurm: Slurm, one: Prepared) -> str:
    try:
        return slurm.submit(str(one.submission.script))
    except UnreachableError as silence:
        # No answer does not mean that nothing happened: look before asking again.
        for _ in range(3):
            try:
                found = find_job(slurm, one.submission.token)
            except LaunchError:
                raise silence from None
            if found is not None:
                return found
            with contextlib.suppress(UnreachableError):
                return slurm.submit(str(one.submission.script))
        raise


def find_job(slurm: Slurm, token: str) -> str | None:
    """The number of the job whose comment carries the token, in the queue or in what the controller remembers.

    Raises:
        UnreachableError: the controller does not answer.
    """
    for job in slurm.queue().values():
        if token_of(job.comment) == token:
            return job.job_id.split("_")[0]
    from launchers.slurm.commands import parse_fields

    for line in slurm.call("scontrol", "show", "job", "--oneliner").splitlines():
        fields = parse_fields(line)
        if token_of(fields.get("Comment", "")) == token:
            return fields.get("ArrayJobId") or fields["JobId"]
    return None


def resubmit(submission: Submission, index: int, run: TaskRun, layout: Layout) -> str:
    """Submit one run of a submission again, with another allocation; the new job's number.

    Raises:
        LaunchError: sbatch refuses.
    """
    memory = layout.memory_gib or run.memory_gib
    request = RunRequest(
        folder=submission.runs / run.name,
        ranks=layout.ranks or run.ranks,
        cores_per_rank=run.cores_per_rank,
        gpus_per_rank=run.gpus_per_rank,
        nodes=run.nodes,
        memory_gib=memory,
        exclusive=run.exclusive,
        environment=run.environment,
        module=run.module,
    )
    wish = Wish(
        study=submission.study,
        command=submission.command,
        label=run.name,
        site=submission.profile,
        rules={name: RetryRule(**rule) for name, rule in submission.retry.items()},
    )
    with locked(open_ledger(submission.runs), what="the ledger of submissions"):
        return submit(prepare([request], wish), wish)[0][1]


def open_ledger(runs: Path) -> Path:
    """Make the ledger's folder; the path of its lock.

    Raises:
        ResultError: it cannot be made.
    """
    folder = ledger_folder(runs)
    make_folder(folder, what="the ledger of submissions", next_step="paths.runs=FOLDER")
    return folder / "lock"
