"""Planning against closed forms and against torch's own counter; nothing is allocated, and what is unknown is said to be."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.compose import Composer
from harness.experiment import Experiment
from harness.planning.flops import formulas
from harness.planning.machine import base, machine
from harness.planning.memory import buffer_bytes, state_bytes
from harness.planning.plan import make_plan, plan_key
from harness.planning.trace import StepTrace, trace_step

ROOT = Path(__file__).parent.parent.parent
aten = torch.ops.aten
STAGES = (None, 0, 1, 2, 3)
SIZES = st.integers(1, 12)


#: A machine that does 1 GFLOP/s and moves 1 GB/s, with 10 us for every operator.
PROFILE = {
    "gemm_flops": 1e9,
    "copy_bytes": 1e9,
    "fits": {
        **{f"product_{kind}_{how}": [1e-5, 0, 2e-9, 0, 0, 0] for kind in ("real", "complex") for how in ("single", "batched")},
        **{name + end: [1e-5, 2e-9, 0, 0] for name in ("convolution", "convolution_backward") for end in ("", "_plain")},
        "fourier": [1e-5, 0, 1e-9, 0],
        "view": [1e-6, 0],
    },
    "tables": {name: [[0, 1e-5], [10**9, 1.00001]] for name in ("mul", "clone_strided")},
    "fixed": {
        **dict.fromkeys(("backward_s", "module_s"), 0.0),
        "update_element_s": 1e-9,
    },
}
ENGINE = {"base_bytes": 1 << 28, "convolution_bytes": 1e5, "costs": {"step_s": 1e-4, "tensor_s": 1e-5, "call_s": 1e-6}}


def trace(model: Any, *shape: int) -> StepTrace:
    """Cost of one pass with the sum of the outputs as loss."""
    return trace_step(model, lambda: {"x": torch.zeros(*shape)}, lambda module, batch: module(batch["x"]).sum())


def experiment(*words: str) -> Experiment:
    with Composer() as composer:
        return composer.compose(["scale=tiny", *words])


# FLOPs ----------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(widths=st.lists(SIZES, min_size=2, max_size=5), batch=SIZES)
def test_a_perceptron_without_bias_costs_six_flops_a_parameter_and_sample(widths: list[int], batch: int) -> None:
    """2 forward, 2 for the gradient of the weight, 2 for that of the input; the first layer's input needs none."""
    layers = list(zip(widths, widths[1:], strict=False))
    found = trace(lambda: nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in layers)), batch, widths[0])
    params = sum(fan_in * fan_out for fan_in, fan_out in layers)
    assert found.params == params
    assert found.flops == 6 * params * batch - 2 * batch * widths[0] * widths[1]


@pytest.mark.parametrize("layer", ["plain", "strided", "transposed"])
def test_convolutions_are_counted_as_torch_does_on_real_tensors(layer: str) -> None:
    def build() -> nn.Module:
        middle = {
            "plain": nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
            "strided": nn.Conv2d(4, 6, 3, stride=2, groups=2),
            "transposed": nn.ConvTranspose2d(4, 6, 2, stride=2),
        }[layer]
        return nn.Sequential(nn.Conv2d(2, 4, 5, padding=2), nn.GELU(), middle)

    model = build()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(3, 2, 10, 10)).sum().backward()
    assert trace(build, 3, 2, 10, 10).flops == counter.get_total_flops() > 0


@given(batch=SIZES, rows=st.integers(2, 32), columns=st.integers(2, 32))
def test_a_fourier_transform_costs_5_n_log2_n_and_half_of_that_on_real_data(batch: int, rows: int, columns: int) -> None:
    x = torch.empty(batch, rows, columns, device="meta")
    half = torch.empty(batch, rows, columns // 2 + 1, dtype=torch.complex64, device="meta")
    points = rows * columns
    full = 5 * points * math.log2(points) * batch
    known = formulas()
    assert known[aten._fft_c2c](x.to(torch.complex64), [1, 2], 0, True) == pytest.approx(full, abs=1)
    assert known[aten._fft_r2c](x, [1, 2], 0, True, out_val=half) == pytest.approx(full / 2, abs=1)
    # The inverse is priced by the real field it returns, not by the half spectrum it takes.
    assert known[aten._fft_c2r](half, [1, 2], 0, columns, out_val=x) == pytest.approx(full / 2, abs=1)


def test_transforms_on_the_way_back_are_counted_too() -> None:
    """64 x 64 real points: 2.5 n log2 n each. The input needs no gradient, so only the inverse is passed through again."""

    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64, 33))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(x) * self.weight, s=x.shape[-2:])

    once = 2.5 * 4096 * 12
    assert trace(Filter, 1, 64, 64).flops_by_kind == {"aten._fft_r2c": 2 * once, "aten._fft_c2r": once}


@settings(deadline=None)
@given(st.tuples(SIZES, SIZES, SIZES, SIZES))
def test_a_complex_product_is_four_real_ones(shape: tuple[int, int, int, int]) -> None:
    batch, rows, inner, columns = shape
    known = formulas()
    for left, right, kind in (
        ((rows, inner), (inner, columns), aten.mm),
        ((batch, rows, inner), (batch, inner, columns), aten.bmm),
    ):
        a, b = torch.empty(left, device="meta"), torch.empty(right, device="meta")
        with FlopCounterMode(display=False) as counter:
            torch.matmul(a, b)
        real = counter.get_total_flops()
        assert known[kind](a, b) == real
        assert known[kind](a.to(torch.complex64), b.to(torch.complex64)) == 4 * real


def test_accumulation_and_ranks_do_not_change_the_flops_of_a_step() -> None:
    plans = [make_plan(experiment(*words)) for words in ((), ("train.micro_batch=1",), ("engine=zero2", "ranks=2"))]
    assert len({plan.flops_per_step for plan in plans}) == 1
    assert plans[1].activation_bytes < plans[0].activation_bytes  # type: ignore[operator]


# Memory ---------------------------------------------------------------------------------------------------------------------


def test_live_memory_of_a_chain_computed_by_hand() -> None:
    """Linear, tanh, linear with a wide middle of M = batch x width x 4 bytes. The backward pass of tanh holds most: its saved
    output, the gradient that came and the gradient that goes, 3 M; besides the loss and its gradient, 4 bytes each. The output
    of the first layer is gone by then, the sum keeps nothing of its input, and weights and their gradients do not count."""
    batch, width = 64, 512
    found = trace(lambda: nn.Sequential(nn.Linear(4, width, bias=False), nn.Tanh(), nn.Linear(width, 2, bias=False)), batch, 4)
    assert found.activation_peak_bytes == 3 * batch * width * 4 + 8
    assert found.param_bytes == found.trainable_bytes == 4 * (4 * width + width * 2)
    assert found.largest_param == 4 * width


def test_what_backward_does_not_need_is_not_held() -> None:
    """A chain of tanh saves every output; one of additions saves none."""

    class Chain(nn.Module):
        def __init__(self, keep: bool) -> None:
            super().__init__()
            self.start, self.keep = nn.Linear(1, 1000, bias=False), keep

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.start(x)
            for _ in range(10):
                x = torch.tanh(x) if self.keep else x + 1
            return x

    each = 100 * 1000 * 4
    # Ten outputs are saved; the first backward step adds two gradients, the one that came as an expanded scalar.
    assert trace(lambda: Chain(True), 100, 1).activation_peak_bytes // each == 11
    assert trace(lambda: Chain(False), 100, 1).activation_peak_bytes // each == 2


@given(params=st.integers(1, 10**12), world=st.integers(1, 512))
def test_model_states_in_mixed_precision_are_the_papers(params: int, world: int) -> None:
    """Rajbhandari et al. 2020, section 3 and figure 1: (2 + 2 + 12) bytes, divided by the world stage by stage."""
    total = {s: sum(state_bytes(params, stage=s, world=world, precision="bf16").values()) for s in (0, 1, 2, 3)}
    expected = {0: 16 * params, 1: (4 + 12 / world) * params, 2: (2 + 14 / world) * params, 3: 16 / world * params}
    for stage, size in expected.items():
        assert -1e-9 * size <= total[stage] - size <= 16 + 1e-9 * size  # shares are rounded up to whole parameters


@given(params=st.integers(1, 10**10), world=st.integers(1, 64), precision=st.sampled_from(["fp32", "bf16"]))
def test_a_higher_stage_never_holds_more_and_all_ranks_hold_everything(params: int, world: int, precision: str) -> None:
    states = [state_bytes(params, stage=stage, world=world, precision=precision) for stage in (1, 2, 3)]
    sums = [sum(state.values()) for state in states]
    assert sums == sorted(sums, reverse=True)
    whole = sum(state_bytes(params, stage=1, world=1, precision=precision).values())
    assert world * sums[2] >= whole
    if world == 1:
        assert set(sums) == {whole}


@given(st.integers(1, 10**9))
def test_in_fp32_the_plain_engine_holds_weights_gradients_and_two_moments(params: int) -> None:
    expected = {"parameters": 4 * params, "gradients": 4 * params, "optimizer": 8 * params}
    assert state_bytes(params, stage=None, world=1) == expected
    assert state_bytes(params, stage=None, world=1, precision="bf16") == expected  # autocast over fp32 weights
    assert state_bytes(params, stage=0, world=4) == expected
    assert state_bytes(params, stage=1, world=1)["optimizer"] == 12 * params  # a master copy besides


@given(params=st.integers(1, 10**9), largest=st.integers(1, 10**6), world=st.integers(1, 8), bucket=st.integers(1, 10**8))
def test_buffers_are_no_larger_than_what_passes_through_them(params: int, largest: int, world: int, bucket: int) -> None:
    sizes = {s: buffer_bytes(params, min(largest, params), stage=s, world=world, bucket=bucket) for s in STAGES}
    assert sizes[None] == 0
    assert all(0 <= size <= 8 * params for size in sizes.values())
    assert sizes[0] == (4 * min(params, bucket) if world > 1 else 0)


# Plans ----------------------------------------------------------------------------------------------------------------------


def test_a_plan_does_not_depend_on_the_seed_or_on_the_launcher() -> None:
    one, other = experiment("seed=0"), experiment("seed=7", "repeat=2", "launcher.max_parallel=5", "tracker=none")
    assert one.name != other.name
    assert plan_key(one) == plan_key(other)
    assert make_plan(one).as_dict() == make_plan(other).as_dict()
    assert plan_key(experiment("size=2k")) != plan_key(one)


def test_the_parts_of_a_plan_add_up_to_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.planning.plan.base", lambda *_, **__: 10**8)
    for words in (("device=cpu",), ("device=cpu", "engine=zero3", "ranks=2")):
        plan = make_plan(experiment(*words))
        parts = sum(plan.state_bytes.values()) + plan.activation_bytes + plan.buffer_bytes + plan.data_bytes  # type: ignore[operator]
        assert plan.bytes_per_rank == 10**8 + parts + plan.fragmentation_bytes


def test_an_unmeasured_machine_leaves_unknown_what_it_would_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    assert base("torch", 1) is None
    assert not machine().measured
    plan = make_plan(experiment("device=cpu")).as_dict()
    unknown = ("base_bytes", "step_s", "train_s", "node_hours", "fits", "peak_flops_per_rank")
    assert {name: plan[name] for name in unknown} == dict.fromkeys(unknown)
    assert "doctor --prepare" in plan["notes"][0]
    assert plan["params"] == 6165
    assert plan["flops_per_step"] > 0
    assert plan["bytes_per_rank"] > 0
    assert list(tmp_path.iterdir()) == []  # planning alone measures nothing


def test_a_measured_machine_tells_seconds_and_whether_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.planning.machine import _file
    from results.store import write_json

    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    _file("probes").parent.mkdir(parents=True)
    write_json(_file("probes"), PROFILE)
    write_json(_file("engine-torch-1"), ENGINE)
    small, again = make_plan(experiment("device=cpu")), make_plan(experiment("device=cpu", "train.steps=80"))
    assert small.step_s is not None
    assert small.step_s > small.flops_per_step / 1e9  # type: ignore[operator]
    assert small.train_s == pytest.approx(8 * small.step_s)
    assert again.train_s == pytest.approx(10 * small.train_s)
    assert small.fits is True
    write_json(_file("engine-torch-1"), ENGINE | {"base_bytes": 1 << 50})
    huge = make_plan(experiment("device=cpu"))
    assert huge.fits is False
    assert "GiB and this machine has" in huge.notes[-1]


def test_the_largest_published_model_is_planned_without_allocating_it() -> None:
    """32 million parameters are 128 MiB, with gradients and moments 512 MiB; after a small plan has loaded all code, the large
    one adds next to nothing to the peak of the process."""
    code = (
        "import contextlib, io, sys\nfrom harness.cli import main\nfrom harness.meter import host_peak_bytes\n"
        "def plan(size):\n    out = io.StringIO()\n    with contextlib.redirect_stdout(out):\n"
        "        assert main(['plan', 'variant=fno2d', f'size={size}', 'scale=paper', '--json']) == 0\n"
        "    return out.getvalue()\n"
        "plan('5k')\nbefore = host_peak_bytes()\nprint(plan('32M'))\nprint(host_peak_bytes() - before, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert 31e6 < plan["params"] < 33e6
    assert plan["state_bytes"]["parameters"] == 4 * plan["params"] > 100 << 20
    assert int(done.stderr.split()[-1]) < 24 << 20
