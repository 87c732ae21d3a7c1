"""A linear model predicts better from fitted rows than from the first, hashed ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.schema import Encoding, Features, fit
from tests.schema.tables import rows, value_of

AUTO = Features(auto=True)
Array64 = NDArray[np.float64]
NOISE = 0.5


def _error(encoding: Encoding, num: int, seed: int) -> float:
    """Return the mean squared error of ridge regression, relative to that of the mean."""
    rng = np.random.default_rng(seed)
    known, asked = rows(num, seed), rows(1000, seed + 1000)
    x, y = encoding.encode(known).astype(float), np.array(list(map(value_of, known)))
    truth = np.array(list(map(value_of, asked)))
    y = y + NOISE * rng.normal(size=num)
    predicted = _ridge(x, y - y.mean(), encoding.encode(asked).astype(float)) + y.mean()
    return float(((predicted - truth) ** 2).mean() / truth.var())


def _ridge(x: Array64, y: Array64, at: Array64) -> Array64:
    mean = x.mean(axis=0)
    gram = (x - mean).T @ (x - mean) + NOISE**2 * np.eye(x.shape[1]) / 0.3
    weights: Array64 = np.linalg.solve(gram, (x - mean).T @ y)
    predicted: Array64 = (at - mean) @ weights
    return predicted


@pytest.mark.few(1)
@pytest.mark.parametrize(("num", "share"), [(300, 0.75), (1500, 0.5)])
def test_fitted_rows_predict_better_than_hashed_ones(num, share):
    fitted, first = [], []
    for seed in range(3):
        fitted.append(_error(fit(AUTO, rows(num, seed)), num, seed))
        first.append(_error(Encoding.initial(AUTO), num, seed))
    assert np.mean(fitted) < share * np.mean(first)
    assert np.mean(first) < 1.0
