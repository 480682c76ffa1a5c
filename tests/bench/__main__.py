"""All benchmarks, ratios side by side in one run: ``python -m tests.bench [--write] [--only TITLE]``; ``make bench`` writes
``docs/performance.md``. A section says when and where it was measured: one that is measured again replaces its old self."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.provenance import commit, cpu_model, now
from results.store import write_text

PAGE = Path(__file__).parent.parent.parent / "docs" / "performance.md"
HEAD = """# Performance

Measured by `make bench`, one thread, ours and the peer's in turn in one run; medians. Absolute figures belong to their machine;
the ratios are the point. A goal that was not met is shown as such.
"""


def table(title: str, note: str, rows: list[dict[str, Any]]) -> str:
    """One section."""
    where = f"Measured {now()[:10]} at {commit().get('commit', 'unknown')[:10]} on {cpu_model()}."
    lines = [
        f"## {title}\n",
        f"{note} {where}\n",
        "| what | ours | peer | unit | ratio | goal | met |",
        "|---|---:|---:|---|---:|---:|---|",
    ]
    for row in rows:
        cells = [row["name"], *(_number(row.get(key)) for key in ("ours", "peer")), row["unit"]]
        cells += [_number(row.get("ratio")), _number(row.get("goal")), _met(row)]
        lines.append("| " + " | ".join(cells) + " |")
    errors = [row for row in rows if "error_ours" in row]
    if errors:
        lines += ["", "| what | relative error, ours | published scheme |", "|---|---:|---:|"]
        lines += [f"| {row['name']} | {row['error_ours']:.1e} | {row['error_peer']:.1e} |" for row in errors]
    return "\n".join(lines) + "\n\n"


def _met(row: dict[str, Any]) -> str:
    """Whether the goal is met; an interval that holds the goal cannot tell."""
    return {True: "yes", False: "no", None: "" if row.get("goal") is None else "cannot tell"}[row.get("met")]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def page(old: str, measured: dict[str, str], order: list[str]) -> str:
    """The page with some sections replaced, in order; those that no benchmark has any more are dropped.

    Args:
        measured: sections by title.
    """
    parts = {part.partition("\n")[0]: f"## {part}" for part in old.split("\n## ")[1:]}
    parts |= measured
    return HEAD + "".join("\n" + parts[title].strip() + "\n" for title in order if title in parts)


def main() -> None:
    """Run all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--only", default="", help="sections whose title has this in it")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    from tests.bench import (
        bench_backbone_gains,
        bench_backbone_memory,
        bench_backbones,
        bench_commands,
        bench_loop,
        bench_planner,
        bench_slurm,
        bench_solver,
        bench_weather,
        bench_zero,
    )

    sections: list[tuple[str, str, Callable[[], list[dict[str, Any]]]]] = [
        ("Commands", "Whole processes; `python -m tests.bench.bench_commands`. Seconds against a limit.", bench_commands.main),
        (
            "Training loop",
            "The harness's loop against a bare PyTorch loop of the same model, optimiser and batches; "
            "`python -m tests.bench.bench_loop`. The bare loop has all batches in memory beforehand, except in the last row; "
            "reading them takes 0.2 to 0.4 ms a step, which is what is left over at 15 ms a step.",
            bench_loop.main,
        ),
        (
            "ZeRO on two ranks",
            "The harness's loop against a bare DeepSpeed loop of the same model, optimiser and configuration, in turn in the "
            "same two processes; `python -m tests.bench.bench_zero`. The bare loop has all batches in memory beforehand. Two "
            "ranks fill two cores: whatever else runs on the machine shows. The ratio is the geometric mean over seven pairs of "
            "loops; where its interval holds the goal, one cannot tell.",
            partial(bench_zero.main, []),
        ),
        (
            "Slurm",
            "On the loopback cluster (`tenfold cluster up`). Submitting: 10 points of 100 seeds, from the start of "
            "`tenfold sweep` to its end, jobs that do nothing; the goal is for ours. The peer is hydra-submitit-launcher 1.2.0 "
            "with a task that does nothing, to the return of its last sbatch; it neither plans nor looks for what is done. Then "
            "a run on two ranks that an administrator requeues, and status; `python -m tests.bench.bench_slurm`.",
            partial(bench_slurm.main, []),
        ),
        (
            "Navier-Stokes solver",
            "Against the published scheme (Crank-Nicolson diffusion, explicit advection, full complex FFTs, step 1e-3), batched "
            "alike; ratio of trajectories per second. Errors at the last frame against a float64 run of step 0.01; "
            "`python -m tests.bench.bench_solver`.",
            bench_solver.main,
        ),
        (
            "Generated atmosphere and a year's forecast",
            "Simulated days per second of the three-level atmosphere against the model as one would first write it; highest "
            "memory of a year's forecast against that after two days. `python -m tests.bench.bench_weather`.",
            partial(bench_weather.main, []),
        ),
        (
            "Backbones",
            "One training step, forward and backward with the gradient of the input, batch 4, at equal shape; least processor "
            "time of interleaved steps. Small: 32x32; paper: Navier-Stokes on 64x64, 10 frames in; weather: 32x64, 13 channels "
            "in, 8 out. Peers: FNO2D, TFNO2D, FNO3D and TFNO3D (10 frames in and out) neuraloperator 2.0.0; SFNO the example of "
            "torch-harmonics 0.8.0; Swin transformers' SwinModel with one window over the whole map, which has no decoder and "
            "does not shift; MeshGraphNet and GraphCast a MessagePassing module of torch_geometric 2.8.1. FourCastNet's mixer is "
            "in no installed package: BERT layers of equal width, number and tokens stand in for it. ConvLSTM, U-Net and "
            "Pangu-Weather have no public peer that installs. `python -m tests.bench.bench_backbones --times`.",
            partial(bench_backbones.main, ["--times"]),
        ),
        (
            "Memory of backbones",
            "The same steps and peers: highest resident memory after three steps less that before them, in a process of its own "
            "that has done one step (whose 30 to 60 MiB of library pages count for neither); smaller of two. "
            "`python -m tests.bench.bench_backbone_memory`.",
            partial(bench_backbone_memory.main, []),
        ),
        (
            "Backbones against their plain forms",
            "The same steps; the peer is our backbone with all attention scores formed and kept, or with edges in random order, "
            "gathered, concatenated and added up. With `masked_wrap`, as published, no shifted window sees across a border: our "
            "form attends to its parts apart. `python -m tests.bench.bench_backbone_gains`.",
            partial(bench_backbone_gains.main, []),
        ),
        (
            "Planner",
            "Planned against measured, every point alone, one after another; ratio is how far off, as a factor of at least 1. "
            "`python -m tests.bench.bench_planner --repeats 2` prints all points.",
            partial(bench_planner.main, ["--repeats", "2"]),
        ),
    ]
    measured = {}
    for title, note, measure in sections:
        if arguments.only.lower() in title.lower():
            rows = measure()
            if rows:
                measured[title] = table(title, note, rows)
    if arguments.write:
        old = PAGE.read_text() if PAGE.exists() else ""
        write_text(PAGE, page(old, measured, [title for title, *_ in sections]))
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
