"""Classes of failure: from exceptions with their causes, from exit statuses of real processes, and back from a file."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.errors import ConfigError, DataError, DivergedError, ResultError, RunError, TenfoldError, near_matches
from results.failures import NEXT_STEP, Failure, FailureClass, classify_exception, classify_exit, failure_from_exception

TEXTS = st.text(max_size=12)
NUMBERS = st.none() | st.integers(0, 9)
FAILURES = st.builds(
    Failure, kind=st.sampled_from(FailureClass), reason=TEXTS, rank=NUMBERS, step=NUMBERS, host=TEXTS,
    next_step=TEXTS, traceback=TEXTS, evidence=st.dictionaries(TEXTS, st.integers(), max_size=2),
)  # fmt: skip


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """``error`` as raised from ``cause``."""
    error.__cause__ = cause
    return error


def during(error: BaseException, first: BaseException) -> BaseException:
    """``error`` as raised while ``first`` was being handled."""
    error.__context__ = first
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "oom-host"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."), "oom-host"),
        (RuntimeError("std::bad_alloc"), "oom-host"),
        (OSError(12, "Cannot allocate memory"), "oom-host"),
        (DivergedError("the loss is nan"), "diverged"),
        (ConfigError("wrong key"), "bad-input"),
        (DataError("missing variable"), "bad-input"),
        (KeyboardInterrupt(), "cancelled"),
        (TimeoutError("store"), "timeout"),
        (RunError("no variables"), "crash"),
        (ResultError("disk full"), "crash"),
        (ValueError("shapes"), "crash"),
        (RuntimeError("out of memory of mine"), "crash"),
        (caused(RuntimeError("worker failed"), DataError("truncated")), "bad-input"),
        (caused(RuntimeError("a"), caused(RuntimeError("b"), MemoryError())), "oom-host"),
        (during(OSError("while cleaning up"), DivergedError("the loss is inf")), "diverged"),
        (caused(during(ValueError("c"), TimeoutError()), MemoryError()), "oom-host"),  # a stated cause wins
        (caused(DivergedError("first word"), MemoryError()), "diverged"),  # the outermost that says something
    ],
)
def test_an_exception_is_classed_by_the_first_of_its_chain_that_tells(error: BaseException, expected: str) -> None:
    assert classify_exception(error) == expected


def test_torchs_own_out_of_memory_is_the_devices() -> None:
    import torch

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert classify_exception(error) == FailureClass.OOM_DEVICE
    assert classify_exception(caused(RuntimeError("step failed"), error)) == FailureClass.OOM_DEVICE


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crash", "SIGKILL; the kernel's out-of-memory killer"),
        ("import os; os.abort()", "crash", "killed by SIGABRT"),
        ("raise SystemExit(3)", "crash", "exited with status 3"),
        ("import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 28, 1 << 28)); bytearray(1 << 30)", "oom-host", "host memory"),
        ("raise OSError(12, 'Cannot allocate memory')", "oom-host", "host memory"),
    ],
)
def test_the_exit_of_a_real_process_is_classed(code: str, kind: str, reason: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found, text = classify_exit(done.returncode, done.stderr)
    assert found == kind
    assert reason in text


def test_a_signal_without_a_name_is_still_said() -> None:
    assert classify_exit(-250) == (FailureClass.CRASH, "killed by signal 250")


@given(FAILURES)
def test_a_failure_survives_its_file(failure: Failure) -> None:
    plain = failure.as_dict()
    assert plain["class"] in set(FailureClass)
    assert "kind" not in plain
    assert Failure.from_dict({**plain, "added later": 1}) == failure


@given(st.sampled_from(FailureClass), st.from_regex(r"[a-z]+-[a-z0-9]+-tiny-[0-9a-f]{8}", fullmatch=True))
def test_every_class_names_a_next_command(kind: FailureClass, run: str) -> None:
    step = NEXT_STEP[kind].format(run=run)
    assert "{" not in step
    assert "tenfold" in step


def test_the_record_of_an_exception_says_what_a_user_needs() -> None:
    own = failure_from_exception(
        DataError("variable 'u' is missing", where="data", next_step="check data.path"),
        rank=1, step=4, host="h", run="r", trace="T",
    )  # fmt: skip
    assert (own.kind, own.rank, own.step, own.host, own.traceback) == ("bad-input", 1, 4, "h", "T")
    assert own.next_step == "check data.path"  # the error knows better than its class
    assert own.reason == "variable 'u' is missing\n  where: data\n  next:  check data.path"
    other = failure_from_exception(ZeroDivisionError(), rank=0, step=None, host="", run="r-1", trace="")
    assert other.reason == "ZeroDivisionError: ZeroDivisionError"
    assert other.next_step == "tenfold logs r-1, then: tenfold retry r-1"


@pytest.mark.parametrize(("error", "status"), [(ConfigError, 2), (DataError, 2), (RunError, 1), (ResultError, 1)])
def test_exit_statuses_of_the_error_tree(error: type[TenfoldError], status: int) -> None:
    assert error("x").exit_code == status
    assert str(error("what")) == "what"


def test_near_matches_offer_the_nearest_else_everything() -> None:
    assert near_matches("fno2x", ["unet", "fno2d"]) == "; did you mean 'fno2d'?"
    assert near_matches("zzz", ["b", "a"]) == "; known: a, b"
    assert near_matches("zzz", []) == ""
