"""Planned against measured peak memory per rank and step time, every point alone on the machine, one after another.

``python -m tests.bench.bench_planner [--folder FOLDER] [--only TEXT] [--repeats N] [--plan-only]``. Runs that completed in FOLDER
before are kept and planned anew, so that a changed planner can be held against the same measurements. Of several repeats, made
in rounds over all points, the quickest counts for time (others on the machine only ever add to it) and the median for memory.
The figures hold for an otherwise idle machine: runs that found company of this harness are marked and enter no summary of times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from harness.compose import Composer
from harness.experiment import Experiment
from harness.planning.plan import make_plan
from harness.prepare import build_data, request_for
from launchers.local import LocalQueue
from results.rows import collect_rows, value

GIB = 2**30
STEPS = 60
SIZES = ("5k", "20k", "50k")
#: Every backbone and size under the reference; then the engines over the sizes of one backbone, on one rank and on two.
POINTS = (
    *(f"variant={variant} size={size}" for variant in ("tfno2d", "unet", "convlstm", "fourcastnet") for size in SIZES),
    *(f"variant=fno2d size={size}" for size in ("2k", *SIZES, "200k")),
    *(
        f"variant=fno2d size={size} engine={engine} ranks={ranks}"
        for size in (*SIZES, "200k")
        for engine in ("zero0", "zero1", "zero2", "zero3", "zero3_offload")
        for ranks in (1, 2)
    ),
    *(
        f"variant={variant} size=50k engine={engine} ranks={ranks}"
        for variant in ("unet", "fourcastnet", "convlstm", "tfno2d")
        for engine, ranks in (("zero1", 2), ("zero3", 2), ("zero3", 1))
    ),
)
GOALS = {"peak": 1.10, "step_median": 1.30, "step": 2.0}


def compose(points: list[str], folder: Path, repeats: int) -> list[list[Experiment]]:
    """The experiments of the points, one of each per repeat."""
    common = ["scale=small", f"train.steps={STEPS}", "keep=none", "tracker=none"]
    common += [f"paths.runs={folder}/runs", f"paths.data={folder}/data", f"paths.reports={folder}/reports"]
    with Composer() as composer:
        return [
            [composer.compose([*common, f"repeat={repeat}", *point.split()]) for repeat in range(repeats)] for point in points
        ]


def measure(experiments: list[list[Experiment]]) -> None:
    """Run what is not done, alone, in rounds over the points; the plan is made before the run."""
    build_data([repeats[0] for repeats in experiments], lambda *_: None)
    for turn in zip(*experiments, strict=True):
        for experiment in turn:
            if not experiment.folder.is_completed():
                request = request_for(experiment, make_plan(experiment, measure=True), exclusive=True)
                LocalQueue(max_parallel=1).run([request])


def hold(points: list[str], experiments: list[list[Experiment]]) -> list[dict[str, Any]]:
    """Plans made now beside what was measured; a run's step time is the median over its timed steps."""
    found = []
    for point, repeats in zip(points, experiments, strict=True):
        plan = make_plan(repeats[0], measure=True)
        rows = collect_rows(repeats[0].folder.path.parent, [experiment.name for experiment in repeats])
        peaks = [peak for row in rows if (peak := value(row, "peak_gib")) is not None]
        alone = [step for row in rows if not row["shared_with"] and (step := value(row, "step_s")) is not None]
        steps = alone or [step for row in rows if (step := value(row, "step_s")) is not None]
        if not peaks or not steps or plan.bytes_per_rank is None or plan.step_s is None:
            print(f"{point}: not measured ({', '.join(row['status'] for row in rows)})")
            continue
        base, planned, peak = (plan.base_bytes or 0) / GIB, plan.bytes_per_rank / GIB, statistics.median(peaks)
        found.append(
            {
                "name": point,
                "peak_gib": peak,
                "peak_ratio": planned / peak,
                "above": peak - base,
                "above_ratio": (planned - base) / max(peak - base, 1e-9),
                "step_s": min(steps),
                "spread": max(steps) / min(steps),
                "step_ratio": plan.step_s / min(steps),
                "alone": bool(alone),
            }
        )
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """All points, then medians and extremes."""
    head = (
        f"{'point':<52} {'peak GiB':>8} {'plan/':>6} {'above':>6} {'plan/':>6} {'step ms':>8} {'max/min':>7} {'plan/':>6}  alone"
    )
    print(head)
    for row in rows:
        print(
            f"{row['name']:<52} {row['peak_gib']:8.3f} {row['peak_ratio']:6.3f} {row['above']:6.3f} {row['above_ratio']:6.2f} "
            f"{row['step_s'] * 1e3:8.2f} {row['spread']:7.2f} {row['step_ratio']:6.2f}"
            f"  {'yes' if row['alone'] else 'no'}"
        )
    for name, key, chosen in (("peak memory", "peak_ratio", rows), ("step time", "step_ratio", [r for r in rows if r["alone"]])):
        ratios = {row["name"]: row[key] for row in chosen}
        if ratios:
            low, high = min(ratios, key=lambda n: ratios[n]), max(ratios, key=lambda n: ratios[n])
            off = statistics.median(max(ratio, 1 / ratio) for ratio in ratios.values())
            print(
                f"{name}: planned/measured median {statistics.median(ratios.values()):.3f}, off by a factor of {off:.3f} in the "
                f"median; least {ratios[low]:.3f} ({low}), most {ratios[high]:.3f} ({high}); {len(ratios)} points"
            )


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of ``docs/performance.md``: how far off, as a factor of at least 1."""
    alone = [row for row in rows if row["alone"]] or rows
    peaks = [max(row["peak_ratio"], 1 / row["peak_ratio"]) for row in rows]
    steps = [max(row["step_ratio"], 1 / row["step_ratio"]) for row in alone]
    lines = []
    for name, number, goal in (
        (f"planned peak memory, worst of {len(peaks)} points", max(peaks), GOALS["peak"]),
        (f"planned step time, median of {len(steps)} points", statistics.median(steps), GOALS["step_median"]),
        (f"planned step time, worst of {len(steps)} points", max(steps), GOALS["step"]),
    ):
        lines.append({"name": name, "unit": "planned / measured, factor", "ratio": number, "goal": goal, "met": number <= goal})
    return lines


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where runs and data are kept; a temporary folder by default")
    parser.add_argument("--only", default="", help="points whose words contain this text")
    parser.add_argument("--repeats", type=int, default=1, help="measurements of every point")
    parser.add_argument("--plan-only", action="store_true", help="hold new plans against what FOLDER has; start nothing")
    chosen = parser.parse_args(arguments or [])
    points = [point for point in POINTS if chosen.only in point]
    with tempfile.TemporaryDirectory() as scratch:
        folder = (chosen.folder or Path(scratch)).resolve()
        experiments = compose(points, folder, chosen.repeats)
        if chosen.plan_only:
            done = [all(experiment.folder.is_completed() for experiment in repeats) for repeats in experiments]
            points = [point for point, there in zip(points, done, strict=True) if there]
            experiments = [repeats for repeats, there in zip(experiments, done, strict=True) if there]
        else:
            measure(experiments)
        rows = hold(points, experiments)
    show(rows)
    return goals(rows)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
