"""The performance model and the latency model against the published tables (invariants 7 and 8)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.scheduling.choosing import Budgeted
from models.piperag.scheduling.fits import least_squares, quantile_line, relative_error
from models.piperag.scheduling.latency import published_pipelined_s, sequential_s, speed_up
from models.piperag.scheduling.predicting import predict
from models.piperag.scheduling.profile import GeneratorProfile, Profile, RetrieverProfile, filled
from models.piperag.scheduling.schedule import Schedule
from results.errors import DataError
from results.published import load_published, of_metric

#: Three billion vectors and an A100, from ``results/published/piperag.csv``.
ROWS = load_published("piperag")
RETRIEVAL_S = {int(row["note"].split(";")[0].split()[1]): row["value"] for row in of_metric(ROWS, "retrieval_s")}
STEPS_S = [row["value"] for row in of_metric(ROWS, "step_s")]  # by 128 positions

PUBLISHED = Profile(
    generator=GeneratorProfile(step_s=tuple(second for second in STEPS_S for _ in range(128)), encoder_s=0.0),
    retriever=RetrieverProfile(nprobe=tuple(RETRIEVAL_S), search_s=tuple((second,) for second in RETRIEVAL_S.values())),
)


def test_the_published_latencies() -> None:
    """1024 tokens, interval 64, nprobe 16: 15.16 s sequential, 9.99 s pipelined, 1.52 times as fast."""
    generation = [PUBLISHED.generator.interval_s(64 * j, 64) for j in range(16)]
    retrieval = RETRIEVAL_S[16]
    sequential, pipelined = sequential_s(generation, [retrieval] * 16), published_pipelined_s(generation, retrieval)
    assert (round(sequential, 2), round(pipelined, 2), round(sequential / pipelined, 2)) == (15.16, 9.99, 1.52)


def test_the_published_regression_and_choices() -> None:
    line = PUBLISHED.retriever.nprobe_on_latency()
    assert (line.slope / 1e3, line.intercept) == (pytest.approx(0.0504535, abs=2e-7), pytest.approx(-0.914055, abs=5e-6))
    chooser = Budgeted(profile=PUBLISHED, overhead_s=0.010)
    assert [chooser(64, 64), chooser(512, 32), chooser(960, 8)] == [21, 13, 3]


@settings(deadline=None)  # the first quantile fit imports its solver
@given(known=st.integers(0, 1023), interval=st.integers(1, 64), overhead=st.floats(0, 1), quantile=st.sampled_from([None, 0.5]))
def test_choices_grow_with_interval_and_length_and_obey_their_clamps(
    known: int, interval: int, overhead: float, quantile: float | None
) -> None:
    chooser = Budgeted(profile=PUBLISHED, overhead_s=overhead, quantile=quantile)
    assert 1 <= chooser(known, interval) <= chooser(known, interval + 1)
    assert chooser(known, interval) <= chooser(known + 128, interval)
    clamped = Budgeted(profile=PUBLISHED, overhead_s=overhead, quantile=quantile, least=3, most=7)
    assert 3 <= clamped(known, interval) <= 7


def test_counting_the_encoder_gives_time() -> None:
    """Neighbours are encoded by the generator while the retriever already works."""
    generator = GeneratorProfile(step_s=PUBLISHED.generator.step_s, encoder_s=0.1)
    profile = Profile(generator=generator, retriever=PUBLISHED.retriever)
    plain, counted = (Budgeted(profile=profile, count_encoder=on) for on in (False, True))
    assert counted(64, 64) == int(plain._inverse(plain.budget_s(64, 64) + 0.1)) > plain(64, 64)


@given(rho=st.floats(0.01, 100), intervals=st.integers(1, 1000))
def test_overlap_alone_is_never_worth_more_than_two(rho: float, intervals: int) -> None:
    assert 1 <= speed_up(rho, intervals) <= min((1 + rho) / max(1, rho), 2) + 1e-12


def test_gains_fade_where_one_side_becomes_much_faster() -> None:
    """Projection: at 16 times the speed of either side pipelining gains less than at rho = 1."""

    def gain(profile: Profile) -> float:
        chooser = Budgeted(profile=profile, least=16, most=16)
        times = [predict(profile, Schedule(name, 64, 64, 1024), chooser).total_s for name in ("sequential", "pipelined")]
        return times[0] / times[1]

    base = gain(PUBLISHED)
    assert gain(PUBLISHED.scaled(retriever=16)) < base
    assert gain(PUBLISHED.scaled(generator=64)) < base
    assert PUBLISHED.scaled(generator=4).generator.step_s[0] == PUBLISHED.generator.step_s[0] / 4


# Fits --------------------------------------------------------------------------------------------------------------------


def test_lines_of_exact_points() -> None:
    x = np.arange(10.0)
    for line in (least_squares(x, 2 + 3 * x), quantile_line(x, 2 + 3 * x, 0.9)):
        assert (line.intercept, line.slope) == (pytest.approx(2), pytest.approx(3))
        assert line.residual == pytest.approx(0, abs=1e-9)
    assert relative_error(least_squares(x, 2 + 3 * x), [1.0, 2.0], [10.0, 16.0]) == pytest.approx(0.5)


@given(quantile=st.sampled_from([0.5, 0.75, 0.9]), seed=st.integers(0, 1000))
def test_a_quantile_lies_above_its_share(quantile: float, seed: int) -> None:
    """Of n points at most a share lies strictly above, and at most the rest strictly below (Koenker and Bassett, theorem 3.4)."""
    draw = np.random.default_rng(seed)
    x = np.repeat([1.0, 2, 4, 8, 16], 8)
    y = 1 + 0.3 * x + draw.exponential(1.0, size=x.shape)
    line = quantile_line(x, y, quantile)
    off = y - line.intercept - line.slope * x
    assert (off > 1e-7).sum() <= (1 - quantile) * len(x) + 2
    assert (off < -1e-7).sum() <= quantile * len(x) + 2


def test_one_point_is_no_line() -> None:
    with pytest.raises(DataError, match="two different points"):
        least_squares([1.0, 1.0], [2.0, 3.0])


# Files -------------------------------------------------------------------------------------------------------------------


def test_profiles_are_read_back(tmp_path: Path) -> None:
    PUBLISHED.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == PUBLISHED


@pytest.mark.parametrize("text", ["{}", '{"schema": 9}', '{"schema": 1, "generator": 3, "retriever": {}, "facts": {}}'])
def test_what_is_no_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(DataError, match="profile"):
        Profile.load(tmp_path / "profile.json")
    with pytest.raises(DataError, match="there is no profile"):
        Profile.load(tmp_path / "other.json")


def test_steps_that_were_not_measured_take_as_long_as_the_first_that_was() -> None:
    assert filled([2.0, 3.0], 4) == (2.0, 2.0, 2.0, 3.0)
