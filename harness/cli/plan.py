"""Predict what an experiment or a study needs, before anything is submitted: parameters, memory per rank, communication, seconds,
hours, storage, whether it fits. Nothing is allocated: models are built on meta tensors. Times are of a run alone on the machine.

examples:
  tenfold plan variant=fno2d size=32M scale=paper
  tenfold plan variant=unet scale=paper size=8M engine=zero3 ranks=8 --gpu A100-80G --json
  tenfold plan study=dlwp_scaling                    every point, and the totals
  tenfold plan variant=unet --search ranks=1,2,4 engine=zero1,zero3
  tenfold plan study=dlwp_scaling --site loopback    which partitions can run each point, and why not
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from harness.cli.common import add_config_dir, add_json, add_words, take_word
from results.errors import EXIT_OK
from results.store import dumps

#: Axes of a search that are not named.
SEARCH_RANKS = (1, 2, 4, 8)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(
        parser, "overrides of one experiment or, with Hydra's sweep grammar, of several; or study=NAME and overrides of all"
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="rank layouts of one experiment: engine=, ranks= and train.micro_batch= may name several values (default: all)",
    )
    parser.add_argument(
        "--objective", choices=("time", "hours"), default="time", help="of --search: least time, or ranks x hours"
    )
    parser.add_argument("--totals", action="store_true", help="of a study: hours, wall time and storage alone")
    parser.add_argument("--site", metavar="NAME", help="judge the partitions of a site's profile (configs/site, or discovered)")
    parser.add_argument("--gpu", metavar="TYPE", help="plan for GPUs of a type, from data sheets (A100-80G, H100-80G, ...)")
    add_json(parser)
    add_config_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan and print."""
    from harness.cli import plan_text as text

    words = list(arguments.words)
    if arguments.site:
        words = [
            *[word for word in words if not word.startswith(("site=", "launcher="))],
            "launcher=slurm",
            f"site={arguments.site}",
        ]
    name, words = take_word(words, "study")
    if arguments.gpu:
        from harness.planning.devices import gpu_type

        gpu_type(arguments.gpu)
    if arguments.search:
        found = _search(arguments, words)
        return _out(arguments, found, lambda: text.print_search(found))
    points = _points(name, words, arguments)
    if arguments.site:
        judged = _judge(points)
        return _out(arguments, judged, lambda: text.print_verdicts(judged, arguments.site))
    plans = _plans([point.experiment for point in points], arguments.gpu)
    rows = [_row(point, plans[point.experiment.name].as_dict()) for point in points]
    if name is None and len(rows) == 1:
        return _out(arguments, rows[0], lambda: text.print_one(rows[0]))
    totals = _totals(points, plans)
    if arguments.totals:
        return _out(arguments, totals, lambda: text.print_totals(totals))
    return _out(arguments, rows, lambda: text.print_study(rows, totals))


def _out(arguments: argparse.Namespace, found: Any, show: Any) -> int:
    if arguments.json:
        sys.stdout.write(dumps(found) + "\n")
    else:
        show()
    return EXIT_OK


def _points(name: str | None, words: list[str], arguments: argparse.Namespace) -> list[Any]:
    """Points of a study, named or made of the words."""
    from harness.study import adhoc_study, expand_study

    if name is not None:
        return list(expand_study(name, words, config_dir=arguments.config_dir).points)
    return list(adhoc_study(words, config_dir=arguments.config_dir).points)


def _plans(experiments: Sequence[Any], gpu: str | None) -> dict[str, Any]:
    from harness.display import Display
    from harness.prepare import plan_all

    return plan_all(experiments, gpu=gpu, measure=False, progress=Display().planning)


def _totals(points: Sequence[Any], plans: dict[str, Any]) -> dict[str, Any]:
    import os

    from harness.planning.totals import study_totals
    from harness.provenance import memory_gib

    planned = [(point, plans[point.experiment.name]) for point in points]
    return study_totals(planned, cores=len(os.sched_getaffinity(0)), memory_gib=memory_gib()).as_dict()


def _judge(points: Sequence[Any]) -> list[dict[str, Any]]:
    from harness.planning.partitions import judge

    return [
        {
            "run": point.experiment.name,
            "arm": point.arm,
            "ranks": point.experiment.config.ranks,
            "partitions": [verdict.as_dict() for verdict in judge(point.experiment, point.experiment.config.site)],
        }
        for point in points
    ]


def _search(arguments: argparse.Namespace, words: list[str]) -> list[dict[str, Any]]:
    from harness.compose import Composer
    from harness.planning.search import Objective, search
    from harness.schema import ENGINES

    axes: dict[str, list[str]] = {}
    for key in ("engine", "ranks", "train.micro_batch"):
        value, words = take_word(words, key)
        axes[key] = [] if value is None else [part.strip() for part in value.strip("[]").split(",")]
    with Composer(arguments.config_dir) as composer:
        experiment = composer.compose(words)
    candidates = search(
        experiment,
        ranks=_numbers("ranks", axes["ranks"]) or SEARCH_RANKS,
        engines=axes["engine"] or ENGINES,
        micro=_numbers("train.micro_batch", axes["train.micro_batch"]),
        gpu=arguments.gpu,
        objective=Objective(arguments.objective),
    )
    return [candidate.as_dict() for candidate in candidates]


def _numbers(key: str, texts: Sequence[str]) -> list[int]:
    from results.errors import ConfigError

    if not all(text.isdigit() and int(text) > 0 for text in texts):
        raise ConfigError(f"{key} takes whole numbers separated by commas, not '{','.join(texts)}'", where=f"command line: {key}")
    return [int(text) for text in texts]


def _row(point: Any, plan: dict[str, Any]) -> dict[str, Any]:
    from results.published import published_costs

    config = point.experiment.config
    costs = published_costs(config.system).get((config.variant, config.size), {}) if config.scale == "paper" else {}
    return {
        "run": point.experiment.name,
        "system": config.system,
        "variant": config.variant,
        "size": config.size,
        "scale": config.scale,
        "seed": config.seed,
        "engine": config.engine.name,
        "published_gpu_memory_mb": costs.get("gpu_memory_mb"),
        "published_epoch_s": costs.get("epoch_s"),
        **plan,
    }
