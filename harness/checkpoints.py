"""Checkpoints of a run: written by all ranks together, complete or absent, at least two kept while training.

::

    checkpoints/
      step-00000100/   engine files, rng-<rank>.pt, state.json; universal.json once converted for another number of ranks
      latest           name of the newest complete one
      best             name of the best by the validation metric (``train.select=best``)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines import check_family, family
from harness.engines.base import Engine
from harness.group import Group
from results.errors import ResultError
from results.store import read_json, sha256_text, write_json, write_text


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
        """Load engine and random state; a checkpoint of another number of ranks is converted first. Collective.

        Raises:
            ResultError: it was saved by an engine of another family, or cannot be converted.
        """
        state = self.state(path)
        name, world = engine.config.name, self.group.world
        check_family(state["engine"], name, where=str(path), run=self.folder.parent.name)
        same = state["world"] == world and state["engine"] == name
        if same or family(name) in _WHOLE:
            engine.load(path)
        else:
            convert(path, self.group)
            engine.load(path, universal=True)
        self._restore_random_state(path, same_world=state["world"] == world)
        return state

    def _restore_random_state(self, path: Path, *, same_world: bool) -> None:
        """Of this rank; one that the checkpoint does not know gets a state of its own, the same whenever it is resumed."""
        import torch

        file = path / f"rng-{self.group.rank}.pt"
        if not file.exists() and not same_world:
            torch.manual_seed(int(sha256_text(f"{path.name}/{self.group.rank}")[:15], 16))
            return
        random = torch.load(file, weights_only=True)
        torch.set_rng_state(random["cpu"])
        if "device" in random and self.group.device.type == "cuda":
            torch.cuda.set_rng_state(random["device"], self.group.device)

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


#: Engines whose checkpoint holds everything on every rank: another number of ranks loads it as it is.
_WHOLE = ("torch", "zero0")


def convert(path: Path, group: Group) -> None:
    """Make the checkpoint independent of the number of ranks (``state_universal/`` beside ``state/``), once. Collective.

    Raises:
        ResultError: DeepSpeed's converter fails.
    """
    problem = _convert(path) if group.rank == 0 and not (path / "universal.json").exists() else None
    problem = group.broadcast(problem)
    if problem:
        raise ResultError(f"the checkpoint cannot be converted to another number of ranks: {problem}", where=str(path))


def _convert(path: Path) -> str | None:
    target = path / "state_universal"
    shutil.rmtree(target, ignore_errors=True)
    words = ["--input_folder", str(path / "state"), "--output_folder", str(target)]
    command = [sys.executable, "-P", "-m", "deepspeed.checkpoint.ds_to_universal", *words]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    write_json(path / "universal.json", {"converted": True})
    return None


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
