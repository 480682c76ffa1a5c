"""The synthetic study, written once; tests that change files write their own."""

from __future__ import annotations

from typing import Any

import pytest

from results.analysis import analyse
from results.rows import collect_rows
from tests.results.fixtures import Synthetic, fake_study

CLAIMS = [
    {
        "claim": "fno2d-beats-persistence", "scale": "small", "statement": "FNO2D stays below 0.6 x persistence",
        "source": "synthetic",
        "verdict": "holds", "effect": 0.36, "low": 0.31, "high": 0.41, "bound": 0.6, "detail": "3 seeds at 50k",
    },
    {
        "claim": "too-few", "scale": "small", "statement": "Nothing is known & <b>nothing</b> is hidden", "source": "synthetic",
        "verdict": "cannot_tell", "effect": None, "low": None, "high": None, "bound": None, "detail": "too few sizes",
    },
]  # fmt: skip


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return fake_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def rows(study: Synthetic) -> list[dict[str, Any]]:
    return collect_rows(study.runs, index=study.index)


@pytest.fixture(scope="session")
def analysis(study: Synthetic, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return analyse(study.index, rows, study.runs, CLAIMS)
