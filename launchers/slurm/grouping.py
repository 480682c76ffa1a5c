"""From requests to submissions: equal allocations become arrays, arrays fit the cluster's limits. Nothing is written yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from launchers.layout import Layout
from launchers.request import RunRequest
from launchers.retrying import Action, RetryRule
from launchers.site import SiteProfile
from launchers.slurm.ledger import Submission, TaskRun, comment_for, ledger_folder, new_token
from launchers.slurm.script import Allocation, Batch, allocation_for, memory_steps, nodes_for, partition_of, render
from results.errors import LaunchError
from results.failures import FailureClass

#: Slurm's own default: the largest index of an array is one less.
DEFAULT_MAX_ARRAY = 1001
#: Characters of a job's name; the accounting keeps 255 bytes.
MAX_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be submitted together, and how.

    Attributes:
        label: what jobs of several runs are called by: system, scale, study.
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
        _check_time(allocation, max(len(task) for task in tasks), wish.site)
        if parallel > 1:
            allocation = _side_by_side(allocation, parallel, wish.site)
        prepared.append(_prepared(runs, allocation, tasks, throttle, wish))
    return prepared


def _check_time(allocation: Allocation, runs: int, site: SiteProfile) -> None:
    """Hold the time of all runs of a job against the partition's limit.

    Raises:
        LaunchError: it is longer.
    """
    partition, asked_s = partition_of(site), allocation.time_limit_s
    if partition is None or partition.max_time_s is None or asked_s is None or asked_s <= partition.max_time_s:
        return
    raise LaunchError(
        f"a job of {runs} runs asks for {asked_s / 3600:.2f} h, the limit of partition '{site.partition}' is "
        f"{partition.max_time_s / 3600:.2f} h",
        where=f"site {site.name}: partitions.{site.partition}.max_time_s",
        next_step="launcher.pack=... with fewer runs, launcher.time_limit_s=..., or site.partition=NAME",
    )


def _side_by_side(one: Allocation, parallel: int, site: SiteProfile) -> Allocation:
    """Room for several runs of equal need at a time, on as many nodes as their ranks together fit on.

    Raises:
        LaunchError: so many do not fit the site at a time.
    """
    ranks = one.ranks * parallel
    total_gib = 0.0 if one.memory_gib is None else one.memory_gib * one.nodes * parallel
    needed = RunRequest(
        folder=Path(f"{parallel} at a time"),
        ranks=ranks,
        cores_per_rank=one.cores_per_rank,
        gpus_per_rank=one.gpus_per_rank,
        memory_gib=total_gib,
    )
    nodes = max(one.nodes, nodes_for(needed, site))
    memory = None if one.memory_gib is None else memory_steps(total_gib * -(-ranks // nodes) / ranks, site)
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
    several = [f"{len(names)} runs from {names[0]} on"] if len(names) > 1 else []
    batch = Batch(
        folder=folder,
        name=job_name(wish.label, names),
        comment=comment_for(token, wish.study, *several),
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
        label=wish.label,
        job_name=batch.name,
    )
    return Prepared(submission, batch, render(batch, wish.site))


def job_name(label: str, names: Sequence[str]) -> str:
    """What the queue calls a job: its run's name, or the label, the first run's hash and how many follow."""
    if len(names) == 1:
        return names[0]
    more = f"-{names[0].rsplit('-', 1)[-1]}+{len(names) - 1}"
    return label[: MAX_NAME - len(more)] + more


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
        time_limit_s=request.time_limit_s,
        leave_grace_s=request.leave_grace_s,
        environment=dict(request.environment),
    )
