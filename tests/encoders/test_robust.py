"""Scales of features: plain moments of ordinary columns, and what extreme values cannot do."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.features.robust import NEVER, scale_now, scale_of

Array64 = NDArray[np.float64]
NUM = 1000


def _column(values: Array64) -> Array64:
    return values[:, None]


def _ordinary() -> dict[str, Array64]:
    rng = np.random.default_rng(0)
    return {
        "normal": rng.normal(3.0, 2.0, NUM),
        "uniform": rng.uniform(-5.0, 1.0, NUM),
        "binary": (rng.random(NUM) < 0.4).astype(np.float64),
        "sparse": (rng.random(NUM) < 0.01).astype(np.float64),
        "dense": (rng.random(NUM) < 0.97).astype(np.float64),
        "counts": rng.poisson(0.2, NUM).astype(np.float64),
        "levels": rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], NUM, p=[0.02, 0.03, 0.8, 0.1, 0.05]),
    }


@pytest.mark.parametrize("name", _ordinary())
@pytest.mark.parametrize("weighted", [False, True])
def test_ordinary_columns_have_their_plain_mean_and_deviation(name, weighted):
    values = _ordinary()[name]
    weights = np.random.default_rng(1).uniform(0.1, 1.0, NUM) if weighted else None
    found = scale_of(_column(values), weights)
    assert found is not None
    mean = np.average(values, weights=weights)
    variance = np.average((values - mean) ** 2, weights=weights)
    assert found.mean[0] == pytest.approx(mean, rel=1e-12)
    assert found.std[0] == pytest.approx(variance**0.5, rel=1e-12)
    assert (found.bound[0], found.far[0]) == (10.0, 30.0)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.15])
@pytest.mark.parametrize("wrong", [-999.0, 1e6, -1e30])
def test_far_values_in_a_share_of_the_rows_leave_the_scale_of_the_others(share, wrong):
    values = _ordinary()["normal"]
    values[: int(share * NUM)] = wrong
    rest = values[int(share * NUM) :]
    found = scale_of(_column(values))
    assert found is not None
    assert found.mean[0] == pytest.approx(rest.mean(), rel=1e-9)
    assert found.std[0] == pytest.approx(rest.std(), rel=1e-9)
    assert found.far[0] == 30.0
    assert found.clipped[0] == pytest.approx(share)


def test_a_second_kind_of_value_in_a_quarter_of_the_rows_is_no_error():
    """Else two kinds of customers would be one and a missing value."""
    rng = np.random.default_rng(2)
    values = np.where(rng.random(NUM) < 0.24, 100.0, 0.0) + 0.1 * rng.normal(size=NUM)
    found = scale_of(_column(values))
    assert found is not None
    assert found.far[0] == NEVER
    assert 10.0 * found.std[0] < 99.0  # it is clipped


@pytest.mark.parametrize("num", [8, 16, 31])
def test_one_value_of_a_few_rows_does_not_own_the_scale_either(num):
    values = np.random.default_rng(num).normal(size=num)
    plain = scale_of(_column(values[1:]))
    values[0] = 1e6
    found = scale_of(_column(values))
    assert plain is not None
    assert found is not None
    assert found.std[0] == pytest.approx(plain.std[0], rel=1e-9)
    assert found.far[0] == 30.0


def test_rows_without_weight_and_rows_that_are_not_finite_do_not_count():
    values = np.array([[1.0], [5.0], [100.0], [np.nan], [np.inf]])
    found = scale_of(values, np.array([0.5, 0.5, 0.0, 1.0, 1.0]))
    assert found is not None
    assert (found.mean[0], found.std[0]) == (3.0, 2.0)
    assert scale_of(values, np.zeros(5)) is None
    assert scale_of(np.zeros((0, 2))) is None
    empty = scale_of(np.zeros((3, 0)))
    assert empty is not None
    assert empty.mean.shape == (0,)


@pytest.mark.parametrize("live", [1, 4, 64, 256])
def test_a_feature_that_goes_live_is_scaled_by_its_distance_from_what_it_was(live):
    rng = np.random.default_rng(3)
    values = np.zeros(2000)
    values[-live:] = rng.normal(100.0, 30.0, live)
    found = scale_now(_column(values), None, 256)
    assert found is not None
    assert found.mean[0] == 0.0
    assert found.std[0] == pytest.approx(np.mean(values[-live:] ** 2) ** 0.5, rel=1e-9)


def test_a_feature_that_changes_its_unit_is_scaled_by_its_newest_rows():
    values = np.random.default_rng(4).normal(size=2000)
    values[-256:] *= 1000.0
    found = scale_now(_column(values), None, 256)
    assert found is not None
    assert found.std[0] == pytest.approx(np.mean(values[-256:] ** 2) ** 0.5, rel=0.02)


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_codes_for_missing_among_the_newest_rows_change_nothing(share):
    rng = np.random.default_rng(6)
    values = np.where(rng.random(NUM) < share, -999.0, rng.normal(size=NUM))
    found, whole = scale_now(_column(values), None, 250), scale_of(_column(values))
    assert found is not None
    assert whole is not None
    assert (found.mean[0], found.std[0], found.far[0]) == (whole.mean[0], whole.std[0], 30.0)


@pytest.mark.parametrize("name", _ordinary())
def test_newest_rows_like_the_others_change_nothing(name):
    values = _ordinary()[name]
    found, whole = scale_now(_column(values), None, 250), scale_of(_column(values))
    assert found is not None
    assert whole is not None
    if name != "sparse":  # a burst of a rare value may look like news
        assert found.std[0] == whole.std[0]
    assert found.mean[0] == whole.mean[0]


def test_a_normal_column_in_thousands_of_rows_is_far_from_the_bounds():
    values = np.random.default_rng(5).normal(size=(4096, 20))
    found = scale_of(values)
    assert found is not None
    assert not found.clipped.any()
    assert not found.is_extreme(values).any()
    assert found.is_extreme(np.full((1, 20), 40.0)).all()
