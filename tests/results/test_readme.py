"""The example of the floor's guide runs, and the guide names every file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.results.fixtures import fake_study

FLOOR = Path(__file__).resolve().parents[2] / "results"
GUIDE = (FLOOR / "README.md").read_text()


def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert (names["best"]["variant"], names["best"]["size"]) == ("fno2d", "200k")
    assert len(names["fits"]) == 5


def test_every_file_is_named() -> None:
    missing = [path.name for path in FLOOR.glob("*.py") if path.name != "__init__.py" and f"`{path.name}`" not in GUIDE]
    assert missing == []
