"""The one training loop of all trained systems."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from harness.checkpoints import Checkpoints
from harness.engines import engine_class
from harness.engines.base import Engine
from harness.group import Group
from harness.leave import LeaveError
from harness.loader import Loader
from harness.sampler import micro_batches
from harness.schedule import learning_rate
from models.system import Point, TrainData, TrainedSystem
from results.errors import DataError, DivergedError
from results.series import StepLog

if TYPE_CHECKING:
    from harness.context import RunContext

#: With several ranks the flag to leave is agreed on about this often: one tiny collective, seldom enough not to count, soon
#: enough for the launcher's patience.
LEAVE_EVERY_S = 2.0
#: It is agreed on after multiples of one of these: where steps are short, after the same ones in every attempt.
LEAVE_EVERY_STEPS = (10, 5, 2, 1)
#: Memory held now is looked up this often; steps in between repeat the last reading.
LOOK_EVERY_S = 0.5


def fit(context: RunContext, system: TrainedSystem, point: Point, data: TrainData) -> nn.Module:
    """Train to the last step, from the newest checkpoint if there is one; returns the module to evaluate.

    Raises:
        DivergedError: a loss left the finite numbers.
        LeaveError: the run was asked to leave; a checkpoint was saved first.
        DataError: the training set is empty.
    """
    config = context.experiment.config
    if data.num_samples < 1:
        raise DataError("the training set is empty", where="data")
    with context.phase("load"):
        torch.manual_seed(config.seed)
        engine = engine_class(config.engine.name)(
            config=config.engine,
            train=config.train,
            precision=config.precision,
            group=context.group,
            build=lambda: system.build_model(point),
            groups=lambda model: system.param_groups(point, model),
            loss=lambda model, batch: system.loss(point, model, batch),
        )
        context.facts["params"] = engine.num_params
        checkpoints = Checkpoints(context.folder.checkpoints, context.group)
        loop = _Loop(context, system, point, data, engine, checkpoints)
        loop.resume()
    with context.phase("train"):
        loop.run()
    loop.finish()
    return engine.eval_module()


class Agreement:
    """When ranks leave: together, at a step boundary, if any of them is asked to.

    They ask each other about every :data:`LEAVE_EVERY_S`. The question carries the longest step that each has had since the last
    one, so that all know from the slowest when to ask next; no plan is needed, and no collective besides.

    Attributes:
        boundary_s: seconds between two step boundaries, of the slowest rank; 0 before the first question.
    """

    def __init__(self, group: Group) -> None:
        self._group, self._ask_at, self._longest_s = group, 0, 0.0
        self.boundary_s = 0.0

    def __call__(self, done: int, took_s: float, asked: Callable[[], bool]) -> bool:
        """Whether all leave now. Called by every rank after every step.

        Args:
            done: steps so far.
            took_s: of the last one, with all that belongs to it.
            asked: whether this rank is asked to leave.
        """
        self._longest_s = max(self._longest_s, took_s)
        if done < self._ask_at:
            return False
        mine = np.array([[float(asked()), self._longest_s]])
        leave, self.boundary_s = (float(value) for value in self._group.all_gather(mine).max(axis=0))
        soon = (steps for steps in LEAVE_EVERY_STEPS if steps * self.boundary_s <= LEAVE_EVERY_S)
        every = next(soon, 1) if self._group.world > 1 else 1  # alone, asking costs nothing
        self._ask_at = (done // every + 1) * every
        self._longest_s = 0.0
        return leave > 0


class _Loop:
    """State of one attempt's training."""

    def __init__(
        self,
        context: RunContext,
        system: TrainedSystem,
        point: Point,
        data: TrainData,
        engine: Engine,
        checkpoints: Checkpoints,
    ) -> None:
        self.context, self.system, self.point, self.data = context, system, point, data
        self.engine, self.checkpoints = engine, checkpoints
        self.train = context.experiment.config.train
        self.seed = context.experiment.config.seed
        self.first = 0
        self.best: float | None = None
        self.saved_at = -1
        self.log: StepLog | None = None
        self.leave = Agreement(context.group)

    def resume(self) -> None:
        """Load the newest complete checkpoint."""
        path = self.checkpoints.find()
        if path is not None:
            state = self.checkpoints.load(self.engine, path)
            self.first, self.best = int(state["step"]), state.get("best")
            self.saved_at = self.first
        self.context.facts["first_step"] = self.first

    def run(self) -> None:
        """All remaining steps."""
        context, train, meter = self.context, self.train, self.context.meter
        clock = context.facts.get("clock")
        log = self.log = StepLog(context.attempt.steps_file(context.rank))
        loader = Loader(self.data, self._plan, first=self.first, last=train.steps, device=context.device)
        timed: list[float] = []
        waited = communicated = look_at = 0.0
        held = math.nan
        self.engine.train_mode()
        try:
            batches = iter(loader)
            for step in range(self.first, train.steps):
                context.step = step
                lr = learning_rate(train, step)
                start = time.perf_counter()
                batch = next(batches)
                ready = time.perf_counter()
                sent = clock.seconds if clock else 0.0
                result = self.engine.step(batch, lr)
                meter.synchronise()
                done = time.perf_counter()
                sent = clock.seconds - sent if clock else 0.0
                if done >= look_at:  # asking the kernel takes a fifth of a millisecond: not every step
                    held, look_at = meter.memory_now_gib(), done + LOOK_EVERY_S
                log.append(
                    step,
                    loss=result.loss,
                    step_s=done - ready,
                    data_wait_s=ready - start,
                    communicate_s=sent,
                    memory_gib=held,
                    lr=lr,
                    grad_norm=result.grad_norm,
                )
                if not math.isfinite(result.loss):
                    self._diverged(step, result.loss, lr, result.grad_norm)
                waited, communicated = waited + ready - start, communicated + sent
                if step - self.first >= train.timing_warmup_steps:
                    timed.append(done - ready)
                context.facts["steps_done"] = step + 1
                self.system.after_step(self.point, self.engine.module, step)
                self._between_steps(step, result.loss, done - ready, time.perf_counter() - start)
        finally:
            self.log = None
            log.close()
            loader.close()
            meter.move("train", "data_wait", waited)
            meter.move("train", "communicate", communicated)
            context.facts |= {"timed_steps": timed, "data_wait_s": waited, "communicate_s": communicated}
        context.facts["last_step"] = train.steps

    def _plan(self, step: int) -> list[list[Any]]:
        return micro_batches(
            seed=self.seed,
            step=step,
            count=self.data.num_samples,
            global_batch=self.train.global_batch,
            micro_batch=self.train.micro_batch,
            rank=self.context.rank,
            world=self.context.world,
        )

    def _diverged(self, step: int, loss: float, lr: float, grad_norm: float) -> None:
        samples = [draw.sample for draws in self._plan(step) for draw in draws]
        raise DivergedError(
            f"the loss is {loss} at step {step} (learning rate {lr:.3g}, gradient norm {grad_norm:.3g}, samples {samples[:8]})",
            where=f"run {self.context.folder.name}",
            next_step=f"lower train.lr or set train.clip: tenfold run --from {self.context.folder.name} train.lr={lr / 2:.3g}",
        )

    def _between_steps(self, step: int, loss: float, step_s: float, took_s: float) -> None:
        """What happens at step boundaries, on all ranks together: validate, save, leave."""
        train, done = self.train, step + 1
        self.context.progress("train", done, train.steps, loss=loss, step_s=step_s, boundary_s=self.leave.boundary_s)
        better = False
        if train.validate_every and (done % train.validate_every == 0 or done == train.steps):
            better = self._validate()
        if better or (train.checkpoint_every and done % train.checkpoint_every == 0):
            self._save(done, best=better)
        if done < train.steps and self.leave(done, took_s, lambda: bool(self.context.leave)):
            if self.saved_at != done:
                self._save(done)
            raise LeaveError(
                f"asked to leave ({self.context.leave.reason or 'another rank'}) after step {done}; a checkpoint was saved",
                next_step=f"tenfold retry {self.context.folder.name}",
            )

    def _validate(self) -> bool:
        with self.context.phase("evaluate"), torch.no_grad():
            scores = self.system.validate(self.point, self.engine.eval_module(), self.context)
            self.engine.train_mode()
        name = self.train.select_metric or next(iter(scores), None)
        score = self.context.group.broadcast(math.nan if name is None else float(scores[name]))
        self.context.facts["validation"] = {key: float(value) for key, value in scores.items()}
        if self.train.select == "best" and math.isfinite(score) and self._is_better(name, score):
            self.best = score
            return True
        return False

    def _is_better(self, name: str | None, score: float) -> bool:
        if self.best is None:
            return True
        spec = self.context.experiment.catalogue.metric_specs.get(name or "")
        return score > self.best if spec is not None and spec.direction == "max" else score < self.best

    def _save(self, step: int, *, best: bool = False) -> None:
        with self.context.phase("checkpoint"):
            if self.log is not None:
                self.log.flush()
            self.checkpoints.save(self.engine, step, {"best": self.best}, best=best)
        self.saved_at = step

    def finish(self) -> None:
        """Save the end, then go back to the best weights where the experiment asks for them."""
        keep = self.context.experiment.config.keep
        if self.saved_at != self.train.steps and (keep != "none" or self.train.checkpoint_every):
            self._save(self.train.steps)
        best = self.checkpoints.find("best")
        if self.train.select == "best" and best is not None:
            with self.context.phase("checkpoint"):
                self.checkpoints.load(self.engine, best)


def step_summary(timed: list[float]) -> dict[str, float]:
    """Median and percentiles of timed steps, in seconds."""
    if not timed:
        return {}
    p5, p50, p95 = np.percentile(timed, [5, 50, 95])
    return {"step_s": float(p50), "step_s_p5": float(p5), "step_s_p95": float(p95), "timed_steps": len(timed)}
