"""Predict what an experiment or a study needs, before anything is submitted: parameters, memory per rank, FLOPs, seconds,
node-hours, whether it fits. Nothing is allocated: models are built on meta tensors.

examples:
  tenfold plan variant=fno2d size=32M scale=paper
  tenfold plan variant=unet scale=paper size=8M engine=zero3 ranks=8 --json
  tenfold plan study=dlwp_scaling
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness.cli.common import add_config_dir, add_json, add_words, take_word
from results.store import dumps

GIB = 2**30


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "overrides of one experiment, or study=NAME with overrides of all its points")
    add_json(parser)
    add_config_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan and print."""
    from harness.prepare import plan_all

    name, words = take_word(arguments.words, "study")
    if name is not None:
        from harness.study import expand_study

        study = expand_study(name, words, config_dir=arguments.config_dir)
        experiments = [point.experiment for point in study.points]
        plans = plan_all(experiments, measure=False)
        rows = [_row(experiment, plans[experiment.name].as_dict()) for experiment in experiments]
        if arguments.json:
            sys.stdout.write(dumps(rows) + "\n")
        else:
            _print_study(rows)
        return 0
    from harness.compose import Composer
    from harness.planning.plan import make_plan

    with Composer(arguments.config_dir) as composer:
        experiment = composer.compose(words)
    row = _row(experiment, make_plan(experiment).as_dict())
    if arguments.json:
        sys.stdout.write(dumps(row) + "\n")
    else:
        _print_one(row)
    return 0


def _row(experiment: Any, plan: dict[str, Any]) -> dict[str, Any]:
    config = experiment.config
    return {
        "run": experiment.name,
        "system": config.system,
        "variant": config.variant,
        "size": config.size,
        "scale": config.scale,
        "seed": config.seed,
        "engine": config.engine.name,
        **plan,
    }


def _gib(count: float | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / GIB:.2f} GiB" if count >= 0.1 * GIB else f"{count / 2**20:.1f} MiB"


def _seconds(value: float | None) -> str:
    if value is None:
        return "unknown"
    if value < 1:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.1f} s" if value < 600 else f"{value / 3600:.2f} h"


def _print_one(row: dict[str, Any]) -> None:
    print(
        f"{row['system']} {row['variant']} {row['size']} at scale {row['scale']}, engine {row['engine']} on {row['ranks']} ranks"
    )
    if row["params"] is None:
        print("  " + "; ".join(row["notes"]))
        return
    print(f"  parameters          {row['params']:,}")
    print(f"  FLOPs per step      {row['flops_per_step']:.4g}  (global batch {row['global_batch']}, {row['steps']} steps)")
    print(f"  memory per rank     {_gib(row['bytes_per_rank'])}")
    print(f"    base              {_gib(row['base_bytes'])}  (a warmed worker of this engine, measured on this machine)")
    for name, count in row["state_bytes"].items():
        print(f"    {name:<17} {_gib(count)}")
    print(f"    activations       {_gib(row['activation_bytes'])}")
    print(f"    buffers, data     {_gib(row['buffer_bytes'])}, {_gib(row['data_bytes'])}")
    print(f"  step                {_seconds(row['step_s'])}")
    print(f"  training            {_seconds(row['train_s'])}")
    print(f"  node-hours          {'unknown' if row['node_hours'] is None else format(row['node_hours'], '.3g')}")
    print(f"  fits here           {'unknown' if row['fits'] is None else 'yes' if row['fits'] else 'no'}")
    fits = ", ".join(f"{name} {'yes' if ok else 'no'}" for name, ok in row["fits_gpu"].items())
    print(f"  fits on one         {fits}")
    print("  model states per rank by engine: " + ", ".join(f"{name} {_gib(count)}" for name, count in row["stages"].items()))
    for note in row["notes"]:
        print(f"  note: {note}")


def _print_study(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'run':<36} {'variant':<12} {'size':>5} {'seed':>4} {'engine':<7} {'ranks':>5} "
        f"{'params':>10} {'memory/rank':>12} {'training':>10}  fits"
    )
    for row in rows:
        fits = {None: "?", True: "yes", False: "no"}[row["fits"]]
        params = "" if row["params"] is None else f"{row['params']:,}"
        print(
            f"{row['run']:<36} {row['variant']:<12} {row['size']:>5} {row['seed']:>4} {row['engine']:<7} {row['ranks']:>5} "
            f"{params:>10} {_gib(row['bytes_per_rank']):>12} {_seconds(row['train_s']):>10}  {fits}"
        )
    hours = [row["node_hours"] for row in rows]
    total = f"{sum(hours):.2f} node-hours one after another" if None not in hours else "time unknown: tenfold doctor --prepare"
    print(f"{len(rows)} runs, {total}")
