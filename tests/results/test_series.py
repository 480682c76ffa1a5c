"""Per-step measurements: lines that survive a crash, attempts that overlap, and a zarr store whose chunks belong to one rank."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.runfolder import Attempt, RunFolder
from results.series import STEP_FIELDS, StepLog, create_series, read_run_steps, read_steps, write_series

ROOT = Path(__file__).parent.parent.parent
WRITERS = 8


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def log(attempt: Attempt, rank: int, first: int, losses: list[float], **values: float) -> None:
    """Steps from ``first`` on with these losses."""
    steps = StepLog(attempt.steps_file(rank))
    for index, loss in enumerate(losses):
        steps.append(first + index, loss=loss, **values)
    steps.close()


@given(st.lists(st.tuples(st.floats(), st.floats(0, 10)), max_size=6))
def test_what_is_logged_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float]]) -> None:
    path = tmp_path_factory.mktemp("log") / "0.jsonl"
    steps = StepLog(path)
    for step, (loss, seconds) in enumerate(rows):
        steps.append(step, loss=loss, step_s=seconds)
    steps.close()
    found = read_steps(path)
    assert list(found) == ["step", *STEP_FIELDS]
    assert found["step"].tolist() == list(range(len(rows)))
    assert found["step_s"].tolist() == [seconds for _, seconds in rows]
    expected = [loss if math.isfinite(loss) else math.nan for loss, _ in rows]
    np.testing.assert_array_equal(found["loss"], expected)
    assert np.isnan(found["memory_gib"]).all()  # never logged
    assert all(json.loads(line)["step"] == step for step, line in enumerate(path.read_text().splitlines()))


@given(cut=st.integers(0, 200))
@settings(deadline=None)
def test_a_torn_file_holds_every_line_before_the_tear(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "0.jsonl"
    steps = StepLog(path)
    for step in range(5):
        steps.append(step, loss=1 / (step + 1))
    steps.close()
    text = path.read_text()
    path.write_text(text[:cut])
    whole = text[:cut].count("\n")
    found = read_steps(path)["step"].tolist()
    assert found[:whole] == list(range(whole))
    assert len(found) - whole in (0, 1)  # a line that lacks its end of line alone is whole


def test_a_killed_process_leaves_what_it_flushed(folder: RunFolder) -> None:
    attempt = folder.claim_attempt()
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom results.series import StepLog\n"
        "log = StepLog(Path(sys.argv[1]), flush_s=1e9)\n"
        "for step in range(10):\n    log.append(step, loss=1.0)\n    if step == 6:\n        log.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(attempt.steps_file(0))], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert read_steps(attempt.steps_file(0))["step"].tolist() == list(range(7))


def test_a_missing_file_is_no_steps(tmp_path: Path) -> None:
    assert {len(column) for column in read_steps(tmp_path / "0.jsonl").values()} == {0}


def test_where_attempts_overlap_the_later_counts(folder: RunFolder) -> None:
    """Cut off after step 5, resumed from a checkpoint after step 3: steps 4 and 5 happened twice."""
    log(folder.claim_attempt(), 0, 0, [10, 11, 12, 13, 14, 15])
    log(folder.claim_attempt(), 0, 4, [24, 25, 26])
    folder.claim_attempt()  # one that took no step
    found = read_run_steps(folder)
    assert found["step"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found["loss"].tolist() == [10, 11, 12, 13, 24, 25, 26]


def test_steps_of_an_abandoned_future_are_dropped(folder: RunFolder) -> None:
    """The second attempt goes back to step 2 and stops at 3: what the first did at 4 and 5 is no longer the run's."""
    log(folder.claim_attempt(), 0, 0, [10, 11, 12, 13, 14, 15])
    log(folder.claim_attempt(), 0, 2, [22, 23])
    assert read_run_steps(folder)["loss"].tolist() == [10, 11, 22, 23]


def test_over_ranks_the_loss_is_the_mean_and_times_are_the_slowest(folder: RunFolder) -> None:
    attempt = folder.claim_attempt()
    log(attempt, 0, 0, [1.0, 2.0, 3.0], step_s=0.1, data_wait_s=0.5)
    log(attempt, 1, 0, [3.0, 4.0], step_s=0.3, data_wait_s=0.2)  # killed a step earlier
    run = read_run_steps(folder)
    assert run["loss"].tolist() == [2.0, 3.0]
    assert run["step_s"].tolist() == [0.3, 0.3]
    assert run["data_wait_s"].tolist() == [0.5, 0.5]
    assert read_run_steps(folder, rank=1)["loss"].tolist() == [3.0, 4.0]
    assert read_run_steps(folder, rank=0)["loss"].tolist() == [1.0, 2.0, 3.0]


def test_the_layout_gives_every_rank_its_own_chunks(folder: RunFolder) -> None:
    import xarray as xr
    import zarr

    attempt = folder.claim_attempt()
    create_series(folder, attempt, ranks=3, first_step=5, steps=7)
    for rank in range(3):
        log(attempt, rank, 5, [rank + step / 10 for step in range(7)])
    group = zarr.open_group(str(folder.series), mode="r")["attempt-0"]
    for name in STEP_FIELDS:
        assert group[name].chunks == (1, 7)
        assert group[name].shape == (3, 7)
    before = files(folder.series)
    write_series(folder, attempt, 1)
    written = files(folder.series) - before
    assert written  # chunk keys are <array>/c/<rank>/<step chunk>
    assert {Path(name).parent.name for name in written} == {"1"}
    with xr.open_zarr(str(folder.series), group="attempt-0", consolidated=False) as data:
        assert data["loss"].dims == ("rank", "step")
        assert data["step"].values.tolist() == list(range(5, 12))
        assert {name: data[name].attrs["units"] for name in STEP_FIELDS} == STEP_FIELDS
        np.testing.assert_array_equal(data["loss"][1], [1 + step / 10 for step in range(7)])
        assert np.isnan(data["loss"][0]).all()  # not written yet


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_second_attempt_leaves_the_first_alone_and_a_short_one_is_filled_up(folder: RunFolder) -> None:
    import zarr

    for first, losses, steps in ((0, [1.0, 2.0], 4), (2, [5.0, 6.0], 2)):
        attempt = folder.claim_attempt()
        log(attempt, 0, first, losses)
        create_series(folder, attempt, ranks=1, first_step=first, steps=steps)
        write_series(folder, attempt, 0)
    root = zarr.open_group(str(folder.series), mode="r")
    np.testing.assert_array_equal(root["attempt-0/loss"][0], [1.0, 2.0, np.nan, np.nan])
    np.testing.assert_array_equal(root["attempt-1/loss"][0], [5.0, 6.0])


@pytest.mark.distributed
def test_eight_processes_that_write_at_once_lose_nothing(folder: RunFolder) -> None:
    import zarr

    attempt = folder.claim_attempt()
    steps = 50
    for rank in range(WRITERS):
        log(attempt, rank, 0, [1000 * rank + step for step in range(steps)])
    create_series(folder, attempt, ranks=WRITERS, first_step=0, steps=steps)
    code = (
        "import sys\nfrom pathlib import Path\nimport zarr\nfrom results.runfolder import RunFolder\n"
        "from results.series import write_series\nfolder = RunFolder(Path(sys.argv[1]))\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nwrite_series(folder, folder.last_attempt(), int(sys.argv[2]))"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder.path), str(rank)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(WRITERS)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    written = zarr.open_group(str(folder.series), mode="r")["attempt-0/loss"][:]
    np.testing.assert_array_equal(written, 1000 * np.arange(WRITERS)[:, None] + np.arange(steps))
