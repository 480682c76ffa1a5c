"""results/published/dlwp.csv and dlwp_weather.csv hold every row of the paper's tables, once, with counts that the models really
have."""

from __future__ import annotations

from collections import Counter

from models.dlwp.config import CATALOGUE
from models.dlwp.weather.config import CATALOGUE as WEATHER_CATALOGUE
from results.published import load_published, of_metric

ROWS = load_published("dlwp")
WEATHER = load_published("dlwp_weather")


def value(experiment: str, variant: str, budget: str, metric: str = "rmse") -> float:
    found = [
        row["value"]
        for row in ROWS
        if (row["experiment"], row["variant"], row["budget"], row["metric"]) == (experiment, variant, budget, metric)
    ]
    assert len(found) == 1
    return float(found[0])


def test_rows_by_table() -> None:
    assert Counter((row["experiment"], row["metric"]) for row in ROWS) == {
        ("exp1", "rmse"): 57,
        ("exp2", "rmse"): 30,
        ("exp3", "rmse"): 32,
        ("exp1", "gpu_memory_mb"): 51,
        ("exp1", "epoch_s"): 52,
    }
    assert Counter(row["metric"] for row in WEATHER) == {
        "gpu_memory_mb": 101,
        "epoch_s": 101,
        "rmse_z500_72h": 6,
        "rmse_z500_120h": 5,
    }


def test_no_row_twice_and_all_values_positive() -> None:
    keys = [(row["experiment"], row["variant"], row["budget"], row["metric"]) for row in [*ROWS, *WEATHER]]
    assert len(keys) == len(set(keys))
    assert all(row["value"] > 0 for row in ROWS)
    assert {row["unit"] for row in ROWS} == {"1", "MB", "s"}


def test_headline_numbers() -> None:
    assert value("exp1", "persistence", "") == 0.5993
    assert value("exp2", "persistence", "") == 1.2022
    assert value("exp1", "fno2d", "8M") == 0.0041
    assert value("exp3", "fno2d", "16M") == 0.1210
    assert value("exp1", "fno2d", "8M", "gpu_memory_mb") == 10646
    (graphcast,) = [row for row in WEATHER if (row["variant"], row["budget"], row["metric"]) == ("graphcast", "50k", "epoch_s")]
    assert graphcast["value"] == 25.1
    best = min((row for row in of_metric(ROWS, "rmse") if row["experiment"] == "exp1"), key=lambda row: row["value"])
    assert (best["variant"], best["published_as"]) == ("fno2d", "TFNO2D L4")


def test_budgets_are_met_where_the_label_is_not_a_lie() -> None:
    """Counts lie within 40 % of the label, and grow with it."""
    for row in ROWS:
        if row["params"] is not None:
            label = float(row["budget"][:-1]) * {"k": 1e3, "M": 1e6}[row["budget"][-1]]
            assert 0.6 < row["params"] / label < 1.45, row
    for variant in {row["variant"] for row in ROWS}:
        counts = [row["params"] for row in of_metric(ROWS, "rmse") if row["variant"] == variant and row["experiment"] == "exp1"]
        known = [count for count in counts if count is not None]
        assert known == sorted(known)


def test_notes() -> None:
    notes = {(row["experiment"], row["variant"], row["budget"]): row["note"] for row in of_metric(ROWS, "rmse")}
    assert notes["exp1", "unet", "5k"] == "collapsed-to-persistence"
    assert notes["exp1", "convlstm", "2M"] == "clipped; diverged"
    assert notes["exp1", "fourcastnet", "8M"] == "clipped"
    assert notes["exp2", "unet", "50k"] == ""


def test_variants_of_the_catalogue_have_rows() -> None:
    costed = {row["variant"] for row in WEATHER if row["metric"] == "epoch_s"}
    assert costed <= {variant.name for variant in WEATHER_CATALOGUE.variants}
    published = {row["variant"] for row in ROWS if row["experiment"] == "exp1"}
    assert {variant.name for variant in CATALOGUE.variants} - published <= {"tfno2d", "meshgraphnet"}  # both are ours
