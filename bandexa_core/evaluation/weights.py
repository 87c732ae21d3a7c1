"""Whether weights carry an estimate: how many rows they are worth, and whether they average 1."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

AVERAGE_ERRORS = 3.0  # the mean of the weights may be this many standard errors away from 1


@dataclass(frozen=True, slots=True)
class WeightSums:
    """Sums of the weights so far; five numbers.

    Attributes:
        num, positive: How many weights there were, and how many above 0.
        total, squares: Sums of w and of w^2.
        largest: The largest weight.
    """

    num: int = 0
    positive: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, weights: NDArray[np.float64]) -> WeightSums:
        """Return the sums after more weights, (N,)."""
        if not len(weights):
            return self
        return replace(
            self,
            num=self.num + len(weights),
            positive=self.positive + int(np.count_nonzero(weights > 0.0)),
            total=self.total + float(weights.sum()),
            squares=self.squares + float((weights**2).sum()),
            largest=max(self.largest, float(weights.max())),
        )

    @property
    def effective(self) -> float:
        """The effective sample size, (sum w)^2 / sum w^2 (Kish 1965)."""
        return self.total**2 / self.squares if self.squares else 0.0

    @property
    def mean(self) -> float:
        """The mean weight; NaN without rows."""
        return self.total / self.num if self.num else math.nan

    @property
    def mean_error(self) -> float:
        """The standard error of the mean weight; NaN without rows."""
        if not self.num:
            return math.nan
        variance = max(0.0, self.squares / self.num - self.mean**2)
        return math.sqrt(variance / self.num)

    @property
    def average_one(self) -> bool:
        """Whether the mean weight is 1 to within three standard errors, or to rounding.

        Where it is not, the logged propensities are wrong, or the log lacks what the policy would
        choose: no estimate means anything then.
        """
        return abs(self.mean - 1.0) <= AVERAGE_ERRORS * self.mean_error + 1e-9
