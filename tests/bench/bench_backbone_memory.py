"""Peak memory of a training step of backbones and of their best public peers: ``python -m tests.bench.bench_backbone_memory``.

Every number is of a process of its own, with the allocator as workers have it: the highest resident memory (VmHWM) after three
steps less that just before the first of them, free memory given back. A step comes before, so that pages of the libraries, which
a first step brings in, count for neither side (30 to 60 MiB). Gradients of parameters are part of it, the parameters are not.
Ours and the peer's in turn, twice, the smaller of each; once where one is large, since little is left to the allocator's chance
there.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launchers.environment import allocator_variables
from tests.bench.backbone_cases import PAPER, WEATHER, Case, row, step_of

GOAL = 1.0
STEPS, ROUNDS = 3, 2
#: Above this one round will do.
LARGE_MIB = 400.0
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def highest_mib() -> float:
    """The highest resident memory of this process so far (since :func:`forget_highest`)."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def forget_highest() -> None:
    """Give free memory back, and let the highest resident memory be the present one: what building a model took for a moment
    would hide what its steps take."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")


def step_mib(module: nn.Module, case: Case) -> float:
    """What three steps take on top of a warm process, MiB."""
    step = step_of(module, case.frames())
    step()
    forget_highest()
    before = highest_mib()
    for _ in range(STEPS):
        step()
    return highest_mib() - before


def in_its_own_process(case: Case, which: str) -> float | None:
    """:func:`step_mib` of ``ours``, the ``peer`` or the ``plain`` form; None where the peer's package is not installed."""
    command = [sys.executable, "-m", "tests.bench.bench_backbone_memory", "--one", which, case.variant, case.size, case.scale]
    command += ["--masked-wrap"] * case.masked_wrap
    environment = {**os.environ, **allocator_variables(os.environ), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 3:
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def compare(case: Case, peer: str = "peer", goal: float | None = GOAL) -> dict[str, Any]:
    """One row."""
    found: dict[str, list[float]] = {"ours": [], peer: []}
    for _ in range(ROUNDS):
        for which, kept in found.items():
            measured = in_its_own_process(case, which)
            if measured is not None:
                kept.append(measured)
        if any(min(kept, default=0.0) >= LARGE_MIB for kept in found.values()):
            break
    return row(str(case), "MiB", min(found["ours"]), min(found[peer], default=None), goal)


def one(which: str, case: Case) -> None:
    """In a process of its own: print the number."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if which == "ours":
        module = case.ours()
    elif which == "peer":
        try:
            module = case.peer()
        except ImportError:
            raise SystemExit(3) from None
    else:
        from tests.bench.plain_forms import plain_form

        module = plain_form(case)
    print(step_mib(module, case))


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print one line per case; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--one", nargs=4, metavar=("WHICH", "VARIANT", "SIZE", "SCALE"), help="measure in this process")
    parser.add_argument("--masked-wrap", action="store_true", help="with --one: Swin whose shifted windows end at all borders")
    arguments = parser.parse_args(words)
    if arguments.one:
        one(arguments.one[0], Case(*arguments.one[1:], masked_wrap=arguments.masked_wrap))
        return []
    return [compare(case) for case in (*PAPER, *WEATHER) if arguments.only in str(case)]


if __name__ == "__main__":
    main()
