"""Weather: simulated days per second of the generated atmosphere against a plain loop, memory and speed of a year's forecast.

``python -m tests.bench.bench_weather``. The plain loop is the model as one would first write it (one member, float64, transforms
by einsum): tests/models/dlwp/weather/atmosphere/plain_reference.py, which also checks the fast one's results.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from models.dlwp.weather.atmosphere.quasi_geostrophic import QuasiGeostrophicModel, simulate
from models.dlwp.weather.config import Data, model_preset
from models.dlwp.weather.data import AtmosphereStore
from models.dlwp.weather.forecasting import forecast
from models.dlwp.weather.prepared import test_scene
from models.dlwp.weather.system import SYSTEM
from models.system import Point
from tests.models.dlwp.weather.atmosphere.plain_reference import PlainModel

#: Days of a plain integration, and of a fast one of several members.
PLAIN_DAYS, FAST_DAYS, MEMBERS = 3, 30, 4
YEAR_DAYS = 365
STATUS = Path("/proc/self/status")


def plain_days_per_s() -> float:
    """One member, one day after another."""
    model = PlainModel()
    psi = QuasiGeostrophicModel().random_streamfunction([0])[0].numpy()
    model.advance(psi, 0.0, 2)
    begin = time.perf_counter()
    model.advance(psi, 0.0, 24 * PLAIN_DAYS)
    return PLAIN_DAYS / (time.perf_counter() - begin)


def fast_days_per_s() -> float:
    """Several members on one core, member-days."""
    starts = np.full(MEMBERS, np.datetime64("1979-01-01", "ns"))
    frames = simulate(range(MEMBERS), starts, 4 * FAST_DAYS + 1, spin_up_days=0)
    next(frames)
    begin = time.perf_counter()
    for _ in frames:
        pass
    return MEMBERS * FAST_DAYS / (time.perf_counter() - begin)


def generation() -> dict[str, Any]:
    """Both in turn, the best of three."""
    pairs = [(fast_days_per_s(), plain_days_per_s()) for _ in range(3)]
    ours, peer = (max(column) for column in zip(*pairs, strict=True))
    return {
        "name": "generated atmosphere, simulated days, one core",
        "unit": "days/s",
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "goal": 5.0,
        "met": ours / peer >= 5,
    }


def resident_mib() -> float:
    """Memory held now."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def year_of_rollout(root: Path) -> list[dict[str, Any]]:
    """Forecast a year with an untrained SFNO of the small family: memory held after the first day against the most of any day."""
    recipe = OmegaConf.load(Path("configs/recipe/dlwp_weather_small.yaml"))
    data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), recipe.data))
    assert isinstance(data, Data)
    data.train, data.val, data.test = ["1979-01-01", "1979-12-31"], ["1980-01-01", "1980-12-31"], ["1981-01-01", "1981-12-31"]
    data.days, data.spin_up_days = 20, 10
    point = Point(
        variant="sfno", size="150k", scale="small", seed=0, model=model_preset("sfno", "150k", "small"), data=data, data_root=root
    )
    store = AtmosphereStore(data)
    folder = store.folder(root)
    folder.mkdir()
    store.create(folder)
    for part in range(store.parts):
        store.build_part(folder, part)
    store.finish(folder)
    model, scene = SYSTEM.build_model(point).eval(), test_scene(point, torch.device("cpu"))
    first = most = 0.0
    begin = time.perf_counter()
    for before, _ in forecast(model, scene, np.array([0]), 4 * YEAR_DAYS):
        held = resident_mib()
        first, most = (held if before == 0 else first), max(most, held)
    days_per_s = YEAR_DAYS / (time.perf_counter() - begin)
    return [
        {
            "name": "a year's rollout, most memory held against that after two days",
            "unit": "MiB",
            "ours": most,
            "peer": first,
            "ratio": most / first,
            "goal": 1.05,
            "met": most / first <= 1.05,
        },
        {
            "name": "rollout of SFNO 150k, one forecast, simulated years per day",
            "unit": "years/day",
            "ours": days_per_s * 86400 / YEAR_DAYS,
        },
    ]


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print one line per figure; returns its rows."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [generation(), *year_of_rollout(Path(folder))]
    for row in rows:
        peer = f"  against {row['peer']:.1f}: {row['ratio']:.3f}" if "peer" in row else ""
        print(f"{row['name']:<64} {row['ours']:>10.1f} {row['unit']}{peer}", flush=True)
    return rows


if __name__ == "__main__":
    main([])
