"""Published rows: whatever files there are parse, name their source and hold the numbers that the papers print."""

from __future__ import annotations

import importlib.resources

import pytest

from results.errors import ResultError
from results.published import COLUMNS, load_published, of_metric, parse, published_size

HEAD = ",".join(COLUMNS) + "\n"
FILES = sorted(
    path.name.removesuffix(".csv")
    for path in (importlib.resources.files("results") / "published").iterdir()
    if path.name.endswith(".csv")
)


@pytest.mark.parametrize("system", FILES)
def test_every_value_has_a_source(system: str) -> None:
    rows = load_published(system)
    assert rows
    for row in rows:
        assert row["system"] == system
        assert row["source"], row
        assert row["metric"], row


def test_numbers_blanks_and_quotes() -> None:
    text = (
        HEAD
        + 'dlwp,exp1,fno2d,TFNO2D,50k,52000,rmse,0.0139,1,"a, b",arXiv 2407.14129\ndlwp,exp1,swin,,4M,,rmse,,1,not run,same\n'
    )
    full, blank = parse(text)
    assert (full["params"], full["value"], full["note"]) == (52000.0, 0.0139, "a, b")
    assert (blank["params"], blank["value"]) == (None, None)
    assert of_metric([full, blank], "rmse") == [full]
    assert of_metric([full], "acc") == []


@pytest.mark.parametrize(
    ("params", "budget", "size"),
    [
        (52196.0, "50k", 52196.0),
        (None, "500k", 5e5),
        (None, "2M", 2e6),
        (None, "1.5M", 1.5e6),
        (None, "", None),
        (None, "small", None),
    ],
)
def test_size_of_a_published_row(params: float | None, budget: str, size: float | None) -> None:
    assert published_size({"params": params, "budget": budget}) == size


def test_errors_name_file_and_line() -> None:
    with pytest.raises(ResultError, match="is not a number") as caught:
        parse(HEAD + "s,e,v,p,b,1,m,1.0,u,n,x\ns,e,v,p,b,1,m,one,u,n,x\n", where="published/s.csv")
    assert caught.value.where == "published/s.csv:3 (value)"
    with pytest.raises(ResultError, match="column 'source'"):
        parse(HEAD.replace(",source", ""))


def test_a_system_without_file_has_no_rows() -> None:
    assert load_published("no_such_system") == []
