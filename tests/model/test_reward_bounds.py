"""The bounds that values are clipped to: closed forms, and rewards of the usual kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bandexa_core.ids import ActionSlot, DecisionId, LogPosition
from bandexa_core.log.bounds import (
    LEAST,
    MEMORY,
    UNBOUNDED,
    WINDOW,
    Bounds,
    RewardBounds,
    clip,
)
from bandexa_core.log.rows import LearnRow

VALUES = st.floats(-1e20, 1e20)


def closed_form(values: list[float]) -> Bounds:
    """Return the bounds of the next value as their definition says them."""
    if len(values) < LEAST:
        return UNBOUNDED
    median = float(np.median(values[-WINDOW:]))
    distance = float(np.sort(np.abs(np.array(values[-MEMORY:]) - median))[-3])
    if distance <= 1e-12 * abs(median):
        return UNBOUNDED
    return Bounds(median - 2.0 * distance, median + 2.0 * distance)


def learned(values: list[float]) -> list[float]:
    """Return what is learned for values that are reported one after the other."""
    bounds = RewardBounds()
    return [clip(value, *bounds.take(value)) for value in values]


def test_a_value_is_clipped_to_the_bound_that_it_is_beyond() -> None:
    assert [clip(value, -1.0, 2.0) for value in (-5.0, -1.0, 0.5, 2.0, 1e4)] == [
        -1.0, -1.0, 0.5, 2.0, 2.0,
    ]  # fmt: skip
    assert clip(1e4, None, None) == 1e4


def test_bounds_are_twice_the_third_largest_distance_from_the_median() -> None:
    values = [float(value) for value in range(17)]  # median 8; distances 8, 8, 7, 7, ...
    assert RewardBounds(values=values).current() == (8.0 - 2 * 7.0, 8.0 + 2 * 7.0)
    even = [*values, 17.0]  # median 8.5; distances 8.5, 8.5, 7.5, ...
    assert RewardBounds(values=even).current() == (8.5 - 2 * 7.5, 8.5 + 2 * 7.5)


def test_a_value_does_not_count_for_its_own_bounds() -> None:
    bounds = RewardBounds(values=[0.0, 1.0] * 8)
    assert bounds.take(1e4) == (0.5 - 1.0, 0.5 + 1.0)


def test_there_are_no_bounds_before_sixteen_values() -> None:
    bounds = RewardBounds(reward_range=(0.0, 1.0))
    assert {bounds.take(float(n % 3)) for n in range(16)} == {UNBOUNDED}
    assert bounds.current() != UNBOUNDED


@pytest.mark.parametrize("value", [0.0, 1.0, 1000.0, 0.1])
def test_equal_values_have_no_bounds(value: float) -> None:
    assert RewardBounds(values=[value] * 50).current() == UNBOUNDED
    nearly = [value] * 50 + [np.nextafter(value, 2e3)] * 5 if value else []
    assert RewardBounds(values=nearly).current() == UNBOUNDED, "that is rounding"


@pytest.mark.parametrize("rate", [0.001, 0.004, 0.02, 0.3, 0.5, 0.97])
def test_clicks_are_never_clipped(rate: float) -> None:
    for seed in range(5):
        clicks = (np.random.default_rng(seed).random(3000) < rate).astype(float).tolist()
        assert learned(clicks) == clicks


def test_purchases_with_a_long_tail_are_hardly_clipped() -> None:
    """Money of 0 to 350, where most visits bring nothing."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        money = np.minimum(350.0, rng.lognormal(3.0, 1.0, 3000)) * (rng.random(3000) < 0.1)
        clipped = np.array(learned(money.tolist()))
        assert (clipped != money).mean() < 0.006
        assert clipped.sum() > 0.95 * money.sum()


@pytest.mark.parametrize("outlier", [1e4, -1e4, 1e20])
def test_one_or_two_wrong_values_are_clipped_and_move_no_bound(outlier: float) -> None:
    usual = np.random.default_rng(0).random(100).round(3).tolist()
    bounds = RewardBounds(values=usual)
    before = bounds.current()
    for _ in range(2):
        low, high = bounds.take(outlier)
        assert -1.5 <= clip(outlier, low, high) <= 2.5
    after = bounds.current()
    assert after == pytest.approx(before, abs=0.1)


def test_the_third_large_value_widens_the_bounds() -> None:
    values = [*np.random.default_rng(0).random(100).tolist(), 50.0, 60.0, 70.0, 80.0]
    assert [value == after for value, after in zip(values, learned(values), strict=True)][-4:] == [
        False, False, False, True,
    ]  # fmt: skip


def test_a_declared_range_widens_the_bounds_by_its_width_on_each_side() -> None:
    values = [0.4, 0.5, 0.6] * 10
    assert RewardBounds((0.0, 1.0), values).current() == (-1.0, 2.0)
    assert RewardBounds((0.4, 0.5), values).current() == pytest.approx((0.3, 0.7)), "of the values"
    assert RewardBounds((5, 6), values).current() == pytest.approx((0.3, 7.0))


@pytest.mark.few(1)
@pytest.mark.parametrize("rate", [0.002, 0.004, 0.01])
def test_rare_purchases_are_learned_as_they_are_from_the_fourth_on(rate: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        bought = rng.random(20_000) < rate
        values = (rng.random(20_000) < 0.3) + 99.0 * bought
        clipped = np.array(learned(values.tolist())) != values
        assert clipped.sum() <= 3
        assert not clipped[np.flatnonzero(bought)[3:]].any()


def test_distant_values_count_among_so_many_and_then_no_more() -> None:
    bounds = RewardBounds(values=[0.0, 1.0] * 8)
    usual = bounds.current()
    for unusual in (100.0, 200.0, 300.0):
        bounds.take(unusual)
        for number in range(WINDOW):
            bounds.take(float(number % 2))
    assert bounds.current() == (0.5 - 2 * 99.5, 0.5 + 2 * 99.5)
    for number in range(MEMORY):
        bounds.take(float(number % 2))
    assert bounds.current() == usual


@given(st.lists(st.sampled_from([0.0, 1.0, -3.0, 0.1, 1e16]) | VALUES, max_size=80))
def test_the_bounds_are_those_of_the_definition_at_every_value(values: list[float]) -> None:
    bounds = RewardBounds()
    for number, value in enumerate(values):
        np.testing.assert_allclose(
            np.array(bounds.take(value), float), np.array(closed_form(values[:number]), float),
            rtol=1e-9,
        )  # fmt: skip


def test_the_bounds_of_a_long_stream_are_those_of_the_definition() -> None:
    values = np.random.default_rng(1).standard_t(2.0, 3 * WINDOW).round(2).tolist()
    values[100] = values[900] = 1e5
    bounds = RewardBounds()
    for number, value in enumerate(values):
        found = bounds.take(value)
        expected = closed_form(values[:number])
        np.testing.assert_allclose(np.array(found, float), np.array(expected, float))


def test_a_correction_is_learned_under_the_bounds_of_its_row() -> None:
    nothing = np.zeros(0, np.float32)
    row = LearnRow(
        LogPosition(9), 0.0, DecisionId("d"), LogPosition(3), 1e4, 0.25, nothing, nothing,
        ActionSlot(0), -1.0, 2.0,
    )  # fmt: skip
    assert (row.before, row.after) == (1e4, 0.25)
    assert (row.learned_before, row.learned) == (2.0, 0.25)
    first = replace(row, before=None, after=-7.0)
    assert (first.learned_before, first.learned) == (None, -1.0)
