"""Checkpoints of a run: written by all ranks together, complete or absent, at least two kept while training.

::

    checkpoints/
      step-00000100/   engine files, rng-<rank>.pt, state.json
      latest           name of the newest complete one
      best             name of the best by the validation metric (``train.select=best``)
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines.base import Engine
from harness.group import Group
from results.errors import ResultError
from results.store import read_json, write_json, write_text


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoint folder of one run."""

    folder: Path
    group: Group

    def save(self, engine: Engine, step: int, state: dict[str, Any], *, best: bool = False) -> None:
        """Save after ``step`` optimisation steps. Collective; a kill at any moment leaves the previous checkpoint intact.

        Raises:
            ResultError: the disk is full or not writable; nothing half-written is kept.
        """
        import torch

        name = f"step-{step:08d}"
        temporary = self.folder / f".tmp-{name}"
        if self.group.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir(parents=True)
            except OSError as error:
                raise ResultError(f"cannot save a checkpoint: {error.strerror}", where=str(temporary)) from error
        self.group.barrier()
        try:
            engine.save(temporary)
            torch.save(_random_state(self.group.device), temporary / f"rng-{self.group.rank}.pt")
        except (OSError, RuntimeError) as error:
            if isinstance(error, OSError) or "write" in str(error).lower() or "No space" in str(error):
                shutil.rmtree(temporary, ignore_errors=True)
                raise ResultError(
                    f"cannot save a checkpoint: {error}",
                    where=str(temporary),
                    next_step="free space, then type the same command again",
                ) from error
            raise
        self.group.barrier()
        if self.group.rank == 0:
            write_json(temporary / "state.json", {"step": step, "world": self.group.world, "engine": engine.config.name, **state})
            _sync_tree(temporary)
            final = self.folder / name
            if final.exists():
                shutil.rmtree(final)
            os.replace(temporary, final)
            write_text(self.folder / "latest", name + "\n")
            if best:
                write_text(self.folder / "best", name + "\n")
            self._prune()
        self.group.barrier()

    def find(self, pointer: str = "latest") -> Path | None:
        """Folder that ``latest`` or ``best`` points to, if there is a complete one."""
        path = self.folder / pointer
        if not path.exists():
            return None
        target = self.folder / path.read_text().strip()
        return target if (target / "state.json").exists() else None

    def state(self, path: Path) -> dict[str, Any]:
        """What was saved beside the engine's files."""
        plain: dict[str, Any] = read_json(path / "state.json")
        return plain

    def load(self, engine: Engine, path: Path) -> dict[str, Any]:
        """Load engine and random state. Collective.

        Raises:
            ResultError: it was saved by another engine or world size.
        """
        import torch

        state = self.state(path)
        if state["world"] != self.group.world or state["engine"] != engine.config.name:
            raise ResultError(
                f"the checkpoint was saved by {state['engine']} on {state['world']} ranks, "
                f"this attempt is {engine.config.name} on {self.group.world}",
                where=str(path),
                next_step=f"engine={state['engine']} ranks={state['world']}",
            )
        engine.load(path)
        random = torch.load(path / f"rng-{self.group.rank}.pt", weights_only=True)
        torch.set_rng_state(random["cpu"])
        if "device" in random:
            torch.cuda.set_rng_state(random["device"], self.group.device)
        return state

    def finish(self, keep: str) -> None:
        """After completion keep what the experiment asks for: ``none``, ``last`` or ``best``."""
        if self.group.rank == 0 and self.folder.exists():
            kept = {"last": self.find("latest"), "best": self.find("best") or self.find("latest")}.get(keep)
            for path in self.folder.glob("*step-*"):
                if path != kept:
                    shutil.rmtree(path, ignore_errors=True)
            if kept is None:
                shutil.rmtree(self.folder, ignore_errors=True)
        self.group.barrier()

    def _prune(self) -> None:
        pointed = {self.find("latest"), self.find("best")}
        complete = sorted(path for path in self.folder.glob("step-*"))
        for path in complete[:-2]:
            if path not in pointed:
                shutil.rmtree(path, ignore_errors=True)


def _random_state(device: Any) -> dict[str, Any]:
    """State of the generators that training may draw from: the CPU's, and the device's."""
    import torch

    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    return state


def _sync_tree(folder: Path) -> None:
    """Force files to disk before the rename that makes them count."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
