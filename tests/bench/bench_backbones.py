"""Step time of backbones against their best public peers at equal shape: ``python -m tests.bench.bench_backbones [--paper]``.

One forward and backward (gradient of the input included, as in a rollout) on one thread, ours and the peer's in turn; the
least of each (what the code takes when nothing else runs) and their ratio. Peers: FNO and TFNO of neuraloperator 2.0.0 with
equal channels, modes, layers and rank, no positional embedding, no channel perceptron (that version applies the activation
twice then: the second call is removed).
FourCastNet has no peer among installed packages that mixes tokens in Fourier space: it is held against a BERT layer stack of
transformers with equal tokens, width, depth and perceptron, whose attention is the mixing step.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.backbones import build
from models.dlwp.config import model_preset
from models.dlwp.fields import Fields
from models.dlwp.shapes import FourCastNet
from tests.peers import neuraloperator_peer

CASES = {
    "small": [("fno2d", size) for size in ("5k", "20k", "50k", "200k")]
    + [("tfno2d", size) for size in ("5k", "20k", "50k")]
    + [("fourcastnet", size) for size in ("5k", "20k", "50k")],
    "paper": [(variant, size) for variant in ("fno2d", "tfno2d", "fourcastnet") for size in ("50k", "500k", "2M")],
}
FIELDS = {"small": Fields.torus(32, 4), "paper": Fields.torus(64, 10)}
BATCH = 4


class TransformerPeer(nn.Module):
    """Patches, a stack of BERT layers, a head per patch."""

    def __init__(self, model: FourCastNet, context: int) -> None:
        super().__init__()
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertLayer

        config = BertConfig(
            hidden_size=model.embed,
            num_attention_heads=model.blocks,
            intermediate_size=model.mlp_ratio * model.embed,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
        self.embed = nn.Conv2d(context, model.embed, model.patch_height, model.patch_height)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(model.layers))
        self.head = nn.Linear(model.embed, model.patch_height**2)
        self.patch = model.patch_height

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.embed(frames).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        side = frames.shape[-1] // self.patch
        return F.pixel_shuffle(self.head(tokens).transpose(1, 2).unflatten(2, (side, side)), self.patch)


def step_of(module: nn.Module, frames: Tensor) -> Callable[[], None]:
    """Forward and backward."""
    gradient = torch.randn_like(module(frames))

    def step() -> None:
        module(frames).backward(gradient)

    return step


def interleaved(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Least seconds of two functions called in turn, after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 3):
        for function, kept in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            if turn >= 3:
                kept.append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def compare(variant: str, size: str, scale: str, rounds: int) -> dict[str, Any]:
    """One case: our seconds, the peer's, parameters of both."""
    torch.manual_seed(0)
    model = model_preset(variant, size, scale)
    fields = FIELDS[scale]
    ours = build(model, fields)
    if isinstance(model, FourCastNet):
        peer: nn.Module = TransformerPeer(model, fields.inputs)
    else:
        peer = neuraloperator_peer(model, fields.inputs)
    frames = torch.randn(BATCH, fields.inputs, fields.height, fields.width, requires_grad=True)
    own_s, peer_s = interleaved(step_of(ours, frames), step_of(peer, frames), rounds)
    counts = [sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters()) for module in (ours, peer)]
    return {"own_s": own_s, "peer_s": peer_s, "ratio": own_s / peer_s, "params": counts[0], "peer_params": counts[1]}


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print one line per case; returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--paper", action="store_true", help="also 64x64 at published sizes (two minutes)")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args(words)
    rows = []
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"{'backbone':<12} {'size':>5} {'scale':>6} {'params':>9} {'peer':>9} {'own ms':>8} {'peer ms':>8} {'ratio':>6}")
    for scale in ("small", "paper") if arguments.paper else ("small",):
        for variant, size in CASES[scale]:
            found = compare(variant, size, scale, arguments.rounds if scale == "small" else max(arguments.rounds // 5, 3))
            print(
                f"{variant:<12} {size:>5} {scale:>6} {found['params']:>9} {found['peer_params']:>9} {found['own_s'] * 1e3:>8.2f}"
                f" {found['peer_s'] * 1e3:>8.2f} {found['ratio']:>6.2f}",
                flush=True,
            )
            rows.append(
                {
                    "name": f"{variant} {size}, {scale}",
                    "unit": "ms per step",
                    "ours": found["own_s"] * 1e3,
                    "peer": found["peer_s"] * 1e3,
                    "ratio": found["ratio"],
                    "goal": 1.0,
                    "met": found["ratio"] <= 1,
                }
            )
    return rows


if __name__ == "__main__":
    main()
