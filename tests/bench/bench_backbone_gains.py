"""Our attention and message passing against their plain forms: ``python -m tests.bench.bench_backbone_gains``.

Training steps of whole backbones, as :mod:`tests.bench.bench_backbones` and :mod:`tests.bench.bench_backbone_memory` measure
them. Both forms have the same weights and must give the same result before they are timed.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from tests.bench import bench_backbone_memory
from tests.bench.backbone_cases import Case, interleaved, row, step_of
from tests.bench.plain_forms import plain_form

#: And whether memory is measured, too.
CASES = [
    (Case("swin", "1M", "paper"), True),
    (Case("swin", "1M", "paper", masked_wrap=True), False),
    (Case("swin", "2M", "weather"), True),
    (Case("swin", "2M", "weather", masked_wrap=True), False),
    (Case("meshgraphnet", "1M", "paper"), True),
    (Case("meshgraphnet", "2M", "weather"), False),
]


def compare(case: Case, seconds: float) -> dict[str, Any]:
    """One row of times."""
    ours, plain, frames = case.ours(), plain_form(case), case.frames()
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(frames), plain.eval()(frames), atol=1e-4, rtol=1e-3)
    own_s, plain_s = interleaved(step_of(ours.train(), frames), step_of(plain.train(), frames), seconds)
    return row(str(case), "ms per step", own_s * 1e3, plain_s * 1e3, None)


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print one line per case; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2, help="for each case, at least")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    arguments = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cases = [(case, memory) for case, memory in CASES if arguments.only in str(case)]
    rows = [compare(case, arguments.seconds) for case, _ in cases]
    return rows + [bench_backbone_memory.compare(case, "plain", goal=None) for case, memory in cases if memory]


if __name__ == "__main__":
    main()
