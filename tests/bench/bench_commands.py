"""Commands a user waits for: ``python -m tests.bench.bench_commands``. Whole processes, median of five after a warm-up."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results.collect import collect_dataset, write_dataset
from results.rows import collect_rows
from tests.results.fixtures import fake_study

COMMANDS: tuple[tuple[str, list[str], float], ...] = (
    ("tenfold --help", ["--help"], 1.0),
    ("tenfold status (42 runs)", ["status"], 1.0),
    ("tenfold table (42 runs)", ["table"], 1.0),
    ("tenfold plan, largest published size (fno2d 32M)", ["plan", "variant=fno2d", "scale=paper", "size=32M"], 5.0),
)


def seconds(words: list[str], folder: Path, repeats: int = 5) -> float:
    """Median wall time of a whole process."""
    times = []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "harness", *words], cwd=folder, check=True, capture_output=True)
        if turn:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def collecting(root: Path, count: int = 2000) -> float:
    """Seconds to read ``count`` records as rows and write them as one data set."""
    index = fake_study(root).index
    names = [entry["run"] for entry in index["runs"]]
    for number in range(count - len(names)):
        source = root / "runs" / names[number % len(names)]
        target = root / "runs" / f"{source.name}-{number:04d}"
        target.mkdir()
        for name in ("config.yaml", "record.json", "run.json"):
            if (source / name).exists():
                (target / name).write_bytes((source / name).read_bytes())
    start = time.perf_counter()
    rows = collect_rows(root / "runs")
    assert len(rows) == count
    write_dataset(collect_dataset(rows, root / "runs", steps=False), root / "all.zarr")
    return time.perf_counter() - start


def main() -> list[dict[str, Any]]:
    """Measure and print."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        fake_study(Path(scratch) / "study")
        for name, words, goal in COMMANDS:
            found = seconds(words, Path(scratch) / "study")
            rows.append(
                {"name": name, "unit": "s", "ours": found, "peer": None, "ratio": None, "goal": goal, "met": found <= goal}
            )
            print(f"{name:50} {found:6.2f} s  (goal {goal:g})", flush=True)
        (Path(scratch) / "many").mkdir()
        found = collecting(Path(scratch) / "many")
        rows.append(
            {
                "name": "collecting 2,000 records",
                "unit": "s",
                "ours": found,
                "peer": None,
                "ratio": None,
                "goal": 5.0,
                "met": found <= 5,
            }
        )
        print(f"{'collecting 2,000 records':50} {found:6.2f} s  (goal 5)", flush=True)
    return rows


if __name__ == "__main__":
    main()
