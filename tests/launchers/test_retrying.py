"""What follows a failure: the table, how often, and the layout of the next attempt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import configs
from launchers.layout import Layout
from launchers.retrying import MORE_MEMORY, Action, Decision, RetryRule, check_rules, decide
from results.errors import ConfigError
from results.failures import FailureClass

#: As launcher=slurm has it.
TABLE = {
    name: RetryRule(**rule)
    for name, rule in yaml.safe_load((Path(configs.__file__).parent / "launcher" / "slurm.yaml").read_text())["retry"].items()
}
NONE = Layout()


def after(*failures: str | None, layout: Layout = NONE, memory_gib: float = 2.0, **last: Any) -> Decision:
    """The decision after these failures; keywords are facts of the last attempt."""
    attempts: list[dict[str, Any]] = [{"failure": kind, "micro_batch": 8} for kind in failures]
    if attempts:
        attempts[-1] |= last
    return decide(TABLE, attempts, layout, memory_gib=memory_gib)


# The table -----------------------------------------------------------------------------------------------------------


def test_the_shipped_table_is_valid_and_names_every_class() -> None:
    check_rules(TABLE, "launcher.retry")
    assert set(TABLE) == set(FailureClass)


@pytest.mark.parametrize(
    ("kind", "action", "layout"),
    [
        ("preempted", Action.RESUME, NONE),
        ("timeout", Action.RESUME, NONE),
        ("node-fail", Action.EXCLUDE_NODE, Layout(exclude_nodes=("n3",), reason="without n3 after node-fail")),
        ("oom-device", Action.HALVE_MICRO_BATCH, Layout(micro_batch=4, reason="half the micro-batch after oom-device")),
        ("oom-host", Action.MORE_MEMORY, Layout(memory_gib=3.0, reason="more memory after oom-host")),
        ("crash", Action.NEVER, NONE),
        ("diverged", Action.NEVER, NONE),
        ("bad-input", Action.NEVER, NONE),
        ("cancelled", Action.NEVER, NONE),
    ],
)
def test_each_class_of_failure_has_its_answer(kind: str, action: Action, layout: Layout) -> None:
    found = after(kind, lost_nodes=["n3"])
    assert (found.action, found.layout, found.again) == (action, layout, action is not Action.NEVER)


def test_nothing_follows_what_did_not_fail() -> None:
    assert not after().again
    assert not after(None).again
    assert not after("timeout", None).again


def test_without_a_table_nothing_is_done_by_itself() -> None:
    assert not decide({}, [{"failure": "timeout"}], NONE, memory_gib=1.0).again


# How often -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "times"), [("preempted", 20), ("node-fail", 3), ("oom-device", 3), ("oom-host", 2)])
def test_it_is_given_up_after_so_many_failures_of_the_class(kind: str, times: int) -> None:
    assert all(after(*[kind] * count, micro_batch=8).again for count in range(1, times + 1))
    last = after(*[kind] * (times + 1))
    assert not last.again
    assert last.reason == f"{kind} {times + 1} times; retry.{kind}.times is {times}"


def test_failures_of_other_classes_do_not_count() -> None:
    assert after(*["preempted"] * 19, "crash", "oom-host", "oom-host").again
    assert not after(*["preempted"] * 19, "oom-host", "oom-host", "oom-host").again


@given(
    fates=st.lists(st.sampled_from([str(kind) for kind in FailureClass]), min_size=300, max_size=300),
    micro=st.integers(1, 64),
)
def test_whatever_goes_wrong_it_ends(fates: list[str], micro: int) -> None:
    """No run is tried for ever; the micro-batch only shrinks and stays a divisor of what it was."""
    layout, attempts = NONE, []
    for fate in fates:
        attempts.append({"failure": fate, "micro_batch": layout.micro_batch or micro, "lost_nodes": ["n1"]})
        decision = decide(TABLE, attempts, layout, memory_gib=1.0)
        if not decision.again:
            break
        layout = decision.layout
        assert micro % (layout.micro_batch or micro) == 0
        assert (layout.engine, layout.ranks) == (None, None)
    else:
        pytest.fail("still tried after 300 attempts")
    assert len(attempts) <= 1 + sum(rule.times for rule in TABLE.values() if rule.action != "never")


# Layouts -------------------------------------------------------------------------------------------------------------


def test_the_micro_batch_is_halved_again_and_again() -> None:
    layout, seen = NONE, []
    for count in range(1, 4):
        layout = after(*["oom-device"] * count, layout=layout, micro_batch=layout.micro_batch or 8).layout
        seen.append(layout.micro_batch)
    assert seen == [4, 2, 1]


def test_what_the_attempt_really_had_is_halved() -> None:
    """On more ranks its share of the global batch was smaller than the layout's micro-batch: half of that were no change."""
    layout = Layout(ranks=4, micro_batch=4)
    assert after("oom-device", layout=layout, micro_batch=2).layout == Layout(
        ranks=4, micro_batch=1, reason="half the micro-batch after oom-device"
    )
    assert after("oom-device", layout=layout, micro_batch=None).layout.micro_batch == 2  # it died before it could say


@pytest.mark.parametrize("micro", [1, 3])
def test_what_cannot_be_halved_is_not(micro: int) -> None:
    found = after("oom-device", micro_batch=micro)
    assert not found.again
    assert found.reason == f"a micro-batch of {micro} cannot be halved"
    assert found.layout == NONE


def test_memory_grows_from_what_there_was() -> None:
    first = after("oom-host", memory_gib=2.0).layout
    assert first.memory_gib == 2.0 * MORE_MEMORY
    assert after("oom-host", "oom-host", memory_gib=2.0, layout=first).layout.memory_gib == 2.0 * MORE_MEMORY**2
    unknown = after("oom-host", memory_gib=0.0)
    assert (unknown.again, unknown.reason) == (False, "it is not known how much memory it had")


def test_lost_nodes_are_remembered() -> None:
    layout = Layout(ranks=2, exclude_nodes=("n2",))
    found = after("node-fail", layout=layout, lost_nodes=["n1", "n2"])
    assert found.layout == Layout(ranks=2, exclude_nodes=("n1", "n2"), reason="without n1, n2 after node-fail")
    again = after("node-fail", lost_nodes=None)
    assert again.again
    assert again.layout.exclude_nodes == ()


# Mistakes in a table -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "what", "where"),
    [
        ({"time-out": RetryRule()}, "no failure class 'time-out'; did you mean 'timeout'", "launcher.retry.time-out"),
        ({"crash": RetryRule("restart")}, "no action 'restart'; known: exclude-node, halve", "launcher.retry.crash.action"),
        ({"crash": RetryRule("resume", -1)}, "times is -1", "launcher.retry.crash.times"),
        ({"diverged": RetryRule("resume")}, "only 'never' makes sense", "launcher.retry.diverged.action"),
        ({"bad-input": RetryRule("resume")}, "only 'never' makes sense", "launcher.retry.bad-input.action"),
    ],
)
def test_a_wrong_table_is_refused_by_its_key(rules: dict[str, RetryRule], what: str, where: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        check_rules(rules, "launcher.retry")
    assert caught.value.where == where
