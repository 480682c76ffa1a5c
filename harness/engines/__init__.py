"""Engines: how a step executes. Chosen by ``engine=``; imported only when used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from results.errors import ResultError

if TYPE_CHECKING:
    from harness.engines.base import Engine


def engine_class(name: str) -> type[Engine]:
    """The class behind ``engine=<name>``."""
    if name == "torch":
        from harness.engines.torch_engine import TorchEngine

        return TorchEngine
    from harness.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine


def family(engine: str) -> str:
    """Engines of one family read each other's checkpoints."""
    return {"zero1": "zero1-2", "zero2": "zero1-2", "zero3_offload": "zero3"}.get(engine, engine)


def check_family(saved: str, wanted: str, *, where: str, run: str) -> None:
    """Whether an engine can go on from another's checkpoint.

    Raises:
        ResultError: they are of different families.
    """
    if family(saved) != family(wanted):
        raise ResultError(
            f"the checkpoint was saved by {saved}, and {wanted} cannot go on from it: they keep optimiser states in forms that "
            "do not convert into each other (stages 1 and 2 do; any stage goes on with another number of ranks)",
            where=where,
            next_step=f"tenfold retry {run} --with engine={saved}",
        )
