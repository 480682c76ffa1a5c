"""Step times from operations: what an operation is, fits that find the law behind exact times, sums by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.planning.costs import StepLayout, gpu_step
from harness.planning.devices import ARITHMETIC_SHARE, BANDWIDTH_SHARE, GPU_TYPES, find_gpu_type, gpu_type
from harness.planning.features import features, fit_name, table_name
from harness.planning.operations import Family, Operation, describe, scratch_bytes
from harness.planning.probe_cases import probe
from harness.planning.probes import fit, measure, misfit
from harness.planning.roofline import gpu_pass_seconds, interpolate, operation_seconds, pass_seconds
from harness.planning.trace import trace_step
from harness.schema import EngineConfig
from results.errors import PlanError
from tests.harness.test_planning import PROFILE

aten = torch.ops.aten
SIDE = st.integers(1, 64)


def product(batch: int, rows: int, columns: int, inner: int) -> Operation:
    return Operation("bmm", Family.PRODUCT, backward=False, dims=(batch, rows, columns, inner))


# What an operation is -------------------------------------------------------------------------------------------------------


def test_operations_are_described_by_what_their_time_depends_on() -> None:
    a, b = torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta")
    found = describe(aten.mm.default, (a, b), torch.mm(a, b), backward=True, flops=210)
    assert (found.family, found.dims, found.backward, found.flops) == (Family.PRODUCT, (1, 3, 7, 5), True, 210)
    assert found.moved_bytes == 4 * (15 + 35 + 21)
    bias = torch.empty(7, device="meta")
    assert describe(aten.addmm.default, (bias, a, b), torch.mm(a, b), backward=False, flops=0).dims == found.dims
    view = describe(aten.t.default, (a,), a.t(), backward=False, flops=0)
    assert (view.family, view.moved_bytes) == (Family.VIEW, 0)
    # A copy that turns rows into columns walks one of its sides out of order.
    assert describe(aten.clone.default, (a.t(),), a.t().contiguous(), backward=False, flops=0).strided
    assert not describe(aten.clone.default, (a.t(),), a.t().clone(), backward=False, flops=0).strided


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_convolutions_are_described_with_their_gradients_and_layout(layout: torch.memory_format) -> None:
    field = torch.empty(2, 4, 10, 12, device="meta").contiguous(memory_format=layout)
    found = trace_step(lambda: nn.Conv2d(4, 6, 3), lambda: {"x": field}, lambda model, batch: model(batch["x"]).sum())
    forward, backward = (next(call for call in found.calls if call.family is kind) for kind in Family if "conv" in kind)
    points = 2 * 8 * 10
    assert forward.dims == (points, 4, 6, 9)
    assert backward.dims == (points, 4, 6, 9, 1)  # the field needs no gradient
    assert forward.strided == (layout is torch.contiguous_format)
    assert fit_name(forward) == "convolution" + ("_plain" if forward.strided else "")
    assert scratch_bytes(forward) == ([4 * points * 16, 4 * points * 16, 4 * 9 * 16 * 16] if forward.strided else [])


def test_a_transposed_convolution_applies_its_kernel_at_every_point_of_its_input() -> None:
    found = trace_step(
        lambda: nn.ConvTranspose2d(3, 5, 2, stride=2), lambda: {"x": torch.zeros(2, 3, 4, 4)}, lambda m, b: m(b["x"]).sum()
    )
    forward = next(call for call in found.calls if call.family is Family.CONVOLUTION)
    assert forward.dims == (2 * 16, 3, 5, 4)


def test_calls_and_modules_are_counted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act = nn.Linear(8, 8), nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.one(self.act(self.one(x))))

    found = trace_step(Twice, lambda: {"x": torch.zeros(4, 8)}, lambda model, batch: model(batch["x"]).sum())
    assert (found.module_calls, found.owner_calls, found.owner_bytes) == (5, 2, 2 * 4 * (64 + 8))
    assert found.parameter_tensors == 2
    assert sum(count for call, count in found.calls.items() if call.name == "addmm") == 2
    assert sum(count for call, count in found.calls.items() if call.name == "tanh_backward" and call.backward) == 2
    # Two gradients of the weight, and one of the first layer's output.
    assert sum(count for call, count in found.calls.items() if call.name == "mm") == 3


# Fits -----------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    law=st.tuples(st.floats(1e-7, 1e-5), st.floats(1e-12, 1e-9), st.floats(1e-12, 1e-9)),
    shapes=st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE), min_size=12, max_size=30, unique=True),
)
def test_a_fit_explains_times_that_follow_a_law(law: tuple[float, float, float], shapes: list[tuple[int, int, int, int]]) -> None:
    """Fixed cost, multiply-adds and results written: whatever coefficients come out, the times do."""
    points = [(product(*s), law[0] + s[0] * s[1] * s[2] * (law[1] * s[3] + law[2])) for s in shapes]
    found = fit(points)
    assert min(found) >= 0
    assert misfit(found, points) == pytest.approx(1, abs=1e-6)


@given(st.tuples(SIDE, SIDE, SIDE, SIDE))
def test_more_work_never_has_smaller_features(shape: tuple[int, int, int, int]) -> None:
    small, large = features(product(*shape)), features(product(*(2 * side for side in shape)))
    assert all(a <= b for a, b in zip(small, large, strict=True))
    assert len(small) == 6
    assert small[0] == 1


def test_tables_are_read_between_and_beyond_their_points() -> None:
    table = [(100, 1.0), (200, 3.0), (400, 4.0)]
    assert [interpolate(table, size) for size in (10, 100, 150, 300, 400, 800)] == [1.0, 1.0, 2.0, 3.5, 4.0, 8.0]


def test_seconds_of_a_pass_add_up_by_hand() -> None:
    """10 us and 1 GFLOP/s for products, 10 us and 1 GB/s for the rest, 1 us for views."""
    multiply = Operation("mm", Family.PRODUCT, backward=False, dims=(1, 10, 20, 30))
    gelu = Operation("gelu", Family.ELEMENTWISE, backward=True, moved_bytes=10**6)
    view = Operation("view", Family.VIEW, backward=False)
    found = pass_seconds({multiply: 2, gelu: 3, view: 4}, 7, PROFILE | {"fixed": PROFILE["fixed"] | {"module_s": 1e-3}})
    assert found["product"] == pytest.approx(2 * (1e-5 + 6000 * 2e-9))
    assert found["elementwise"] == pytest.approx(3 * (1e-5 + 1e-3), rel=1e-6)
    assert found["view"] == pytest.approx(4e-6)
    assert found["modules"] == pytest.approx(7e-3)
    late = PROFILE | {"fixed": PROFILE["fixed"] | {"backward_s": 1e-3}}
    assert operation_seconds(gelu, late) - operation_seconds(gelu, PROFILE) == pytest.approx(1e-3)


def test_operators_are_really_measured() -> None:
    """Sixty-four times the work takes longer, and nothing is faster than light."""
    with torch.no_grad():
        found = measure(probe(aten.mm, lambda n=n: (torch.randn(n, n), torch.randn(n, n))) for n in (64, 256))
    (small, quick), (large, slow) = found
    assert (small.dims, large.dims) == ((1, 64, 64, 64), (1, 256, 256, 256))
    assert 1e-7 < quick < slow < 1
    assert table_name(Operation("clone", Family.ELEMENTWISE, backward=False, strided=True)) == "clone_strided"


# GPU types ------------------------------------------------------------------------------------------------------------------


def test_a_roofline_takes_the_larger_of_arithmetic_and_traffic() -> None:
    gpu = GPU_TYPES["A100-80G"]
    heavy = Operation("mm", Family.PRODUCT, backward=False, flops=10**15, moved_bytes=1)
    moving = Operation("add", Family.ELEMENTWISE, backward=False, moved_bytes=10**12)
    tiny = Operation("add", Family.ELEMENTWISE, backward=False, moved_bytes=4)
    view = Operation("t", Family.VIEW, backward=False)
    assert gpu_pass_seconds({heavy: 1, view: 99}, gpu, "bf16") == pytest.approx(1e15 / (ARITHMETIC_SHARE * 312e12))
    assert gpu_pass_seconds({moving: 2}, gpu, "fp32") == pytest.approx(2 * 1e12 / (BANDWIDTH_SHARE * 2039e9))
    assert gpu_pass_seconds({tiny: 10}, gpu, "fp32") == pytest.approx(10 * gpu.launch_s)


def test_more_gpus_of_one_node_share_the_update() -> None:
    trace = trace_step(lambda: nn.Linear(1000, 1000), lambda: {"x": torch.zeros(2, 1000)}, lambda m, b: m(b["x"]).sum())
    engine = EngineConfig(name="zero3", stage=3)
    alone, eight = (
        gpu_step(trace, StepLayout(engine=engine, world=world, passes=1, precision="bf16"), "H100-80G") for world in (1, 8)
    )
    assert alone["update"] == pytest.approx(8 * eight["update"])
    assert "communication" not in alone
    assert math.isclose(alone["operators"], eight["operators"])


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("A100-80G", "A100-80G"),
        ("a100", "A100-40G"),  # the smaller where the word does not say
        ("nvidia_a100_80gb_pcie", "A100-80G"),
        ("NVIDIA_H200", "H200-141G"),
        ("tesla_v100", "V100-32G"),
        ("gtx1080", None),
    ],
)
def test_schedulers_words_for_gpus(word: str, name: str | None) -> None:
    assert find_gpu_type(word) == name


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PlanError, match="H1000") as caught:
        gpu_type("H1000")
    assert "A100-80G" in caught.value.next_step


def test_a_rank_that_says_much_does_not_hold_up_the_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rank 1 prints a megabyte before rank 0 may end: through a pipe that nobody reads it would wait for ever."""
    from harness.planning import machine

    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if os.environ.get('RANK') == '1':\n"
        "    sys.stderr.write('x' * (1 << 20))\n"
    )  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(machine, "TIMEOUT_S", 120.0)
    assert machine._measure("links", 2)["latency_s"] > 0


def test_a_profile_that_cannot_be_measured_says_what_was_printed() -> None:
    from harness.planning import machine

    with pytest.raises(PlanError, match="zero9"):
        machine._measure("zero9", 1)
