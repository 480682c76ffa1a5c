"""ZeRO-3 with offload trains with torch's Adam: DeepSpeed's own, which compiles C++ at first use, is never asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import torch
from harness.engines import engine_class
from harness.group import Group
from harness.schema import EngineConfig, TrainConfig
from models.system import ParamGroup
group = Group(rank=0, world=1, local_rank=0, device=torch.device("cpu"), joined=False)
engine = engine_class("zero3_offload")(
    config=EngineConfig(name="zero3_offload", stage=3, offload=True), train=TrainConfig(steps=1, global_batch=1, micro_batch=1),
    precision="fp32", group=group, build=lambda: torch.nn.Linear(4, 1),
    groups=lambda model: [ParamGroup(name="all", params=list(model.parameters()))],
    loss=lambda model, batch: model(batch["x"]).square().mean())
before = engine.step([{"x": torch.ones(1, 4)}], 0.1).loss
after = engine.step([{"x": torch.ones(1, 4)}], 0.1).loss
assert after != before
print(type(engine._engine.optimizer.optimizer).__module__, flush=True)
"""


def test_offload_compiles_nothing(tmp_path: Path) -> None:
    """With an empty folder of extensions and neither compiler nor ninja on the path."""
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path), "PATH": "/nowhere", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "torch.optim.adam"
    assert list(tmp_path.iterdir()) == []
