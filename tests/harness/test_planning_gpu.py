"""Plans for a GPU against peaks that were measured on one: ``gpu_peaks.csv``, whose head holds the command."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.compose import Composer
from harness.planning.autocast import autocast_on_meta
from harness.planning.plan import make_plan
from harness.planning.trace import trace_step
from models.layers.precision import full_precision

LINES = (Path(__file__).parent / "gpu_peaks.csv").read_text().splitlines()
ROWS = list(csv.DictReader(line for line in LINES if not line.startswith("#")))
META = torch.device("meta")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(list(row.values())[:6]))
def test_planned_peaks_are_within_5_per_cent_of_measured_ones(row: dict[str, str]) -> None:
    """ZeRO-3 with offload keeps more on the device than its buckets: 15 per cent below. PipeRAG's base is planned 6 above."""
    words = [
        "scale=paper",
        "device=cuda",
        f"system={row['system']}",
        f"variant={row['variant']}",
        f"size={row['size']}",
        f"precision={row['precision']}",
    ]
    words += [f"engine={row['engine']}", *(["train.global_batch=1"] if "mesh" in row["variant"] else [])]
    words += ["train.global_batch=2"] if row["system"] == "piperag" else []
    with Composer() as composer:
        plan = make_plan(composer.compose(words), gpu=row["gpu"])
    measured = float(row["peak_gib"]) * 2**30
    assert plan.bytes_per_rank == pytest.approx(
        measured, rel={"zero3_offload": 0.16}.get(row["engine"], 0.065 if row["system"] == "piperag" else 0.05)
    )
    assert plan.fits


# Autocast on meta tensors -----------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 8), nn.LayerNorm(8), nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.first(x)
        found = {"linear": first, "add": first + x.sum(), "relu": first.relu(), "norm": self.norm(first)}
        found["matmul"] = x @ x.mT
        found["einsum"] = torch.einsum("bij,bkj->bik", x, x)
        found["conv"] = self.second(first.mT)
        with full_precision(x.device):
            found["kept"] = x @ x.mT
        return found


def test_types_are_those_of_autocast() -> None:
    """A CPU's autocast decides alike on everything but normalisation."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = {name: value.dtype for name, value in Mixed()(torch.randn(2, 3, 4)).items()}
    with META:
        model, x = Mixed(), torch.randn(2, 3, 4)
    with autocast_on_meta():
        found = {name: value.dtype for name, value in model(x).items()}
        assert (torch.softmax(found_half := x.bfloat16(), -1).dtype, found_half.sum().dtype) == (torch.float32, torch.float32)
        assert nn.functional.mse_loss(found_half, found_half).dtype == torch.float32
        assert torch.mm(x[0], x[0].mT, out=torch.empty(3, 3, device=META)).dtype == torch.float32
    assert found == expected | {"norm": torch.float32}
    assert model(x)["linear"].dtype == torch.float32  # nothing is left behind


def test_weights_are_cast_once() -> None:
    """A layer used three times: one copy of its weight in bf16, and what goes in and comes out cast every time."""
    weight = 64 * 64

    def copies(**precision: bool) -> tuple[int, int]:
        """Casts of something as large as the weight, forward and backward."""
        found = trace_step(
            lambda: nn.Linear(64, 64, bias=False),
            lambda: {"x": torch.zeros(8, 64)},
            lambda m, batch: m(m(m(batch["x"]))).sum(),
            **precision,
        ).calls
        casts = {call: count for call, count in found.items() if call.name == "_to_copy" and call.moved_bytes == 6 * weight}
        return tuple(sum(n for call, n in casts.items() if call.backward is back) for back in (False, True))  # type: ignore[return-value]

    assert copies() == (0, 0)
    assert copies(autocast=True) == (1, 1)  # backward: the gradient of the copy becomes that of the weight
    assert copies(autocast=True, half_weights=True) == (0, 0)
