"""The systems, their variants, sizes and scales; with parameters on request (built on meta tensors, nothing is allocated).

examples:
  tenfold systems
  tenfold systems dlwp --params        real parameters of every published size
  tenfold systems --json
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness.cli.common import add_json
from models import registry
from results.store import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("system", nargs="*", help="only these")
    parser.add_argument("--params", action="store_true", help="count the parameters of every size at paper scale")
    add_json(parser)


def _params(system: str, variant: str, size: str) -> int:
    import torch

    from harness.compose import Composer
    from models.system import TrainedSystem

    with Composer() as composer:
        experiment = composer.compose([f"system={system}", f"variant={variant}", f"size={size}", "scale=paper"])
    assert isinstance(experiment.system, TrainedSystem)
    with torch.device("meta"):
        model = experiment.system.build_model(experiment.point)
    return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in model.parameters())


def _is_built(name: str) -> bool:
    from models.system import TrainedSystem

    return isinstance(registry.system(name), TrainedSystem)


def describe(name: str, *, params: bool) -> dict[str, Any]:
    """Plain form of one system's catalogue."""
    catalogue = registry.catalogue(name)
    found: dict[str, Any] = {
        "system": name,
        "title": catalogue.title,
        "paper": catalogue.paper,
        "kind": catalogue.kind,
        "version": catalogue.version,
        "primary_metric": catalogue.primary_metric,
        "variants": [
            {
                "variant": variant.name,
                "title": variant.title,
                "published_as": variant.published_as or variant.title,
                "sizes": {scale: list(sizes) for scale, sizes in variant.sizes.items()},
            }
            for variant in catalogue.variants
        ],
    }
    if params and _is_built(name):
        for entry in found["variants"]:
            entry["params"] = {size: _params(name, entry["variant"], size) for size in entry["sizes"].get("paper", [])}
    return found


def run(arguments: argparse.Namespace) -> int:
    """Print them."""
    chosen = arguments.system or registry.names()
    found = [describe(name, params=arguments.params) for name in chosen]
    if arguments.json:
        sys.stdout.write(dumps(found) + "\n")
        return 0
    for entry in found:
        print(f"{entry['system']}  {entry['title']}  ({entry['kind']}; {entry['paper']})")
        for variant in entry["variants"]:
            print(f"  {variant['variant']:<12} {variant['title']}")
            for scale, sizes in variant["sizes"].items():
                counts = variant.get("params", {}) if scale == "paper" else {}
                shown = [f"{size} ({counts[size]:,})" if size in counts else size for size in sizes]
                print(f"    {scale:<6} {', '.join(shown)}")
    return 0
