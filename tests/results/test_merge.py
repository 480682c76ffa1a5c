"""The record of a run from the files of its attempts: which attempt counts for what, and why a number is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from results.errors import ResultError
from results.merge import build_record, write_record
from results.record import Record, problems
from results.series import StepLog
from results.store import read_json
from tests.results.attempts import GIB, add_attempt, rank, run_folder

PLAN: dict[str, Any] = {
    "bytes_per_rank": int(1.5 * GIB), "base_bytes": GIB // 2, "flops_per_step": 10**9, "peak_flops_per_rank": 4e9, "step_s": 0.25,
    "global_batch": 8,
}  # fmt: skip


def test_a_run_without_attempts_is_pending_and_has_no_numbers(tmp_path: Path) -> None:
    record = build_record(run_folder(tmp_path, plan=PLAN))
    assert (record.status, record.metrics, record.attempts, record.failure) == ("pending", {}, [], None)
    assert record.identity == "0123abcd" * 8
    assert record.plan == PLAN


def test_one_attempt_is_the_closed_forms(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, plan=PLAN)
    measured = rank(peak=2.0, step_s=0.5, energy_j=70.0, train=6.0, data_wait=2.0, load=1.0)
    add_attempt(folder, ends="completed", ranks=[measured], metrics={"rmse": 0.25})
    record = build_record(folder)
    expected = {
        "rmse": 0.25, "params": 100, "step_s": 0.5, "step_s_p5": 0.45, "step_s_p95": 0.6, "step_skew": 1.0,
        "samples_per_s": 16.0,  # global batch over median step
        "flops_per_step": 1e9, "mfu": 1e9 / (0.5 * 4e9), "plan_step_ratio": 0.5,
        "peak_gib": 2.0, "peak_gib_min": 2.0, "host_peak_gib": 2.0, "plan_peak_ratio": 0.75,
        "plan_above_base_ratio": (1.5 - 0.5) / (2.0 - 0.5),
        "train_s": 6.0, "data_wait_s": 2.0, "load_s": 1.0, "data_wait_share": 0.25, "communicate_share": 0.0, "total_s": 10.0,
        "energy_j": 70.0,
    }  # fmt: skip
    assert {name: record.value(name) for name in expected} == pytest.approx(expected)
    assert record.value("device_peak_gib") is None
    assert "device_peak_gib" not in record.metrics  # a rank on the host has no device
    assert problems(record.as_dict()) == []


def test_over_ranks_the_slowest_and_the_largest_count(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, plan=PLAN, ranks=2, engine={"name": "zero1"})
    ranks = [rank(peak=2.0, step_s=0.4, train=5.0, communicate=1.0), rank(peak=1.0, step_s=0.5, train=4.0, communicate=2.0)]
    add_attempt(folder, ends="completed", ranks=ranks, engine="zero1", ranks_total=2)
    record = build_record(folder)
    assert record.value("step_s") == 0.5
    assert record.value("step_skew") == pytest.approx(1.25)
    assert (record.value("peak_gib"), record.value("peak_gib_min")) == (2.0, 1.0)
    assert record.value("mfu") == pytest.approx(1e9 / (0.5 * 4e9 * 2))
    assert record.phases_s["communicate"] == 2.0
    assert record.value("communicate_share") == pytest.approx(2 / (4 + 2))  # the second rank's own, the larger one


def test_a_resumed_run_takes_results_from_the_last_attempt_and_peaks_from_all(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, plan=PLAN)
    add_attempt(folder, ends="oom-host", ranks=[rank(peak=3.0, step_s=0.7)])
    add_attempt(folder)  # killed: not a word
    add_attempt(folder, ends="completed", ranks=[rank(peak=2.0, step_s=0.5)], metrics={"rmse": 0.3})
    record = build_record(folder)
    assert record.status == "completed"
    assert record.failure is None
    assert [(row["status"], row["failure"]) for row in record.attempts] == [
        ("failed", "oom-host"), ("running", None), ("completed", None),
    ]  # fmt: skip
    assert record.value("rmse") == 0.3
    assert record.value("step_s") == 0.5
    assert (record.value("peak_gib"), record.value("host_peak_gib"), record.value("peak_gib_min")) == (3.0, 3.0, 2.0)
    assert record.value("plan_peak_ratio") == pytest.approx(0.5)  # held against the highest


def test_a_last_attempt_too_short_to_be_timed_leaves_the_times_of_an_earlier_one(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, plan=PLAN)
    add_attempt(folder, ends="preempted", ranks=[rank(step_s=0.7)])
    add_attempt(folder, ends="completed", ranks=[rank(step_s=None)])
    assert build_record(folder).value("step_s") == 0.7


def test_a_completed_run_of_which_no_step_was_timed_is_still_a_valid_record(tmp_path: Path) -> None:
    """Killed (so without a word) and resumed so late that the rest is warm-up."""
    folder = run_folder(tmp_path, plan=PLAN)
    add_attempt(folder)
    add_attempt(folder, ends="completed", ranks=[rank(step_s=None)])
    record = build_record(folder)
    assert problems(record.as_dict()) == []
    for name in ("step_s", "step_s_p5", "step_s_p95"):
        assert record.value(name) is None
        assert "timed" in record.metrics[name].reason
    assert "mfu" not in record.metrics


def test_the_times_of_a_killed_attempt_are_in_its_lines(tmp_path: Path) -> None:
    """Two warm-up steps of ten, then 1 .. 9 s: median 5, and by linear interpolation 1.4 and 8.6."""
    folder = run_folder(tmp_path, train={"timing_warmup_steps": 2})
    killed = add_attempt(folder)
    log = StepLog(killed.steps_file(0))
    for step, seconds in enumerate([10, 10, *range(1, 10)]):
        log.append(step, step_s=seconds)
    log.close()
    add_attempt(folder, ends="completed", ranks=[rank(step_s=None)])
    record = build_record(folder)
    found = [record.value(name) for name in ("step_s_p5", "step_s", "step_s_p95")]
    assert found == pytest.approx([1.4, 5.0, 8.6])


def test_more_than_the_peak_of_the_device_is_unknown_and_not_a_number(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, plan={**PLAN, "peak_flops_per_rank": 1e9})
    add_attempt(folder, ends="completed", ranks=[rank(step_s=0.5)])
    metric = build_record(folder).metrics["mfu"]
    assert metric.value is None
    assert "2.00 is impossible" in metric.reason


def test_who_may_be_averaged_and_who_was_trained_alike(tmp_path: Path) -> None:
    def of(number: int, **changes: Any) -> tuple[str, str]:
        record = build_record(run_folder(tmp_path / str(number), **changes))
        return record.protocol, record.recipe

    train = {"lr": 0.1, "micro_batch": 4, "checkpoint_every": 0}
    plain = of(0, train=train, model={"width": 4})
    assert of(1, train=train, model={"width": 4}, seed=5, variant="x") == plain
    assert of(2, train={**train, "micro_batch": 1, "checkpoint_every": 9}, model={"width": 4}) == plain
    assert of(3, train=train, model={"width": 5})[0] == plain[0]
    assert of(4, train=train, model={"width": 5})[1] != plain[1]
    assert of(5, train={**train, "lr": 0.2}, model={"width": 4})[0] != plain[0]


def test_a_system_without_parameters_of_its_own_completes(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    add_attempt(folder, ends="completed", ranks=[rank(params=None, step_s=None)])
    record = build_record(folder)
    assert problems(record.as_dict()) == []
    assert record.value("params") is None
    assert record.metrics["params"].reason


def test_the_last_failure_counts_and_an_old_one_does_not(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    add_attempt(folder, ends="timeout")
    record = build_record(folder)
    assert (record.status, record.failure["class"]) == ("failed", "timeout")  # type: ignore[index]
    lock = folder.lock()
    assert lock.acquire()  # somebody is running it
    add_attempt(folder)
    record = build_record(folder)
    assert (record.status, record.failure) == ("running", None)
    lock.release()
    record = build_record(folder)  # nobody holds it, and it did not say a word
    assert (record.status, record.failure["class"]) == ("failed", "node-fail")  # type: ignore[index]
    assert problems(record.as_dict()) == []


@pytest.mark.parametrize(
    ("plan", "shared", "measured", "name", "reason"),
    [
        ({}, 0, rank(), "mfu", "peak is not known"),
        (PLAN, 1, rank(), "mfu", "shared the machine"),
        (PLAN, 1, rank(energy_j=5.0), "energy_j", "shared the machine"),
        (PLAN, 0, rank(), "energy_j", "RAPL"),
        ({}, 0, rank(), "plan_peak_ratio", "not planned"),
        (PLAN, 0, rank(peak=0.5), "plan_above_base_ratio", "does not exceed the base"),
        (PLAN, 0, rank(known=False), "communicate_share", "NCCL"),
    ],
)
def test_an_unknown_number_says_why(
    plan: dict[str, Any], shared: int, measured: dict[str, Any], name: str, reason: str, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path, plan=plan)
    add_attempt(folder, ends="completed", ranks=[measured], shared_with=shared)
    record = build_record(folder)
    assert record.shared_with == shared
    assert record.value(name) is None
    assert reason in record.metrics[name].reason
    assert problems(record.as_dict()) == []


def test_a_metric_that_is_not_finite_is_unknown(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    add_attempt(folder, ends="completed", ranks=[rank()], metrics={"rmse": float("nan")})
    record = build_record(folder)
    assert record.value("rmse") is None
    assert record.metrics["rmse"].reason == "not finite"


def test_device_and_host_peaks_are_never_mixed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    add_attempt(folder, ends="crash", ranks=[rank(peak=9.0, device_peak=5.0)])
    add_attempt(folder, ends="completed", ranks=[rank(peak=8.0, device_peak=6.0)])
    record = build_record(folder)
    assert (record.value("peak_gib"), record.value("device_peak_gib"), record.value("host_peak_gib")) == (6.0, 6.0, 9.0)


def test_another_layout_on_the_way_makes_the_times_invalid(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    add_attempt(folder, ends="preempted", engine="zero1")
    add_attempt(folder, ends="completed", ranks=[rank()])
    assert not build_record(folder).timing_valid
    assert [row["engine"] for row in build_record(folder).attempts] == ["zero1", "torch"]


def test_times_count_only_where_it_is_known_who_else_was_there(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    attempt = add_attempt(folder, ends="completed", ranks=[rank()])
    assert build_record(folder).timing_valid
    (attempt.path / "launch.json").unlink()
    assert not build_record(folder).timing_valid


def test_the_stored_record_is_what_anyone_builds_again(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, plan=PLAN)
    add_attempt(folder, ends="crash", ranks=[rank(peak=3.0)])
    add_attempt(folder, ends="completed", ranks=[rank(energy_j=3.0)], shared_with=2)
    written = write_record(folder)
    text = folder.record_file.read_text()
    assert Record.from_dict(read_json(folder.record_file)) == written
    folder.record_file.unlink()
    write_record(folder)
    assert folder.record_file.read_text() == text


@pytest.mark.parametrize("text", [None, "a: [", "- just\n- a list\n"])
def test_a_damaged_configuration_is_an_error_that_names_the_run(text: str | None, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.config_file.unlink()
    if text is not None:
        folder.config_file.write_text(text)
    with pytest.raises(ResultError, match=r"config\.yaml") as caught:
        build_record(folder)
    assert caught.value.where == str(folder.path)


def test_a_rank_that_failed_before_it_held_anything_on_its_gpu_leaves_a_record(tmp_path: Path) -> None:
    """DeepSpeed that cannot be imported there: the record of the failure is what tells."""
    folder = run_folder(tmp_path, plan={"bytes_per_rank": 1 << 30, "base_bytes": 0})
    add_attempt(folder, ends="crash", ranks=[rank(peak=1.0, device_peak=0.0)])
    record = build_record(folder)
    assert (record.status, record.value("peak_gib"), record.value("plan_peak_ratio")) == ("failed", 0.0, None)
    assert record.metrics["plan_peak_ratio"].reason == "nothing was allocated"
