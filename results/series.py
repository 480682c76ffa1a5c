"""Per-step measurements: written line by line while a rank runs, consolidated into ``series.zarr`` when it ends.

The lines are the crash log: whatever ends a rank, they hold the steps it finished. In the zarr store every rank owns
whole chunks (chunk length 1 along ``rank``), so ranks never write the same chunk.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from results.runfolder import Attempt, RunFolder

#: Per-step quantities and their units.
STEP_FIELDS = {
    "loss": "1",
    "step_s": "s",
    "data_wait_s": "s",
    "communicate_s": "s",
    "memory_gib": "GiB",
    "lr": "1",
    "grad_norm": "1",
}


class StepLog:
    """Appends one JSON line a step; flushed at least every ``flush_s`` seconds, so that a killed rank loses little."""

    def __init__(self, path: Path, *, flush_s: float = 0.1) -> None:
        self._stream: IO[str] = path.open("a", buffering=1 << 16)
        self._flush_s = flush_s
        self._flushed = time.monotonic()

    def append(self, step: int, **values: float) -> None:
        """Add one step. Non-finite values are written as null, so that any JSON reader takes the file."""
        plain: dict[str, Any] = {"step": step}
        plain.update({name: value if np.isfinite(value) else None for name, value in values.items()})
        self._stream.write(json.dumps(plain) + "\n")
        now = time.monotonic()
        if now - self._flushed > self._flush_s:
            self._stream.flush()
            self._flushed = now

    def flush(self) -> None:
        """Hand everything to the file system; called before a checkpoint, so that no step before one is ever lost."""
        self._stream.flush()

    def close(self) -> None:
        """Flush and close."""
        self._stream.close()


def read_steps(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read one rank's lines; a torn last line is dropped, nulls become NaN. ``step`` is among the keys."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    names = ["step", *STEP_FIELDS]
    return {name: np.array([_number(row.get(name)) for row in rows], dtype=np.float64) for name in names}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def read_run_steps(folder: RunFolder, rank: int | None = None) -> dict[str, NDArray[np.float64]]:
    """Steps of a run over all attempts; where two attempts hold a step, the later one counts.

    Args:
        rank: one rank's own view; None: the run's, with the loss averaged over ranks (equal shares of the global batch) and the
            slowest rank's times.
    """
    attempts = folder.attempts()
    ranks = sorted({int(path.stem) for attempt in attempts for path in (attempt.path / "steps").glob("*.jsonl")})
    if rank is not None or len(ranks) < 2:
        return _rank_steps(attempts, rank or 0)
    views = [_rank_steps(attempts, one) for one in ranks]
    count = min(len(view["step"]) for view in views)
    merged = {name: np.stack([view[name][:count] for view in views]) for name in ["step", *STEP_FIELDS]}
    return {name: rows.mean(axis=0) if name == "loss" else rows.max(axis=0) for name, rows in merged.items()}


def _rank_steps(attempts: list[Attempt], rank: int) -> dict[str, NDArray[np.float64]]:
    merged: dict[int, dict[str, float]] = {}
    for attempt in attempts:
        steps = read_steps(attempt.steps_file(rank))
        if len(steps["step"]):
            first = int(steps["step"][0])
            merged = {step: row for step, row in merged.items() if step < first}
        for index, step in enumerate(steps["step"]):
            merged[int(step)] = {name: float(column[index]) for name, column in steps.items()}
    order = sorted(merged)
    return {name: np.array([merged[step][name] for step in order]) for name in ["step", *STEP_FIELDS]}


def create_series(folder: RunFolder, attempt: Attempt, *, ranks: int, first_step: int, steps: int) -> None:
    """Rank 0 lays out the store: group ``attempt-N``, arrays ``(rank, step)``, one chunk a rank."""
    import zarr

    root = zarr.open_group(str(folder.series), mode="a", attributes={"title": "per-step measurements", "run": folder.name})
    group = root.create_group(attempt.path.name, overwrite=True)
    for name, unit in STEP_FIELDS.items():
        group.create_array(
            name,
            shape=(ranks, steps),
            chunks=(1, max(steps, 1)),
            dtype="float64",
            fill_value=float("nan"),
            dimension_names=("rank", "step"),
            attributes={"units": unit},
        )
    coordinate = group.create_array("step", shape=(steps,), chunks=(max(steps, 1),), dtype="int64", dimension_names=("step",))
    coordinate[:] = np.arange(first_step, first_step + steps)


def write_series(folder: RunFolder, attempt: Attempt, rank: int) -> None:
    """One rank writes its own row from its lines; call after :func:`create_series` and a barrier."""
    import zarr

    group = zarr.open_group(str(folder.series), mode="r+")[attempt.path.name]
    steps = read_steps(attempt.steps_file(rank))
    for name in STEP_FIELDS:
        array = group[name]  # type: ignore[index]
        row = np.full(array.shape[1], np.nan)  # type: ignore[union-attr]
        count = min(len(row), len(steps[name]))
        row[:count] = steps[name][:count]
        array[rank, :] = row  # type: ignore[index]
