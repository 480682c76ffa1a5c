"""Backbones against their best public peers at equal shape: ``python -m tests.bench.bench_backbones [--times]``.

Time of one training step (forward and backward, gradient of the input included) on one thread, ours and the peer's in turn: the
least of each, and their ratio. Without ``--times`` also peak memory (:mod:`tests.bench.bench_backbone_memory`) and what our forms
gain over the plain ones (:mod:`tests.bench.bench_backbone_gains`). Peers: :mod:`tests.peers`, :mod:`tests.bench.graph_peers`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from tests.bench.backbone_cases import PAPER, WEATHER, Case, interleaved, parameters, row, step_of

CASES = [
    *(Case("fno2d", size, "small") for size in ("5k", "20k", "50k", "200k")),
    *(Case("tfno2d", size, "small") for size in ("5k", "20k", "50k")),
    *(Case("fourcastnet", size, "small") for size in ("5k", "20k", "50k")),
    *(Case(variant, "50k", "small") for variant in ("fno3d", "swin", "meshgraphnet", "ms_meshgraphnet")),
    *(Case(variant, "50k", "paper") for variant in ("fno2d", "tfno2d", "fourcastnet")),
    *PAPER,
    *WEATHER,
]
GOAL = 1.0


def compare(case: Case, seconds: float) -> dict[str, Any]:
    """One row; without the peer's time where its package is not installed."""
    ours, frames = case.ours(), case.frames()
    mine = step_of(ours, frames)
    try:
        peer = case.peer()
    except ImportError:
        alone, _ = interleaved(mine, lambda: None, seconds)
        return row(f"{case} (no peer installed)", "ms per step", alone * 1e3, None, GOAL)
    own_s, peer_s = interleaved(mine, step_of(peer, frames), seconds)
    name = f"{case} ({parameters(ours):,} and {parameters(peer):,} parameters)"
    return row(name, "ms per step", own_s * 1e3, peer_s * 1e3, GOAL)


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print one line per case; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", action="store_true", help="no memory, no plain forms")
    parser.add_argument("--seconds", type=float, default=2, help="for each case, at least")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    arguments = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = [compare(case, arguments.seconds) for case in CASES if arguments.only in str(case)]
    if not arguments.times:
        from tests.bench import bench_backbone_gains, bench_backbone_memory

        rows += bench_backbone_memory.main(["--only", arguments.only])
        rows += bench_backbone_gains.main(["--only", arguments.only])
    return rows


if __name__ == "__main__":
    main()
