"""Plans as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GIB = 2**30


def gib(count: float | None) -> str:
    """Bytes with a unit that fits."""
    if count is None:
        return "unknown"
    if count >= 0.1 * GIB:
        return f"{count / GIB:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 0.1 * 2**20 else f"{count / 2**10:.1f} KiB"


def seconds(value: float | None) -> str:
    """Seconds with a unit that fits."""
    if value is None:
        return "unknown"
    if value < 1:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.1f} s" if value < 600 else f"{value / 3600:.2f} h"


def print_one(row: Mapping[str, Any]) -> None:
    """One experiment in full."""
    print(
        f"{row['system']} {row['variant']} {row['size']} at scale {row['scale']}, engine {row['engine']} on {row['ranks']} ranks"
        + ("" if row["device"] == "cpu" else f", each on a {row['device']}")
    )
    if row["params"] is None:
        print("  " + "; ".join(row["notes"]))
        return
    print(f"  parameters          {row['params']:,}")
    print(f"  FLOPs per step      {row['flops_per_step']:.4g}  (global batch {row['global_batch']}, {row['steps']} steps)")
    print(f"  memory per rank     {gib(row['bytes_per_rank'])}")
    print(f"    base              {gib(row['base_bytes'])}  (a warmed worker of this engine, measured on this machine)")
    for name, count in row["state_bytes"].items():
        print(f"    {name:<17} {gib(count)}")
    print(f"    activations       {gib(row['activation_bytes'])}, fragmentation {gib(row['fragmentation_bytes'])}")
    print(f"    buffers, data     {gib(row['buffer_bytes'])}, {gib(row['data_bytes'])}")
    if row["device"] != "cpu":
        print(f"  host memory         {gib(row['host_bytes_per_rank'])} per rank")
    if row["ranks"] > 1:
        print(
            f"  sent per step       {gib(row['sent_bytes_per_step'])} per rank (ZeRO paper: {gib(row['published_sent_bytes'])})"
        )
    parts = sorted(row["step_parts_s"].items(), key=lambda part: -part[1])
    print(f"  step                {seconds(row['step_s'])}" + (" of a run alone" if row["step_s"] else ""))
    if parts:
        print("    " + ", ".join(f"{name.replace('_', ' ')} {seconds(value)}" for name, value in parts if value > 0))
    print(f"  training            {seconds(row['train_s'])}")
    print(f"  node-hours          {'unknown' if row['node_hours'] is None else format(row['node_hours'], '.3g')}")
    print(f"  storage             {gib(row['storage_bytes'])}")
    print(f"  fits                {_yes(row['fits'])}")
    fits = ", ".join(f"{name} {'yes' if ok else 'no'}" for name, ok in row["fits_gpu"].items())
    print(f"  fits on one         {fits}")
    print("  model states per rank by engine: " + ", ".join(f"{name} {gib(count)}" for name, count in row["stages"].items()))
    for note in row["notes"]:
        print(f"  note: {note}")


def print_study(rows: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> None:
    """A line per point, then the totals. Published costs of a paper stand beside what is planned; they are of its machine."""
    published = any(row["published_epoch_s"] is not None for row in rows)
    names, variants = (max(len(row[key]) for row in rows) for key in ("run", "variant"))
    print(
        f"{'run':<{names}} {'variant':<{variants}} {'size':>5} {'seed':>4} {'engine':<13} {'ranks':>5} "
        f"{'params':>11} {'memory/rank':>12} {'step':>9} {'training':>10}  fits"
        + ("  published: GPU MB, s/epoch" if published else "")
    )
    for row in rows:
        params = "" if row["params"] is None else f"{row['params']:,}"
        beside = ""
        if published:
            costs = (row["published_gpu_memory_mb"], row["published_epoch_s"])
            beside = f"{'-' if costs[0] is None else f'{costs[0]:,.0f}':>16} {'-' if costs[1] is None else f'{costs[1]:g}':>9}"
        print(
            f"{row['run']:<{names}} {row['variant']:<{variants}} {row['size']:>5} {row['seed']:>4} {row['engine']:<13} "
            f"{row['ranks']:>5} {params:>11} {gib(row['bytes_per_rank']):>12} {seconds(row['step_s']):>9} "
            f"{seconds(row['train_s']):>10}  {_yes(row['fits']):<4}{beside}"
        )
    print()
    print_totals(totals)
    print("times are of runs alone: runs side by side share the memory's bandwidth and take longer")
    for note in sorted({note for row in rows for note in row["notes"]}):
        print(f"note: {note}")


def print_totals(totals: Mapping[str, Any]) -> None:
    """Sums over a study."""
    print(f"{totals['runs']} runs")
    if totals["unplanned"]:
        print(f"  time unknown of {totals['unplanned']}: tenfold doctor --prepare measures this machine's profile")
    if totals["gpu_hours"]:
        print(f"  GPU-hours           {totals['gpu_hours']:.3g}")
    print(f"  core-hours          {totals['core_hours']:.3g} (ranks x hours {totals['rank_hours']:.3g})")
    print(f"  node-hours          {totals['node_hours']:.3g}, one run after another")
    if totals["wall_s"] is not None:
        print(f"  wall time           {seconds(totals['wall_s'])} here at launcher.max_parallel={totals['max_parallel']}")
    print(f"  storage             {gib(totals['storage_bytes'])}")


def print_search(candidates: Sequence[Mapping[str, Any]]) -> None:
    """Layouts, the best first."""
    print(
        f"{'engine':<14} {'ranks':>5} {'micro-batch':>11} {'memory/rank':>12} {'step':>10} {'training':>10} {'ranks x h':>10}"
        "  why not"
    )
    for found in candidates:
        hours = "unknown" if found["rank_hours"] is None else f"{found['rank_hours']:.3g}"
        print(
            f"{found['engine']:<14} {found['ranks']:>5} {found['micro_batch']:>11} {gib(found['bytes_per_rank']):>12} "
            f"{seconds(found['step_s']):>10} {seconds(found['train_s']):>10} {hours:>10}  {found['reason']}"
        )
    if candidates and candidates[0]["possible"]:
        best = candidates[0]
        words = f"engine={best['engine']} ranks={best['ranks']} train.micro_batch={best['micro_batch']}"
        timed = "" if best["step_s"] is not None else "; times unknown (tenfold doctor --prepare), chosen by memory"
        print(f"best: {words}{timed}")
    else:
        print("no layout is possible")


def print_verdicts(judged: Sequence[Mapping[str, Any]], site: str) -> None:
    """Partitions by point."""
    print(
        f"{'run':<36} {'partition':<12} {'runs':<5} {'nodes':>5} {'mem/node':>9} {'GPU':>9} {'planned':>9} {'limit':>9}  remarks"
    )
    for point in judged:
        for verdict in point["partitions"]:
            memory = "unknown" if verdict["memory_gib_per_node"] is None else f"{verdict['memory_gib_per_node']:.2f}"
            device = "" if verdict["device_gib"] is None else f"{verdict['device_gib']:.2f}"
            limit = "none" if verdict["limit_s"] is None else seconds(verdict["limit_s"])
            remarks = "; ".join([*verdict["reasons"], *verdict["notes"]])
            print(
                f"{point['run']:<36} {verdict['partition']:<12} {_yes(verdict['possible']):<5} {verdict['nodes']:>5} {memory:>9} "
                f"{device:>9} {seconds(verdict['planned_s']):>9} {limit:>9}  {remarks}"
            )
    nowhere = [point["run"] for point in judged if not any(verdict["possible"] for verdict in point["partitions"])]
    without = f"; none for {', '.join(nowhere)}" if nowhere else ""
    print(f"site {site}: {len(judged) - len(nowhere)} of {len(judged)} runs have a partition{without}")


def _yes(value: bool | None) -> str:
    return {None: "?", True: "yes", False: "no"}[value]
