"""Rows: one plain dictionary per run, read from the run folders. What ``tenfold table --json`` prints and all analysis takes.

This module is on the path of fast commands: it imports neither numpy nor xarray, and reads nothing but ``record.json`` of a
run that has one. A run that is damaged, pending or still going is a row like any other; reading a table never fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.errors import ConfigError, ResultError, near_matches
from results.merge import build_record
from results.record import Status, problems
from results.runfolder import RunFolder, run_folders
from results.standing import Word, Words
from results.store import read_json_or

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = dict[str, Any]

#: Status of a run whose record cannot be read or breaks the schema; the record itself never says so.
DAMAGED = "damaged"

#: Status of a point that its study lists and does not run: it was planned to take too long.
PLANNED = "planned"

#: What says which experiment a row is.
IDENTITY = ("system", "variant", "size", "scale", "seed", "repeat", "engine", "ranks", "site", "data")

_REPAIR = "tenfold doctor --runs --repair"


def collect_rows(
    runs_root: Path,
    names: Sequence[str] | None = None,
    index: Mapping[str, Any] | None = None,
    words: Words | None = None,
) -> list[Row]:
    """Read rows.

    Args:
        runs_root: folder of run folders.
        names: the runs wanted, in this order; a run that has no folder yet is a pending row.
        index: a study's index (``study.json``): its runs in its order, with ``stage`` and ``arm`` added. A run that two
            stages share is a row of each.
        words: what a scheduler says of runs that are not over; without it a run that was submitted and is silent is ``unknown``.

    Returns:
        Rows with ``run, system, variant, size, scale, seed, repeat, engine, ranks, status, site, data, attempts`` (count)
        ``, shared_with, timing_valid, failure`` (null, or ``class, rank, reason, next_step``) and ``metrics`` (name ->
        number or null).
    """
    if index is not None:
        wanted = [entry for entry in index["runs"] if names is None or entry["run"] in set(names)]
        known: dict[str, Row] = {}
        rows = []
        for entry in wanted:
            name = entry["run"]
            if name not in known:
                known[name] = read_row(RunFolder(runs_root / name), (words or {}).get(name))
            row = {**known[name], "stage": entry.get("stage", ""), "arm": entry.get("arm", "")}
            if row["size"] is None:  # it has no folder yet, but the study says what it is
                row.update(_said(entry.get("overrides", ())))
            if row["status"] == Status.PENDING and entry.get("left_out"):
                row.update(status=PLANNED, detail=entry["left_out"])
            rows.append(row)
        return rows
    folders: Iterable[RunFolder] = run_folders(runs_root) if names is None else [RunFolder(runs_root / name) for name in names]
    return [read_row(folder, (words or {}).get(folder.name)) for folder in folders]


def _said(overrides: Sequence[str]) -> Row:
    """Identity of a run as the overrides of its study give it; the defaults of what they leave out are not known here."""
    said: Row = {key: value for key, _, value in (word.partition("=") for word in overrides) if key in IDENTITY}
    return {**said, **{key: int(said[key]) for key in ("seed", "repeat", "ranks") if key in said}}


def read_row(folder: RunFolder, word: Word | None = None) -> Row:
    """The row of one run folder; whatever state it is in."""
    row = _row_from_files(folder)
    if word is not None and row["status"] not in (Status.COMPLETED, DAMAGED):
        # It is queued or running again, whatever became of its last attempt; or nobody can say.
        row.update(status=str(word.standing), failure=None, detail=word.detail, attempts=len(folder.attempts()))
    return row


def _row_from_files(folder: RunFolder) -> Row:
    try:
        record = folder.read_record()
        wrong = problems(record) if record is not None else []
    except ResultError as error:
        record, wrong = None, [error.what]
    if wrong:
        failure: dict[str, Any] | None = {
            "class": "bad-input",
            "rank": None,
            "reason": f"record.json: {wrong[0]}",
            "next_step": _REPAIR,
        }
        return {**_unfinished(folder, DAMAGED), "failure": failure}
    if record is not None and record["status"] != Status.COMPLETED and (folder.is_completed() or not folder.is_running()):
        record = _rebuilt(folder) or record  # older than the attempts' files, or of a run that died
    if record is None:
        if folder.is_running():
            return _unfinished(folder, Status.RUNNING)
        record = _rebuilt(folder)
        if record is None:
            return _unfinished(folder, Status.PENDING)
    failure = record.get("failure")
    if failure:
        failure = {key: failure.get(key) for key in ("class", "rank", "reason", "next_step")}
    row: Row = {"run": folder.name}
    row.update({key: record[key] for key in IDENTITY})
    row["status"] = record["status"]
    row["attempts"] = len(record["attempts"])
    row["shared_with"] = record.get("shared_with", 0)
    row["timing_valid"] = record.get("timing_valid", True)
    row["protocol"], row["recipe"] = record.get("protocol", ""), record.get("recipe", "")
    row["failure"] = failure
    row["metrics"] = {name: metric["value"] for name, metric in record["metrics"].items()}
    if record["status"] != Status.COMPLETED and folder.is_running():  # it is being tried again
        row.update(status=str(Status.RUNNING), failure=None)
    return row


def _rebuilt(folder: RunFolder) -> dict[str, Any] | None:
    """The record of a run that ended before anyone could write it down; None where it did not end."""
    if not folder.attempts():
        return None
    try:
        record = build_record(folder).as_dict()
    except (ResultError, KeyError, TypeError, ValueError):  # half-written files of a machine that went down
        return None
    return None if problems(record) or record["status"] not in {Status.COMPLETED, Status.FAILED} else record


def _unfinished(folder: RunFolder, status: str) -> Row:
    """A row without a record: identity from the frozen configuration, as far as it can be read."""
    config = _read_config(folder.config_file)
    row: Row = {"run": folder.name}
    for key in IDENTITY:
        value = config.get(key)
        row[key] = value.get("name") if isinstance(value, dict) else value  # a configuration group carries its name
    if row["system"] is None:  # nothing but the folder's name: <system>-<variant>-<scale>-<hash8>
        parts = folder.name.split("-")
        row["system"] = parts[0]
        if len(parts) >= 4:
            row["variant"], row["scale"] = "-".join(parts[1:-2]), parts[-2]
    if row["size"] is not None:
        row["size"] = str(row["size"])
    frozen = read_json_or(folder.path / "run.json", {})  # in the configuration `data` is a section, here a label
    row["data"] = frozen.get("data") if isinstance(frozen, dict) else None
    row.update(status=str(status), attempts=len(folder.attempts()), shared_with=0, timing_valid=True, failure=None, metrics={})
    row.update(protocol="", recipe="")
    return row


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        plain = yaml.load(path.read_text(), Loader=loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return plain if isinstance(plain, dict) else {}


def load_samples(row: Mapping[str, Any], runs_root: Path) -> dict[str, NDArray[np.float64]]:
    """Values per test sample that the run's evaluation left, by name; empty where it left none.

    Raises:
        ResultError: the file is there, but damaged.
    """
    import zipfile

    import numpy as np

    path = runs_root / row["run"] / "samples.npz"
    if not path.exists():
        return {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ResultError(f"samples.npz is damaged: {error}", where=str(path), next_step=f"tenfold retry {row['run']}") from error


#: Words of a query: the identity, where a run stands, and where it stands in a study.
QUERY_KEYS = ("run", *IDENTITY, "status", "stage", "arm", "failure", "attempts", "shared_with")


def select(rows: Iterable[Row], query: Mapping[str, str]) -> list[Row]:
    """Rows that match every word of a query such as ``{"variant": "fno2d,unet", "size": "5k,20k", "status": "failed"}``.

    A value is a comma-separated list of alternatives, each may hold ``*`` and ``?``; ``failure`` means its class.

    Raises:
        ConfigError: a key that rows do not have.
    """
    for key in query:
        if key not in QUERY_KEYS:
            raise ConfigError(f"rows have no '{key}'{near_matches(key, QUERY_KEYS)}", where=key, next_step="tenfold table --help")
    wanted = {key: [word.strip() for word in value.split(",")] for key, value in query.items()}

    def matches(row: Row) -> bool:
        for key, words in wanted.items():
            value = row.get(key)
            if key == "failure":
                value = value["class"] if value else None
            text = "" if value is None else str(value)
            if not any(fnmatchcase(text, word) for word in words):
                return False
        return True

    return [row for row in rows if matches(row)]


def value(row: Mapping[str, Any], metric: str) -> float | None:
    """A row's number for a metric, None where it is missing or unknown."""
    found = row["metrics"].get(metric)
    return None if found is None else float(found)
