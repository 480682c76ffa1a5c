"""The meter: phases that add up, a peak that is this process's own, and energy that is known or unknown but never 0."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import meter as meter_module
from harness.meter import PHASES, Meter, host_bytes, host_peak_bytes
from harness.provenance import EnergyCounter

ROOT = Path(__file__).parent.parent.parent
#: A phase: its name, seconds before, between and after the phases inside it, and those phases.
PHASE = st.recursive(
    st.tuples(st.sampled_from(PHASES), st.integers(0, 50), st.just([])),
    lambda inner: st.tuples(st.sampled_from(PHASES), st.integers(0, 50), st.lists(inner, max_size=3)),
    max_leaves=8,
)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def host_meter() -> Meter:
    return Meter(torch.device("cpu"))


def test_a_phase_inside_another_is_charged_apart(clock: Clock) -> None:
    meter = host_meter()
    clock.now += 5  # outside every phase
    with meter.phase("train"):
        clock.now += 1
        with meter.phase("evaluate"):
            clock.now += 10
            with meter.phase("checkpoint"):
                clock.now += 100
        clock.now += 2
        with meter.phase("train"):  # the same again
            clock.now += 4
    clock.now += 7
    expected = dict.fromkeys(PHASES, 0.0) | {"train": 7.0, "evaluate": 10.0, "checkpoint": 100.0}
    assert meter.phases_s == expected
    assert meter.total_s() == 129.0


@given(st.lists(PHASE, max_size=3))
def test_phases_add_up_to_the_time_inside_them(phases: list[Any]) -> None:
    clock = Clock()
    expected = dict.fromkeys(PHASES, 0)

    def walk(meter: Meter, name: str, seconds: int, inside: list[Any]) -> None:
        with meter.phase(name):
            clock.now += seconds
            expected[name] += seconds
            for part in inside:
                walk(meter, *part)
                clock.now += 1
                expected[name] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter_module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
        meter = host_meter()
        for phase in phases:
            walk(meter, *phase)
    assert meter.phases_s == expected
    assert sum(meter.phases_s.values()) == clock.now - 100


def test_an_exception_closes_its_phase(clock: Clock) -> None:
    meter = host_meter()

    def fail() -> None:
        with meter.phase("load"):
            clock.now += 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 50
    with meter.phase("train"):
        clock.now += 2
    assert (meter.phases_s["load"], meter.phases_s["train"]) == (3.0, 2.0)


def test_a_systems_own_phase_and_moved_seconds_keep_the_sum(clock: Clock) -> None:
    meter = host_meter()
    with meter.phase("retrieve"):
        clock.now += 3
    with meter.phase("train"):
        clock.now += 10
    meter.move("train", "communicate", 4)
    meter.move("train", "swap", 1)
    named = {name: seconds for name, seconds in meter.phases_s.items() if seconds}
    assert named == {"retrieve": 3.0, "train": 5.0, "communicate": 4.0, "swap": 1.0}


def test_the_peak_stays_when_memory_is_given_back() -> None:
    code = (
        "from harness.meter import host_bytes, host_peak_bytes\n"
        "before = host_bytes()\nblock = bytearray(b'x') * (200 << 20)\nheld = host_bytes()\ndel block\n"
        "print(before, held, host_bytes(), host_peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, held, after, peak = (int(word) for word in done.stdout.split())
    assert 190 << 20 < held - before < 220 << 20
    assert after < before + (20 << 20)
    assert peak > held - (2 << 20)  # the kernel keeps its counters per thread, a few pages behind


def test_the_peak_of_a_large_parent_is_not_inherited() -> None:
    """``ru_maxrss`` would be: the kernel keeps it over exec."""
    child = "from harness.meter import host_peak_bytes; print(host_peak_bytes())"
    code = (
        "import os, subprocess, sys\nfrom harness.meter import host_peak_bytes\nblock = bytearray(b'x') * (400 << 20)\n"
        "print(host_peak_bytes(), flush=True)\n"
        "if os.fork() == 0:\n    os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\nos.wait()"
    )
    done = subprocess.run([sys.executable, "-c", code, child], cwd=ROOT, capture_output=True, text=True, check=True)
    parent, own = (int(word) for word in done.stdout.split())
    assert parent > 400 << 20
    assert 1 << 20 < own < 100 << 20


def test_on_the_host_the_peak_is_the_hosts() -> None:
    memory = host_meter().memory()
    assert memory == {"peak_gib": memory["host_peak_gib"], "host_peak_gib": memory["host_peak_gib"]}
    assert host_bytes() <= host_peak_bytes()
    assert memory["peak_gib"] == pytest.approx(host_peak_bytes() / 2**30, rel=0.05)


def zone(root: Path, name: str, microjoules: object, span: object = 1000) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "energy_uj").write_text(f"{microjoules}\n")
    (root / name / "max_energy_range_uj").write_text(f"{span}\n")


def test_energy_is_the_sum_of_packages_and_not_of_their_parts(tmp_path: Path) -> None:
    for name, start in (("intel-rapl:0", 100), ("intel-rapl:1", 900), ("intel-rapl:0:0", 0)):
        zone(tmp_path, name, start, 10**9)
    counter = EnergyCounter(tmp_path)
    for name, end in (("intel-rapl:0", 2_000_100), ("intel-rapl:1", 500_900), ("intel-rapl:0:0", 700_000)):
        zone(tmp_path, name, end, 10**9)
    assert counter.joules() == (2.5, "")


@given(start=st.integers(0, 999), used=st.integers(0, 999))
def test_a_counter_that_wraps_around_loses_nothing(tmp_path_factory: pytest.TempPathFactory, start: int, used: int) -> None:
    root = tmp_path_factory.mktemp("powercap")
    zone(root, "intel-rapl:0", start)
    counter = EnergyCounter(root)
    zone(root, "intel-rapl:0", (start + used) % 1000)
    assert counter.joules() == (used / 1e6, "")


@pytest.mark.parametrize("state", ["no folder", "empty", "unreadable", "gone later"])
def test_energy_that_cannot_be_read_is_unknown_with_a_reason(state: str, tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    if state != "no folder":
        root.mkdir()
    if state in ("unreadable", "gone later"):
        zone(root, "intel-rapl:0", "not a number" if state == "unreadable" else 5)
    counter = EnergyCounter(root)
    if state == "gone later":
        (root / "intel-rapl:0" / "energy_uj").unlink()
    joules, reason = counter.joules()
    assert joules is None
    assert "RAPL" in reason
