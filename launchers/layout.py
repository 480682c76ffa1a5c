"""The layout that the next attempt of a run really has, where it is not the one that was asked for.

A run that ran out of device memory goes on with half the micro-batch, one whose cluster shrank on fewer ranks. The experiment and
its identity stay; the attempt records what it really had, and such a run enters no timing table. ``layout.json`` in the run
folder is written by whoever decides (``tenfold retry``, the retry policy) and read by every rank.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results.errors import ResultError
from results.store import read_json, write_json

FILE = "layout.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Changes to the requested layout; None: as requested.

    Attributes:
        memory_gib: planned need of all ranks together, raised after the host's memory ran out.
        exclude_nodes: nodes that an attempt was lost on.
    """

    engine: str | None = None
    ranks: int | None = None
    micro_batch: int | None = None
    memory_gib: float | None = None
    exclude_nodes: tuple[str, ...] = ()
    reason: str = ""

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """The run's layout; empty where nothing was changed.

        Raises:
            ResultError: the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        plain: dict[str, Any] = read_json(path)
        try:
            known = {name: plain[name] for name in cls.__slots__ if name in plain}
            return cls(**{**known, "exclude_nodes": tuple(plain.get("exclude_nodes") or ())})
        except (AttributeError, TypeError) as error:
            raise ResultError(f"{FILE} is damaged: {error}", where=str(path), next_step=f"remove {path}") from error

    def write(self, folder: Path) -> None:
        """Make it the layout of the run's next attempt."""
        write_json(folder / FILE, asdict(self))

    @property
    def changed(self) -> bool:
        """Whether engine, ranks or micro-batch differ from what was asked for."""
        return any(value is not None for value in (self.engine, self.ranks, self.micro_batch))
