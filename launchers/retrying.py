"""What is done by itself after a failure: a table from class of failure to an action, and how often.

Actions: ``never``; ``resume`` (the same again, from the newest checkpoint); ``halve-micro-batch`` (and twice the accumulation:
the global batch stays); ``more-memory`` (half as much again); ``exclude-node`` (not on the node that was lost).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from launchers.layout import Layout
from results.errors import ConfigError, near_matches
from results.failures import FailureClass

#: Factor between the memory of an attempt that ran out of it and of the next.
MORE_MEMORY = 1.5


class Action(StrEnum):
    """What follows a failure."""

    NEVER = "never"
    RESUME = "resume"
    HALVE_MICRO_BATCH = "halve-micro-batch"
    MORE_MEMORY = "more-memory"
    EXCLUDE_NODE = "exclude-node"


@dataclass
class RetryRule:
    """One line of the table: the action, and after how many failures of this class it is given up."""

    action: str = "never"
    times: int = 1


def check_rules(rules: Mapping[str, RetryRule], where: str) -> None:
    """Hold the table against the known classes and actions.

    Raises:
        ConfigError: a word is unknown, a count negative, or an action makes no sense for its class.
    """
    for name, rule in rules.items():
        if name not in set(FailureClass):
            raise ConfigError(
                f"there is no failure class '{name}'{near_matches(name, map(str, FailureClass))}", where=f"{where}.{name}"
            )
        if rule.action not in set(Action):
            raise ConfigError(
                f"there is no action '{rule.action}'{near_matches(rule.action, map(str, Action))}", where=f"{where}.{name}.action"
            )
        if rule.times < 0:
            raise ConfigError(f"times is {rule.times}; it must not be negative", where=f"{where}.{name}.times")
        if name in (FailureClass.BAD_INPUT, FailureClass.DIVERGED) and rule.action != Action.NEVER:
            raise ConfigError(f"'{name}' fails the same way again: only 'never' makes sense", where=f"{where}.{name}.action")


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows, and the layout it follows with."""

    action: Action
    layout: Layout
    reason: str = ""

    @property
    def again(self) -> bool:
        """Whether the run is to be tried again."""
        return self.action is not Action.NEVER


def decide(
    rules: Mapping[str, RetryRule], attempts: Sequence[Mapping[str, Any]], layout: Layout, *, memory_gib: float
) -> Decision:
    """What follows the last of a run's attempts.

    Args:
        attempts: of the run, oldest first: ``failure`` (class or None), ``micro_batch``, ``lost_nodes`` where known.
        layout: that the last attempt had.
        memory_gib: that the last attempt was given, all ranks together; 0 where unknown.
    """
    last = attempts[-1] if attempts else {}
    kind = last.get("failure")
    rule = rules.get(str(kind))
    if kind is None or rule is None or rule.action == Action.NEVER:
        return Decision(Action.NEVER, layout)
    count = sum(attempt.get("failure") == kind for attempt in attempts)
    if count > rule.times:
        return Decision(Action.NEVER, layout, f"{kind} {count} times; retry.{kind}.times is {rule.times}")
    action = Action(rule.action)
    if action is Action.HALVE_MICRO_BATCH:
        # What the attempt really had comes first: other ranks may have made it smaller than the layout says.
        micro = last.get("micro_batch") or layout.micro_batch or 1
        if micro % 2:
            return Decision(Action.NEVER, layout, f"a micro-batch of {micro} cannot be halved")
        return Decision(action, replace(layout, micro_batch=micro // 2, reason=f"half the micro-batch after {kind}"))
    if action is Action.MORE_MEMORY:
        asked = layout.memory_gib or memory_gib
        if not asked:
            return Decision(Action.NEVER, layout, "it is not known how much memory it had")
        return Decision(action, replace(layout, memory_gib=asked * MORE_MEMORY, reason=f"more memory after {kind}"))
    if action is Action.EXCLUDE_NODE:
        lost = tuple(sorted({*layout.exclude_nodes, *(last.get("lost_nodes") or ())}))
        if not lost:
            return Decision(action, replace(layout, reason=f"again after {kind}; which node it was is not known"))
        return Decision(action, replace(layout, exclude_nodes=lost, reason=f"without {', '.join(lost)} after {kind}"))
    return Decision(action, layout)
