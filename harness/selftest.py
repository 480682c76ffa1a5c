"""All-reduce over the ranks that a launcher really starts: ``tenfold doctor --all-reduce``. This module is what each rank runs.

It checks the sum, then times growing messages. The bus bandwidth is the bytes that each rank has to send and receive at least,
``2 (N - 1) / N`` times the message, per second: comparable over rank counts, and with what the network is rated at.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from pathlib import Path

from results.store import read_json, write_json

SIZES_BYTES = (1 << 10, 1 << 16, 1 << 20, 1 << 24)
REPEATS = 7
FILE = "all-reduce.json"
ASKED = "asked.json"


def bus_bandwidth(size_bytes: int, seconds: float, world: int) -> float:
    """Bytes per second over the bus of an all-reduce of ``size_bytes`` on ``world`` ranks."""
    return 2 * (world - 1) / world * size_bytes / seconds


def main() -> None:
    """One rank; rank 0 writes what all have measured."""
    import torch
    import torch.distributed as dist

    from harness.group import join

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    asked = read_json(folder / ASKED)
    group = join(expected_world=int(os.environ["WORLD_SIZE"]), device=asked["device"], timeout_s=120)
    expected = group.world * (group.world + 1) / 2
    rows = []
    for size in SIZES_BYTES:
        values = torch.empty(size // 4, device=group.device)
        times = []
        for _ in range(REPEATS):
            values.fill_(group.rank + 1.0)
            group.barrier()
            begun = time.perf_counter()
            if group.joined:
                dist.all_reduce(values)
            if group.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        if values.min().item() != expected or values.max().item() != expected:
            raise RuntimeError(f"the sum over {group.world} ranks is {values[0].item()} instead of {expected}")
        median = statistics.median(times)
        rows.append({"bytes": size, "median_s": median, "bus_bytes_per_s": bus_bandwidth(size, median, group.world)})
    hosts: list[str] = [""] * group.world
    if group.joined:
        dist.all_gather_object(hosts, os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    if group.rank == 0:
        backend = dist.get_backend() if group.joined else "none"
        found = {"world": group.world, "hosts": hosts, "device": group.device.type, "backend": backend, "sizes": rows}
        write_json(folder / FILE, found)
    group.leave()


if __name__ == "__main__":
    main()
