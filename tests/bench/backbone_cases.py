"""Backbones and their peers as the benchmarks apply them: which ones, on what, and one training step of each.

A step is forward and backward of one application, gradient of the input included, as in a rollout.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.dlwp import config as navier_stokes
from models.dlwp.backbones import build
from models.dlwp.fields import Fields
from models.dlwp.shapes import FNO2D, FNO3D, SFNO, FourCastNet, GraphCast, MeshGraphNet, Swin
from models.dlwp.weather import config as weather
from tests.peers import SwinPeer, TransformerPeer, neuraloperator_peer, torch_harmonics_peer

BATCH = 4
#: Frames that an operator over time and space is given, and returns.
FRAMES = 10
_TORUS = {"small": Fields.torus(32, 4), "paper": Fields.torus(64, FRAMES)}


@dataclass(frozen=True)
class Case:
    """A configuration: ``small`` (32x32) and ``paper`` (64x64) are Navier-Stokes, ``weather`` the 32x64 grid with 13 channels in
    and 8 out at published sizes."""

    variant: str
    size: str
    scale: str
    masked_wrap: bool = False

    def __str__(self) -> str:
        return f"{self.variant} {self.size}, {self.scale}" + (", masked_wrap" if self.masked_wrap else "")

    def model(self) -> Any:
        """Its numbers."""
        presets = weather if self.scale == "weather" else navier_stokes
        model = presets.model_preset(self.variant, self.size, "paper" if self.scale == "weather" else self.scale)
        return dataclasses.replace(model, masked_wrap=True) if self.masked_wrap else model

    def fields(self) -> Fields:
        """What it is applied to."""
        return weather.fields(weather.Data(), self.variant) if self.scale == "weather" else _TORUS[self.scale]

    def ours(self) -> nn.Module:
        """Our backbone."""
        torch.manual_seed(0)
        module = build(self.model(), self.fields())
        return AllFrames(module) if isinstance(self.model(), FNO3D) else module

    def peer(self) -> nn.Module:
        """Its peer.

        Raises:
            ImportError: the peer's package is not installed.
            TypeError: there is none.
        """
        torch.manual_seed(0)
        model, fields = self.model(), self.fields()
        match model:
            case FNO2D():
                return neuraloperator_peer(model, fields.inputs, fields.outputs)
            case FNO3D():
                return OneChannel(neuraloperator_peer(model, 1))
            case FourCastNet():
                return TransformerPeer(model, fields)
            case SFNO():
                return torch_harmonics_peer(model, fields)
            case Swin():
                return SwinPeer(model, fields)
            case MeshGraphNet():
                from tests.bench.graph_peers import MeshGraphNetPeer

                return MeshGraphNetPeer(model, fields, BATCH)
            case GraphCast():
                from tests.bench.graph_peers import GraphCastPeer

                return GraphCastPeer(model, fields, BATCH)
        raise TypeError(f"no peer of {self.variant}")

    def frames(self) -> Tensor:
        """Something to apply it to, ``[batch, inputs, height, width]``."""
        fields = self.fields()
        return torch.randn(BATCH, fields.inputs, fields.height, fields.width, requires_grad=True)


class AllFrames(nn.Module):
    """An operator over time and space that returns as many frames as it is given."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, time, height, width]``, same shape out."""
        out: Tensor = self.operator(frames, frames.shape[1])
        return out


class OneChannel(nn.Module):
    """The same of a module that wants a channel."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, time, height, width]``, same shape out."""
        out: Tensor = self.operator(frames.unsqueeze(1)).squeeze(1)
        return out


#: What is measured at published sizes; the smaller ones are in :mod:`tests.bench.bench_backbones`.
PAPER = [
    Case(variant, "1M", "paper")
    for variant in ("fno2d", "tfno2d", "fourcastnet", "fno3d", "tfno3d", "swin", "meshgraphnet", "ms_meshgraphnet")
]
WEATHER = [
    Case(variant, "2M", "weather")
    for variant in ("fno2d", "tfno2d", "fourcastnet_p1x1", "fourcastnet_p4x4", "sfno", "swin", "meshgraphnet", "graphcast")
]


def step_of(module: nn.Module, frames: Tensor) -> Callable[[], None]:
    """Forward and backward; gradients are dropped at the end, as after an update."""

    def step() -> None:
        out = module(frames)
        out.backward(torch.randn_like(out))
        module.zero_grad()
        frames.grad = None

    return step


def interleaved(first: Callable[[], None], second: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Least processor seconds of two functions called in turn for about so many seconds, after a warm-up.

    Everything runs on one thread, so that processor time is what it takes on a machine that does nothing else.
    """
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for function, kept in zip((first, second), times, strict=True):
            start = time.process_time()
            function()
            kept.append(time.process_time() - start)
    warm = 1 if len(times[0]) < 10 else 3
    return min(times[0][warm:]), min(times[1][warm:])


def parameters(module: nn.Module) -> int:
    """Real numbers."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())


def row(name: str, unit: str, ours: float, peer: float | None, goal: float | None) -> dict[str, Any]:
    """A row of the page and of the printed table."""
    found: dict[str, Any] = {"name": name, "unit": unit, "ours": ours, "peer": peer}
    if peer is not None:
        found["ratio"] = ours / peer
        if goal is not None:
            found |= {"goal": goal, "met": found["ratio"] <= goal}
    print(f"{name:58} {ours:10.2f} {peer or 0:10.2f} {unit:12} ratio {found.get('ratio', 0):.3f}", flush=True)
    return found
