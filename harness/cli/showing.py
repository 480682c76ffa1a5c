"""How one run is shown on a terminal."""

from __future__ import annotations

from launchers.local import Ended
from results.metrics import COMMON
from results.rows import read_row
from results.runfolder import RunFolder

_HEAD = ("step_s", "peak_gib", "params", "plan_peak_ratio", "samples_per_s", "mfu", "data_wait_share", "communicate_share")


def show_run(folder: RunFolder, how: Ended) -> None:
    """Status, metrics, where things lie, or why it failed and what to type next."""
    row = read_row(folder)
    print(f"{row['run']}  {row['status']}" + (" (it was before: nothing was run)" if how is Ended.ALREADY else ""))
    if how is Ended.ELSEWHERE:
        print("  another process is running it: tenfold status")
    failure = row.get("failure")
    if failure:
        rank = f", rank {failure['rank']}" if failure.get("rank") is not None else ""
        print(f"  failed: {failure['class']}{rank}: {failure['reason']}")
        print(f"  next:   {failure['next_step']}")
    metrics = row["metrics"]
    own = [name for name in metrics if name not in COMMON]
    for name in [*own, *(name for name in _HEAD if name in metrics)]:
        value = metrics[name]
        print(f"  {name:<22} {'unknown' if value is None else format(value, '.6g')}")
    print(f"  folder                 {folder.path}")
