"""Whether contexts still suit their scale: counted row by row, and the same however grouped."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.features.robust import scale_of
from bandexa_core.features.scaling import InputScaling
from bandexa_core.features.watch import BLOCK, Extremes, InputWatch


def _watch(rows) -> InputWatch:
    scale = scale_of(rows)
    assert scale is not None
    scaling = InputScaling.identity((rows.shape[1],), 0).updated(len(rows), scale, None)
    return InputWatch(scaling, Extremes())


@pytest.fixture
def rows():
    made = np.random.default_rng(0).normal(size=(500, 3))
    made[:, 2] = 7.0
    return made


def test_rows_like_those_before_change_nothing(rows):
    watch = _watch(rows)
    watch.see(list(rows))
    assert (watch.changed, watch.num_rows) == (False, 500)
    assert watch.extremes.columns == {}


def test_a_share_of_codes_for_missing_that_was_there_before_is_no_change(rows):
    rows[::10, 1] = -999.0
    watch = _watch(rows)
    watch.see(list(rows))
    assert not watch.changed
    assert watch.extremes.columns == {1: (50, -999.0)}
    assert watch.extremes.num_rows == 500


def test_another_unit_is_a_change_after_16_rows_beyond_the_bound(rows):
    watch = _watch(rows)
    rows[:, :2] = np.where(rows[:, :2] > 0.0, 1000.0, -1000.0)
    watch.see(list(rows[:15]))
    assert not watch.changed
    watch.see(list(rows[15:16]))
    assert watch.changed


def test_a_constant_that_goes_live_is_a_change_within_4_rows(rows):
    watch = _watch(rows)
    live = rows[:4] + np.array([0.0, 0.0, 50.0])
    watch.see(list(live[:3]))
    assert not watch.changed
    watch.see(list(live[3:]))
    assert watch.changed


def test_a_single_outlier_is_no_change_but_is_known(rows):
    watch = _watch(rows)
    rows[17, 0] = 1e6
    watch.see(list(rows))
    assert not watch.changed
    assert watch.extremes.columns == {0: (1, 1e6)}


@pytest.mark.parametrize("size", [1, 7, BLOCK, 500])
def test_the_grouping_of_rows_does_not_matter(rows, size):
    rows[130:141, 1] = 1e4  # too few in their block
    rows[300:316, 1] = 1e4
    watch, changed_at = _watch(rows[:100]), None
    for first in range(0, 500, size):
        watch.see(list(rows[first : first + size]))
        if watch.changed and changed_at is None:
            changed_at = first + size
    assert changed_at is not None
    assert changed_at == -(-316 // size) * size
    going_on = watch.copy()
    going_on.see(list(rows))
    assert (watch.num_rows, going_on.num_rows) == (500, 1000)


def test_without_a_scale_nothing_is_watched(rows):
    for scaling in (None, InputScaling.identity((3,), 0)):
        watch = InputWatch(scaling, Extremes())
        watch.see(list(rows * 1e9))
        assert (watch.changed, watch.num_rows) == (False, 500)
