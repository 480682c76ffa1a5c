"""The arrows of the house, and that fast commands stay fast because they import nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.results.fixtures import fake_study

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "results": {"results"},
    "launchers": {"launchers", "results"},
    "models": {"models", "results"},
    "harness": {"harness", "models", "launchers", "results"},
}
FLOORS = set(MAY_IMPORT)


def imported(path: Path) -> set[str]:
    """Floors that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found & FLOORS


@pytest.mark.parametrize("floor", sorted(FLOORS))
def test_imports_point_down(floor: str) -> None:
    for path in (ROOT / floor).rglob("*.py"):
        assert imported(path) <= MAY_IMPORT[floor], path


def test_only_the_contract_of_systems_names_no_harness_library() -> None:
    """Systems know neither Slurm, Hydra, W&B nor DeepSpeed."""
    for path in (ROOT / "models").rglob("*.py"):
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
        }
        assert not names & {"submitit", "hydra", "omegaconf", "wandb", "deepspeed"}, path


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], {"torch", "numpy", "hydra", "xarray", "wandb", "deepspeed", "yaml"}),
        (["status"], {"torch", "numpy", "hydra", "xarray", "wandb", "deepspeed"}),
        (["table"], {"torch", "hydra", "xarray", "zarr", "wandb", "deepspeed"}),
        (["plan", "--help"], {"torch", "hydra", "wandb", "deepspeed"}),
    ],
)
def test_fast_commands_import_nothing_heavy(words: list[str], absent: set[str], tmp_path: Path) -> None:
    fake_study(tmp_path, whole=False)  # rows to read, or nothing would be imported anyway
    code = (
        "import sys\nfrom harness.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    loaded = set(done.stdout.rsplit("MODULES", 1)[1].split())
    assert not loaded & absent
