"""Tables in all formats, their numbers, and the summary over seeds."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import scipy.stats

from results.errors import ConfigError
from results.rows import select
from results.tables import number, render, summarise
from tests.results.fixtures import Synthetic

Rows = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (float("nan"), "-"), (0, "0"), (0.0, "0"), (1.0, "1"), (48701, "48,701"), (0.12345, "0.123"),
        (12.345, "12.3"), (123.45, "123"), (1.9999, "2.00"), (0.00001234, "1.23e-05"), (3.5e12, "3.50e+12"),
        (-0.0456, "-0.0456"), (0.99, "0.990"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_json_is_exactly_the_rows(rows: Rows) -> None:
    assert json.loads(render(rows, "json")) == rows


def test_text_is_aligned_and_says_why_a_run_has_no_numbers(rows: Rows, study: Synthetic) -> None:
    lines = render(rows, "text", index=study.index).splitlines()
    assert len(lines) == 2 + len(rows)
    starts = [i for i, char in enumerate(lines[1]) if char == "-" and (i == 0 or lines[1][i - 1] == " ")]
    assert len(starts) == len(lines[1].split())
    for line in lines:
        assert all(i == 0 or i > len(line) or line[i - 1] == " " for i in starts), "a cell crosses its column"
    (failed,) = [line for line in lines if "failed (oom-host)" in line]
    assert failed.split()[-1] == "1", "shared with one other run"
    assert "peak [GiB]" in lines[0]
    assert "step [s]" in lines[0]
    assert "TFNO2D (Tucker)" in render(rows, "text", index=study.index)


def test_default_columns_adapt(rows: Rows) -> None:
    grid = select(rows, {"stage": "engines"})
    head = render(grid, "text").splitlines()[0].split()
    assert "stage" not in head, "one stage needs no column"
    assert "shared" not in head
    again = [{**row, "attempts": 3, "repeat": 1, "system": name} for row, name in zip(grid, "abcde", strict=True)]
    head = render(again, "text").splitlines()[0].split()
    assert {"tries", "repeat", "system"} <= set(head)


def test_chosen_metrics_and_csv_keep_full_precision(rows: Rows) -> None:
    found = list(csv.DictReader(io.StringIO(render(rows, "csv", metrics=["rmse", "params"]))))
    assert len(found) == len(rows)
    for line, row in zip(found, rows, strict=True):
        assert line["rmse"] == ("" if row["status"] == "failed" else repr(row["metrics"]["rmse"]))
    assert "peak [GiB]" not in found[0]


def test_markdown_and_latex_escape(rows: Rows) -> None:
    index = {"variants": {"fno2d": "F|N_O & 50% {\\x}^~"}}
    some = select(rows, {"variant": "fno2d", "size": "2k"})
    markdown = render(some, "md", index=index).splitlines()
    assert markdown[2].startswith("| F\\|N_O & 50% ")
    assert len({line.replace("\\|", "").count("|") for line in markdown}) == 1
    latex = render(some, "tex", index=index)
    assert r"F|N\_O \& 50\% \{\textbackslash{}x\}\textasciicircum{}\textasciitilde{} &" in latex
    assert latex.index(r"\toprule") < latex.index(r"\midrule") < latex.index(r"\bottomrule")


def test_empty_table_and_unknown_format(rows: Rows) -> None:
    assert render([], "json") == "[]"
    assert len(render([], "text").splitlines()) == 2
    with pytest.raises(ConfigError, match="html"):
        render(rows, "html")


def test_summary_is_the_mean_over_seeds_with_students_interval(rows: Rows, study: Synthetic) -> None:
    groups = summarise(rows)
    assert sum(group["runs"] for group in groups) == len(rows)
    (group,) = [g for g in groups if (g["variant"], g["size"], g["stage"]) == ("fno2d", "50k", "grid")]
    values = [row["metrics"]["rmse"] for row in select(rows, {"variant": "fno2d", "size": "50k", "stage": "grid"})]
    low, high = scipy.stats.t.interval(0.95, 2, sum(values) / 3, scipy.stats.sem(values))
    assert group["metrics"]["rmse"] == pytest.approx({"mean": sum(values) / 3, "low": low, "high": high, "n": 3})
    (short,) = [g for g in groups if (g["variant"], g["size"]) == ("convlstm", "50k")]
    assert (short["runs"], short["completed"]) == (2, 1)
    assert short["metrics"]["rmse"]["low"] is None
    text = render(rows, "text", summary=True, index=study.index)
    assert "1/2" in text
    assert json.loads(render(rows, "json", summary=True)) == groups
