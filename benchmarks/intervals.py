"""The ratio of two costs that were measured in pairs, with its confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Ratio(NamedTuple):
    """A ratio of costs and the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def ratio_of_pairs(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Return the geometric mean of the ratios of pairs, and its 95 % interval.

    The logarithms of the ratios are averaged; the interval of their mean follows Student's t
    distribution with one degree of freedom less than there are pairs.

    Raises:
        ValueError: There are fewer than two pairs, or sides of different length.
    """
    if len(above) != len(below) or len(above) < 2:
        raise ValueError("an interval needs two pairs at least")
    logs = np.log(np.asarray(above) / np.asarray(below))
    mean, error = float(logs.mean()), float(logs.std(ddof=1) / np.sqrt(len(logs)))
    reach = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    low, middle, high = np.exp([mean - reach, mean, mean + reach])
    return Ratio(float(middle), float(low), float(high))
