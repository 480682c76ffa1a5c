"""Projects a run folder into a W&B run. The worker never imports wandb: the folder is the truth and the W&B run a view of it.

One W&B run per experiment, with an id made of the run's identity, so duplicates cannot arise. A projection that was not uploaded
yet is replaced whole; one that was uploaded is continued by step. ``wandb.json`` in the run folder says which is the case.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from results import curves
from results.errors import ResultError
from results.merge import read_config, write_record
from results.pictures import find_panels, load_panels, render_png
from results.record import Record
from results.runfolder import RunFolder
from results.series import STEP_FIELDS, read_run_steps
from results.store import canonical_json, locked, read_json_or, sha256_text, write_json

#: W&B's name for a per-step quantity; the part before the slash makes a section of panels.
CURVES = {
    name: ("train/" if name in ("loss", "lr", "grad_norm") else "time/" if name.endswith("_s") else "memory/") + name
    for name in STEP_FIELDS
}


def wandb_id(identity: str) -> str:
    """Stable id: letters and digits only."""
    return "t" + identity[:15]


def fingerprint(folder: RunFolder, record: Record) -> str:
    """Hash of everything a projection shows: the record without its W&B state, and how far the steps have come."""
    plain = record.as_dict()
    plain.pop("wandb")
    steps = [path.stat().st_size for attempt in folder.attempts() for path in sorted((attempt.path / "steps").glob("*.jsonl"))]
    return sha256_text(canonical_json({"record": plain, "steps": steps}))


def is_current(folder: RunFolder) -> bool:
    """Whether the projection shows what the folder holds now."""
    from results.merge import build_record

    state = read_json_or(folder.path / "wandb.json", {})
    return bool(state) and state.get("fingerprint") == fingerprint(folder, build_record(folder))


def offline_parts(folder: RunFolder) -> list[Path]:
    """Local W&B runs in the folder, oldest first."""
    return sorted((folder.path / "wandb").glob("offline-run-*"))


def project_run(
    folder: RunFolder, *, group: str | None, mode: str, project: str = "tenfold", entity: str | None = None
) -> Path | None:
    """Write the run as a W&B run (or the part of it that was not uploaded yet).

    Args:
        group: the study; the group of an earlier projection stays where None is given.
        mode: ``offline`` or ``online``.

    Returns:
        The local W&B folder (None when online).

    Raises:
        ResultError: the run folder is damaged or W&B refuses.
    """
    with locked(folder.path / ".wandb.lock", what=f"the projection of {folder.name}"):
        return _project(folder, group=group, mode=mode, project=project, entity=entity)


def _project(folder: RunFolder, *, group: str | None, mode: str, project: str, entity: str | None) -> Path | None:
    from results.merge import build_record

    record = build_record(folder)
    state = read_json_or(folder.path / "wandb.json", {})
    group = group or state.get("group")
    uploaded_to = int(state.get("uploaded_step", -1))  # also while a continuation is still waiting for its own upload
    kept = set(state.get("uploaded_parts", []))
    if state.get("uploaded"):
        kept |= {part.name for part in offline_parts(folder)}
    for part in offline_parts(folder):
        if part.name not in kept:
            shutil.rmtree(part, ignore_errors=True)
    config = _config(folder, record)
    steps = read_run_steps(folder)
    with _quiet(folder.path):
        last = _write(
            folder,
            record,
            config,
            steps,
            group=group,
            mode="online" if mode == "online" else "offline",
            project=project,
            entity=entity,
            after=uploaded_to,
        )
    parts = offline_parts(folder)
    path = parts[-1] if parts and mode == "offline" else None
    write_json(
        folder.path / "wandb.json",
        {
            "id": wandb_id(record.identity),
            "project": project,
            "entity": entity,
            "group": group,
            "mode": mode,
            "path": None if path is None else str(path.relative_to(folder.path)),
            "last_step": last,
            "uploaded": mode == "online",
            "uploaded_step": last if mode == "online" else uploaded_to,
            "uploaded_parts": sorted(kept),
            "fingerprint": fingerprint(folder, record),
        },
    )
    if folder.record_file.exists():
        write_record(folder)
    return path


def _config(folder: RunFolder, record: Record) -> dict[str, Any]:
    plain = read_config(folder)
    return {
        **{
            name: plain[name]
            for name in (
                "system",
                "variant",
                "size",
                "scale",
                "seed",
                "repeat",
                "ranks",
                "precision",
                "engine",
                "train",
                "data",
                "model",
            )
        },
        "site": record.site,
        "run": record.run,
        "identity": record.identity,
        "data_label": record.data,
        "units": {name: metric.unit for name, metric in record.metrics.items()},
        "plan": record.plan,
        "commit": record.provenance.get("commit", ""),
    }


def _write(
    folder: RunFolder,
    record: Record,
    config: Mapping[str, Any],
    steps: Mapping[str, Any],
    *,
    group: str | None,
    mode: Literal["offline", "online"],
    project: str,
    entity: str | None,
    after: int,
) -> int:
    """Log everything; the last step written."""
    import wandb

    settings = wandb.Settings(
        mode=mode, silent=True, console="off", save_code=False, disable_git=True, disable_code=True,
        x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
    )  # fmt: skip
    try:
        run = wandb.init(
            dir=str(folder.path),
            id=wandb_id(record.identity),
            project=project,
            entity=entity,
            group=group,
            job_type="train" if len(steps["step"]) else "profile",
            name=f"{record.variant} {record.size} seed {record.seed} {record.engine}",
            tags=[
                record.system,
                record.variant,
                record.size,
                record.scale,
                record.engine,
                f"site:{record.site}",
                str(record.status),
            ],
            config=dict(config),
            resume="allow" if mode == "online" else None,
            settings=settings,
        )
    except (wandb.errors.Error, OSError) as error:
        raise ResultError(f"W&B refuses the run: {error}", where=str(folder.path), next_step="tenfold doctor") from error
    last = after
    try:
        for name, metric in record.metrics.items():
            if metric.direction in ("min", "max"):
                run.define_metric(name, summary=metric.direction)
        for index, step in enumerate(steps["step"]):
            if int(step) <= after:
                continue
            values = {CURVES[name]: float(steps[name][index]) for name in STEP_FIELDS}
            run.log({name: value for name, value in values.items() if value == value}, step=int(step))
            last = int(step)
        for path in find_panels(folder.artifacts):
            from PIL import Image

            picture = Image.open(io.BytesIO(render_png(path)))
            run.log({f"pictures/{path.stem}": wandb.Image(picture, caption=load_panels(path).title)}, step=max(last, 0))
        for path in curves.find_curves(folder.artifacts):
            picture = Image.open(io.BytesIO(curves.render_png(path)))
            run.log({f"pictures/{path.stem}": wandb.Image(picture, caption=curves.load_curves(path).title)}, step=max(last, 0))
        run.summary.update({name: metric.value for name, metric in record.metrics.items() if metric.value is not None})
        run.summary.update({"status": str(record.status), "attempts": len(record.attempts), "shared_with": record.shared_with})
        if record.failure:
            run.summary.update({"failure_class": record.failure["class"], "failure_reason": record.failure["reason"]})
    finally:
        run.finish(exit_code=0 if record.status == "completed" else 1)
    return last


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """W&B writes its caches and logs where it is told, and nothing to the terminal."""
    wanted = {
        "WANDB_SILENT": "true",
        "WANDB_CACHE_DIR": str(folder / "wandb" / "cache"),
        "WANDB_DATA_DIR": str(folder / "wandb" / "data"),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def upload(folder: RunFolder, *, timeout_s: float = 600) -> bool:
    """Upload the folder's local W&B runs that are not on the server yet, in order; True when all are there.

    Raises:
        ResultError: W&B reports a failure; what was uploaded is remembered.
    """
    state = read_json_or(folder.path / "wandb.json", {})
    if not state or state.get("uploaded"):
        return bool(state)
    sent = list(state.get("uploaded_parts", []))
    for part in offline_parts(folder):
        if part.name in sent:
            continue
        command = [sys.executable, "-m", "wandb", "sync", str(part)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=folder.path)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise ResultError(
                f"W&B did not take the run: {lines[-1]}", where=str(part), next_step="wandb login, then: tenfold sync --upload"
            )
        sent.append(part.name)
        write_json(folder.path / "wandb.json", {**state, "uploaded_parts": sent})
    final = {**state, "uploaded": True, "uploaded_step": state["last_step"], "uploaded_parts": sent}
    write_json(folder.path / "wandb.json", final)
    return True
