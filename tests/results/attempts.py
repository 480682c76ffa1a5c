"""Run folders with several attempts, as the harness would leave them, written through the same functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from results.failures import Failure, FailureClass
from results.runfolder import Attempt, RunFolder
from results.store import write_json, write_text

GIB = 2**30


def run_folder(root: Path, *, plan: dict[str, Any] | None = None, **changes: Any) -> RunFolder:
    """A frozen run without attempts."""
    folder = RunFolder(root / "dlwp-fno2d-tiny-0123abcd")
    folder.path.mkdir(parents=True)
    config = {
        "system": "dlwp", "variant": "fno2d", "size": "5k", "scale": "tiny", "seed": 0, "repeat": 0, "ranks": 1,
        "engine": {"name": "torch"}, "site": {"name": "local"}, **changes,
    }  # fmt: skip
    write_text(folder.config_file, yaml.safe_dump(config))
    write_json(folder.path / "run.json", {"identity": "0123abcd" * 8, "data": "generated", "system_version": 1})
    if plan is not None:
        write_json(folder.plan_file, plan)
    return folder


def add_attempt(
    folder: RunFolder,
    *,
    ends: str = "",
    ranks: list[dict[str, Any]] | None = None,
    metrics: dict[str, float | None] | None = None,
    shared_with: int = 0,
    **layout: Any,
) -> Attempt:
    """One more attempt.

    Args:
        ends: ``completed``, a failure class, or nothing for one that was cut off without a word.
        ranks: what each rank measured (:func:`rank`).
        layout: overrides of what ``attempt.json`` says of engine and ranks.
    """
    attempt = folder.claim_attempt()
    attempt.write("attempt", {"attempt": attempt.index, "engine": "torch", "ranks": 1, **layout})
    attempt.write(
        "launch", {"exit_codes": [0], "elapsed_s": 9.0, "shared_with": shared_with, "ended": "2026-01-05T10:00:00+00:00"}
    )
    for number, measured in enumerate(ranks or []):
        write_json(attempt.rank_file(number), {"rank": number, **measured})
    if ends == "completed":
        plain = {name: {"value": value, "unit": "1", "direction": "min"} for name, value in (metrics or {"rmse": 0.5}).items()}
        attempt.write("outcome", {"status": "completed", "ended": "2026-01-05T10:00:01+00:00", "metrics": plain})
    elif ends:
        attempt.fail(Failure(kind=FailureClass(ends), reason="on purpose", rank=0, next_step="tenfold retry"))
    return attempt


def rank(
    *,
    peak: float = 1.0,
    step_s: float | None = 0.5,
    params: int | None = 100,
    energy_j: float | None = None,
    device_peak: float | None = None,
    known: bool = True,
    **phases: float,
) -> dict[str, Any]:
    """What one rank writes of itself; ``step_s`` None: no step was timed."""
    timed = {} if step_s is None else {"step_s": step_s, "step_s_p5": 0.9 * step_s, "step_s_p95": 1.2 * step_s, "timed_steps": 4}
    memory = {"peak_gib": peak, "host_peak_gib": peak}
    if device_peak is not None:
        memory |= {"peak_gib": device_peak, "device_peak_gib": device_peak}
    names = ("compile", "load", "train", "communicate", "checkpoint", "evaluate", "data_wait")
    return {
        "params": params, "steps_s": timed, "memory": memory, "total_s": 10.0, "communicate_known": known,
        "phases_s": dict.fromkeys(names, 0.0) | {"train": 6.0} | phases, "energy_j": energy_j,
        "energy_reason": "" if energy_j is not None else "no readable energy counter (RAPL) on this machine",
    }  # fmt: skip
