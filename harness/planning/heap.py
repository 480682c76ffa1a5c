"""The address space that a step's allocations take on a CPU: a replay of them in a best-fit heap, as glibc's malloc keeps one.

Memory that a process has touched and freed again stays resident: what VmHWM sees is the heap's highest address, not the largest
sum of live tensors. The difference is fragmentation, and follows from sizes and order alone.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

#: torch asks for 64-byte alignment; glibc adds a header.
ALIGNMENT, HEADER = 64, 16
#: An aligned request looks for a block that is larger by alignment and smallest chunk, and gives the rest back: a hole left by a
#: block of the same size does not do (glibc before 2.38).
SLACK = ALIGNMENT + 32
#: Above this (DEFAULT_MMAP_THRESHOLD_MAX) every block is a mapping of its own and goes back to the kernel when freed. Below it
#: glibc's threshold adapts: after the first such block is freed, its like come from the heap.
MAPPED_BYTES = 32 << 20

#: (block, bytes) for an allocation, (block, -1) for its end.
Event = tuple[int, int]


class Heap:
    """A heap that grows at its end; a request takes the smallest free block that holds it, and freed neighbours are joined."""

    def __init__(self) -> None:
        self.end = self.peak = self.mapped = 0
        self._sizes: list[tuple[int, int]] = []  # (size, address), sorted: best fit is a bisection
        self._starts: dict[int, int] = {}  # free blocks: address -> size
        self._ends: dict[int, int] = {}  # address after a free block -> its address
        self._held: dict[int, tuple[int, int]] = {}

    def allocate(self, block: int, size: int) -> None:
        """Take ``size`` bytes under a name."""
        if size > MAPPED_BYTES:
            self._held[block] = (-1, size)
            self.mapped += size
        else:
            size = -(-(size + HEADER) // ALIGNMENT) * ALIGNMENT
            self._held[block] = (self._place(size), size)
        self.peak = max(self.peak, self.end + self.mapped)

    def _place(self, size: int) -> int:
        found = bisect.bisect_left(self._sizes, (size + SLACK, -1))
        if found < len(self._sizes):
            length, address = self._sizes[found]
            self._remove(address, length)
            if length > size:
                self._add(address + size, length - size)
            return address
        address = self._ends.get(self.end, self.end)  # a free block at the end is stretched
        if address != self.end:
            self._remove(address, self.end - address)
        self.end = address + size
        return address

    def free(self, block: int) -> None:
        """Give a block back."""
        address, size = self._held.pop(block)
        if address < 0:
            self.mapped -= size
            return
        following = self._starts.get(address + size)
        if following is not None:
            self._remove(address + size, following)
            size += following
        before = self._ends.get(address)
        if before is not None:
            length = self._starts[before]
            self._remove(before, length)
            address, size = before, size + length
        self._add(address, size)

    def _add(self, address: int, size: int) -> None:
        bisect.insort(self._sizes, (size, address))
        self._starts[address] = size
        self._ends[address + size] = address

    def _remove(self, address: int, size: int) -> None:
        del self._sizes[bisect.bisect_left(self._sizes, (size, address))]
        del self._starts[address]
        del self._ends[address + size]


def replay(events: Sequence[Event], *, steps: int = 2, around: Iterable[int] = ()) -> int:
    """Highest address plus mappings, in bytes, after several steps of the same allocations.

    Args:
        around: sizes of blocks that every step allocates at its end and frees at the end of the next one (gradients, say).
    """
    heap = Heap()
    kept: list[int] = []
    for step in range(steps):
        offset = step << 40
        live: dict[int, None] = {}
        for block, size in events:
            if size >= 0:
                heap.allocate(offset + block, size)
                live[block] = None
            else:
                heap.free(offset + block)
                live.pop(block)
        for block in live:
            heap.free(offset + block)
        for block in kept:
            heap.free(block)
        kept = []
        for index, size in enumerate(around):
            kept.append(offset + (1 << 39) + index)
            heap.allocate(kept[-1], size)
    return heap.peak
