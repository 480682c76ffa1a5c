"""The best layout of an experiment: engine, ranks and micro-batch that fit the memory and take least time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from harness.experiment import Experiment
from harness.planning.plan import Plan, make_plan
from harness.schema import ENGINES
from launchers.layout import Layout
from results.errors import ConfigError

GIB = 2**30


class Objective(StrEnum):
    """What the best layout has least of."""

    TIME = "time"  # seconds of the training
    HOURS = "hours"  # ranks times hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One layout.

    Attributes:
        possible: the experiment can be cut that way, and its memory is enough.
        reason: why not.
        rank_hours: ranks times hours of training.
    """

    engine: str
    ranks: int
    micro_batch: int
    possible: bool
    reason: str
    plan: Plan | None = None

    @property
    def rank_hours(self) -> float | None:
        """Ranks times hours of training; None where the time is not known."""
        train_s = None if self.plan is None else self.plan.train_s
        return None if train_s is None else self.ranks * train_s / 3600

    def as_dict(self) -> dict[str, Any]:
        """Plain form, the plan reduced to what a choice stands on."""
        found = {key: value for key, value in asdict(self).items() if key != "plan"}
        names = ("bytes_per_rank", "host_bytes_per_rank", "step_s", "train_s", "node_hours", "sent_bytes_per_step")
        found |= {name: None if self.plan is None else getattr(self.plan, name) for name in names}
        return found | {"rank_hours": self.rank_hours}


def micro_batches(global_batch: int, ranks: int) -> list[int]:
    """Micro-batches that cut a rank's share of the global batch evenly, the largest first; none where there is no such share."""
    share, rest = divmod(global_batch, ranks)
    return [] if rest else [size for size in range(share, 0, -1) if share % size == 0]


def search(
    experiment: Experiment,
    *,
    ranks: Sequence[int],
    engines: Sequence[str] = ENGINES,
    micro: Sequence[int] = (),
    gpu: str | None = None,
    objective: Objective = Objective.TIME,
    measure: bool = False,
) -> list[Candidate]:
    """All layouts, the best first, those that are not possible last.

    The global batch stays, and with it what the training computes. Ranks beyond this machine's cores take turns.

    Args:
        micro: micro-batches to try; by default all that divide a rank's share.
        gpu: plan for GPUs of this type.

    Raises:
        ConfigError: an engine that does not exist.
    """
    found = []
    for engine in engines:
        for count in ranks:
            if engine == "torch" and count > 1:
                continue  # the single-process reference has one layout
            for size in micro or micro_batches(experiment.config.train.global_batch, count) or [1]:
                found.append(_try(experiment, engine, count, size, gpu, measure))

    def key(candidate: Candidate) -> tuple[Any, ...]:
        plan = candidate.plan
        time_s = float("inf") if plan is None or plan.train_s is None else plan.train_s
        cost = time_s if objective is Objective.TIME else candidate.ranks * time_s
        memory = float("inf") if plan is None else plan.bytes_per_rank or 0
        return (not candidate.possible, cost, memory, candidate.ranks)

    return sorted(found, key=key)


def _try(experiment: Experiment, engine: str, ranks: int, micro: int, gpu: str | None, measure: bool) -> Candidate:
    global_batch = experiment.config.train.global_batch
    facts: dict[str, Any] = {"engine": engine, "ranks": ranks, "micro_batch": micro}
    if global_batch % (ranks * micro):
        reason = f"a global batch of {global_batch} cannot be cut into micro-batches of {micro} on {ranks} ranks"
        return Candidate(**facts, possible=False, reason=reason)
    try:
        # The experiment's own engine keeps what was changed about it (buckets, say).
        other = None if engine == experiment.config.engine.name else engine
        chosen = experiment.with_layout(Layout(engine=other, ranks=ranks, micro_batch=micro))
    except ConfigError as error:
        if engine not in ENGINES:
            raise
        return Candidate(**facts, possible=False, reason=error.what)
    plan = make_plan(chosen, gpu=gpu, measure=measure)
    reason = ""
    if plan.fits is False:
        where = gpu or "this machine"
        reason = next((note for note in plan.notes if note.startswith("needs ")), f"does not fit {where}")
    return Candidate(**facts, possible=plan.fits is not False, reason=reason, plan=plan)
