"""Is a run folder what it should be? A checker over files, separate from the code that wrote them (``tenfold doctor --runs``)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from results.errors import ResultError
from results.merge import build_record, read_config
from results.record import Status, problems
from results.runfolder import Attempt, RunFolder, run_folders
from results.store import read_json

_HASH = 8  # digits of the identity in a run's name
_CONFIG_KEYS = ("system", "variant", "size", "scale", "seed", "repeat", "engine", "ranks", "site")
_ROUNDING = 1.02  # phases are timed inside the total, each with its own clock reads


def check_runs(root: Path) -> dict[str, list[str]]:
    """Problems of every run under ``root`` by name; a sound run has an empty list.

    A folder that looks like a run but lost its configuration is reported as well.
    """
    found = {folder.name: check_run(folder) for folder in run_folders(root)}
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if path.name not in found and ((path / "record.json").exists() or (path / "attempt-0").is_dir()):
                found[path.name] = ["config.yaml is missing"]
    return dict(sorted(found.items()))


def check_run(folder: RunFolder) -> list[str]:
    """Everything that is wrong with one run folder, in words; empty when it is sound.

    A run that is going on is held to less: its files may be ahead of its record.
    """
    running = folder.is_running()
    found = _torn(folder, running)
    try:
        config = read_config(folder)
        found += [f"config.yaml lacks '{key}'" for key in _CONFIG_KEYS if key not in config]
    except ResultError as error:
        found.append(error.what)
    for attempt in folder.attempts():
        found += [f"{attempt.path.name}: {text}" for text in _attempt(attempt)]
    found += _series(folder)
    try:
        record = folder.read_record()
    except ResultError as error:
        return [*found, error.what]
    if record is None:
        if not running and any(_completed(attempt) for attempt in folder.attempts()):
            found.append("an attempt completed, but record.json is missing")
        return found
    wrong = problems(record)
    if wrong:
        return [*found, *(f"record.json: {text}" for text in wrong)]
    found += [f"record.json: {text}" for text in _record(folder, record)]
    return found if running else [*found, *_against_attempts(folder, record)]


def _torn(folder: RunFolder, running: bool) -> list[str]:
    """JSON files that do not parse, and temporary files that a killed writer left."""
    found = []
    for path in sorted(
        [*folder.path.glob("*.json"), *folder.path.glob("attempt-*/*.json"), *folder.path.glob("attempt-*/ranks/*.json")]
    ):
        if path.name != "record.json":
            try:
                read_json(path)
            except ResultError:
                found.append(f"{path.relative_to(folder.path)} is damaged")
    if not running:
        found += [
            f"left over from a killed writer: {path.relative_to(folder.path)}" for path in sorted(folder.path.rglob(".*.tmp"))
        ]
    return found


def _attempt(attempt: Attempt) -> list[str]:
    """Order of the steps, negative times, torn lines of an attempt that ended well, peaks and phases of its ranks."""
    found = []
    completed = _completed(attempt)
    for path in sorted((attempt.path / "steps").glob("*.jsonl")):
        lines = path.read_text(errors="replace").splitlines()
        previous = -1
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                step = int(row["step"])
            except (ValueError, KeyError, TypeError):
                if completed or number < len(lines):  # a killed rank may tear its last line; read_steps drops it
                    found.append(f"steps/{path.name}:{number} is damaged")
                break
            if step <= previous:
                found.append(f"steps/{path.name}:{number}: step {step} comes after step {previous}")
                break
            previous = step
            negative = [name for name, value in row.items() if name.endswith("_s") and value is not None and value < 0]
            if negative:
                found.append(f"steps/{path.name}:{number}: {negative[0]} is negative")
                break
    for path in attempt.rank_files():
        plain = attempt.read(f"ranks/{path.stem}", None)
        if isinstance(plain, dict):
            found += [f"ranks/{path.name}: {text}" for text in _phases(plain.get("phases_s"), plain.get("total_s"))]
    return found


def _completed(attempt: Attempt) -> bool:
    return (attempt.path / "outcome.json").exists()


def _phases(phases: Any, total: Any) -> list[str]:
    """Phases are parts of the total: none is negative and together they do not exceed it."""
    if not isinstance(phases, dict):
        return []
    found = [f"phase '{name}' is negative" for name, seconds in phases.items() if seconds < 0]
    used = math.fsum(phases.values())
    if isinstance(total, int | float) and used > total * _ROUNDING:
        found.append(f"phases take {used:.3f} s of a total of {total:.3f} s")
    return found


def _record(folder: RunFolder, record: dict[str, Any]) -> list[str]:
    """What a record says of itself beyond the schema."""
    found = []
    if record["run"] != folder.name:
        found.append(f"belongs to run '{record['run']}'")
    name_hash = folder.name.rsplit("-", 1)[-1]
    if not record["identity"]:
        found.append("carries no identity")
    elif not record["identity"].startswith(name_hash[:_HASH]):
        found.append(f"identity {record['identity'][:_HASH]} is not that of the folder's name, {name_hash}")
    values = {name: metric["value"] for name, metric in record["metrics"].items()}
    for name, value in values.items():
        if value is not None and value < 0 and name.endswith(("_s", "_gib", "_j")):
            found.append(f"metric '{name}' is negative")
    spread = [values.get(name) for name in ("step_s_p5", "step_s", "step_s_p95")]
    known = [value for value in spread if value is not None]
    if known != sorted(known):
        found.append(f"step times are out of order: p5, median, p95 are {', '.join(f'{value:.4g}' for value in known)} s")
    return found


def _against_attempts(folder: RunFolder, record: dict[str, Any]) -> list[str]:
    """The record is a view of the attempts' files: made again, it must say the same."""
    try:
        fresh = build_record(folder).as_dict()
    except (ResultError, KeyError, TypeError, ValueError):
        return []  # the damaged file has been named already
    found = []
    if record["status"] != fresh["status"]:
        found.append(f"record.json says {record['status']}, the attempts say {fresh['status']}")
    elif record["status"] == Status.FAILED and record["failure"]["class"] != (fresh["failure"] or {}).get("class"):
        found.append(f"record.json says {record['failure']['class']}, failure.json says {(fresh['failure'] or {}).get('class')}")
    if len(record["attempts"]) != len(fresh["attempts"]):
        found.append(f"record.json has {len(record['attempts'])} attempts, the folder {len(fresh['attempts'])}")
    for key in ("system", "variant", "size", "scale", "seed", "repeat", "engine", "ranks", "site"):
        if record[key] != fresh[key]:
            found.append(f"record.json says {key} {record[key]}, config.yaml says {fresh[key]}")
    return found


def _series(folder: RunFolder) -> list[str]:
    """Shape of the consolidated steps: one row per rank of the attempt, all quantities alike."""
    stepped = [attempt for attempt in folder.attempts() if _completed(attempt) and attempt.steps_file(0).exists()]
    if not folder.series.exists():
        return ["series.zarr is missing"] if stepped else []
    import zarr

    try:
        root = zarr.open_group(str(folder.series), mode="r")
        groups = dict(root.groups())
    except Exception as error:  # zarr raises what its store, codec or metadata raise
        return [f"series.zarr cannot be opened: {error}"]
    found = []
    for attempt in folder.attempts():
        name = attempt.path.name
        ranks = attempt.read("attempt", {}).get("ranks")
        if name not in groups:
            found += [f"series.zarr lacks {name}, which completed"] if attempt in stepped else []
            continue
        shapes = {array: item.shape for array, item in groups[name].arrays() if array != "step"}
        if len(set(shapes.values())) > 1:
            found.append(f"series.zarr/{name}: arrays have different shapes")
        for array, shape in shapes.items():
            if len(shape) != 2 or (ranks and shape[0] != ranks):
                found.append(f"series.zarr/{name}/{array} has shape {shape} for {ranks} ranks")
                break
    return found
