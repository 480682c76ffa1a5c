"""Engines: how a step executes. Chosen by ``engine=``; imported only when used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.engines.base import Engine


def engine_class(name: str) -> type[Engine]:
    """The class behind ``engine=<name>``."""
    if name == "torch":
        from harness.engines.torch_engine import TorchEngine

        return TorchEngine
    from harness.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine
