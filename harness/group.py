"""The ranks of one run: joining them from variables that the launcher sets, and the few collectives the harness needs.

All five variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) are set by us; nothing is discovered, because
discovery can silently give every rank a world of its own. The world size is asserted against what the experiment asks for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import RunError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Group:
    """The process group as seen from one rank; a world of one needs no process group and costs nothing."""

    rank: int
    world: int
    local_rank: int
    device: Any  # torch.device
    joined: bool

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.joined:
            import torch.distributed as dist

            dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if not self.joined:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Concatenate equally shaped arrays along the first axis, in rank order."""
        if not self.joined:
            return values
        import torch
        import torch.distributed as dist

        local = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(self.device)
        parts = [torch.empty_like(local) for _ in range(self.world)]
        dist.all_gather(parts, local)
        return torch.cat(parts).cpu().numpy()

    def leave(self) -> None:
        """Destroy the process group."""
        if self.joined:
            import torch.distributed as dist

            dist.destroy_process_group()


def join(*, expected_world: int, device: str = "auto", timeout_s: float = 600) -> Group:
    """Join the ranks of this run.

    Args:
        expected_world: ranks the experiment asks for.
        device: ``auto``, ``cpu`` or ``cuda``.
        timeout_s: how long a collective may wait; shorter than the run's limit, so that a hang ends as a recorded failure.

    Raises:
        RunError: variables are missing, the world has another size, or CUDA is asked for and absent.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing and expected_world > 1:
        raise RunError(
            f"this process was started without {', '.join(missing)}: it would train alone "
            f"instead of as one of {expected_world} ranks",
            where="environment",
            next_step="start ranks through a launcher: tenfold run ...",
        )
    rank, world, local_rank = (int(os.environ.get(name, default)) for name, default in zip(VARIABLES, "010", strict=False))
    if world != expected_world:
        raise RunError(
            f"the world has {world} ranks and the experiment asks for {expected_world}",
            where="environment: WORLD_SIZE",
            next_step=f"tenfold run ranks={world} ...",
        )
    import torch

    use_cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if use_cuda and not torch.cuda.is_available():
        raise RunError("device=cuda, but torch sees no CUDA device", where="device", next_step="tenfold doctor")
    chosen = torch.device("cuda", _gpu_of(local_rank, torch.cuda.device_count())) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    joined = world > 1
    if joined:
        import torch.distributed as dist

        dist.init_process_group(
            "nccl" if use_cuda else "gloo",
            init_method="env://",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=timeout_s),
        )
        if dist.get_world_size() != expected_world:
            raise RunError(f"the process group has {dist.get_world_size()} ranks instead of {expected_world}")
    return Group(rank=rank, world=world, local_rank=local_rank, device=chosen, joined=joined)


def _gpu_of(local_rank: int, visible: int) -> int:
    """The GPU of a rank. Where a scheduler shows every rank its own alone, that is number 0 for all of them.

    Raises:
        RunError: two ranks would share a GPU, which NCCL refuses much later and less clearly.
    """
    if local_rank >= visible and (visible > 1 or "CUDA_VISIBLE_DEVICES" not in os.environ):
        raise RunError(
            f"{local_rank + 1} ranks of this node see {visible} GPU{'s' if visible > 1 else ''}: ranks cannot share one",
            where="ranks",
            next_step=f"tenfold run ranks={visible} ..., or device=cpu",
        )
    return local_rank % visible
