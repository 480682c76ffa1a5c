"""The replay of allocations: what a best-fit heap takes, by hand and against invariants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.planning.heap import ALIGNMENT, HEADER, MAPPED_BYTES, SLACK, Event, Heap, replay

KIB = 1024


def whole(size: int) -> int:
    """A block with its header, aligned."""
    return -(-(size + HEADER) // ALIGNMENT) * ALIGNMENT


def test_a_hole_of_just_its_size_is_not_taken_again() -> None:
    """An aligned request looks for size + slack: a block of 64 KiB that was freed between two others goes to the end of the heap
    when it comes back; one that is smaller by the slack takes the hole."""
    block = whole(64 * KIB)
    for size, end in ((64 * KIB, 4 * block), (64 * KIB - SLACK, 3 * block)):
        heap = Heap()
        for name in range(3):
            heap.allocate(name, 64 * KIB)
        heap.free(1)
        heap.allocate(3, size)
        assert heap.end == end


def test_freed_neighbours_become_one_hole() -> None:
    heap = Heap()
    for name in range(4):
        heap.allocate(name, 64 * KIB)
    heap.free(0)
    heap.free(2)
    heap.free(1)  # joins both
    heap.allocate(4, 3 * 64 * KIB - SLACK)
    assert heap.end == 4 * whole(64 * KIB)


def test_the_smallest_hole_that_fits_is_taken() -> None:
    heap = Heap()
    for name, size in enumerate((300, 1, 100, 1, 200, 1)):
        heap.allocate(name, size * KIB)
    end = heap.end
    for name in (0, 2, 4):
        heap.free(name)
    heap.allocate(10, 150 * KIB)  # into the hole of 200
    heap.allocate(11, 250 * KIB)  # into that of 300
    heap.allocate(12, 90 * KIB)  # into that of 100
    assert heap.end == end


def test_large_blocks_go_back_to_the_kernel() -> None:
    heap = Heap()
    for name in range(3):
        heap.allocate(name, MAPPED_BYTES + 1)
        heap.free(name)
    assert heap.peak == MAPPED_BYTES + 1
    assert heap.end == heap.mapped == 0


@st.composite
def traces(draw: st.DrawFn) -> list[Event]:
    """Allocations and ends in a possible order."""
    events: list[Event] = []
    live: list[int] = []
    for name, size in enumerate(draw(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=40))):
        events.append((name, size))
        live.append(name)
        if draw(st.booleans()):
            events.append((live.pop(draw(st.integers(0, len(live) - 1))), -1))
    return events


@given(traces())
def test_the_heap_holds_at_least_what_lives_and_at_most_all_that_came(events: list[Event]) -> None:
    sizes = {name: size for name, size in events if size >= 0}
    live = peak = 0
    for name, size in events:
        live += size if size >= 0 else -sizes[name]
        peak = max(peak, live)
    held = replay(events, steps=1)
    assert peak <= held <= sum(whole(size) for size in sizes.values())
    assert held <= replay(events, steps=3)  # the first step's heap is where the next one begins


@given(traces())
def test_blocks_that_live_at_the_same_time_never_overlap(events: list[Event]) -> None:
    heap = Heap()
    live: dict[int, tuple[int, int]] = {}
    for name, size in events:
        if size < 0:
            heap.free(name)
            del live[name]
            continue
        heap.allocate(name, size)
        place = heap._held[name]
        for start, length in live.values():
            assert place[0] + place[1] <= start or start + length <= place[0]
        live[name] = place
