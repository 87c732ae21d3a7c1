"""A lower bound of a constant mean in closed form: predictable plug-in empirical Bernstein.

With bets lambda_t and guesses g_t that are made before value xi_t,

    L_t = (sum lambda_i xi_i - ln(1/alpha) - sum psi(lambda_i) (xi_i - g_i)^2) / sum lambda_i
    psi(lambda) = -ln(1 - lambda) - lambda
    lambda_t = min(sqrt(2 ln(1/alpha) / (var_{t-1} t ln(1 + t))), 1/2)

with var the running variance, started at 1/4. Values are at least 0. The bets weigh the values, so
that it is a bound of a mean only while that is constant: a fixed policy in a world that stays.

Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024
(theorem 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_LARGEST_BET = 0.5


class HasSums(Protocol):
    """What running means and variances are made of."""

    @property
    def num(self) -> int:
        """How many values there were."""

    @property
    def total(self) -> float:
        """Their sum."""

    @property
    def deviation(self) -> float:
        """Sum of squared distances of values to the mean with them."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """What is known of the values so far; six numbers.

    Attributes:
        alpha: The probability that the bound is ever wrong; bets are made for it.
        num, total: How many values there were, and their sum.
        deviation: Sum of squared distances of values to the mean with them.
        bets, gains: Sums of lambda, and of lambda xi.
        penalty: Sum of psi(lambda) (xi - g)^2.
    """

    alpha: float
    num: int = 0
    total: float = 0.0
    deviation: float = 0.0
    bets: float = 0.0
    gains: float = 0.0
    penalty: float = 0.0

    def add(self, values: NDArray[np.float64]) -> PlugIn:
        """Return the state after more values, (N,), each at least 0."""
        if not len(values):
            return self
        t = self.num + np.arange(1, len(values) + 1)
        guesses, variances, deviation = predicted(self, values, 0.5, 0.25)
        bets = np.minimum(
            np.sqrt(2.0 * -math.log(self.alpha) / (variances * t * np.log1p(t))), _LARGEST_BET
        )
        distances = (values - np.minimum(guesses, 1.0)) ** 2
        return replace(
            self,
            num=self.num + len(values),
            total=self.total + float(values.sum()),
            deviation=deviation,
            bets=self.bets + float(bets.sum()),
            gains=self.gains + float((bets * values).sum()),
            penalty=self.penalty + float(((-np.log1p(-bets) - bets) * distances).sum()),
        )

    def lower(self, alpha: float, lowest: float, highest: float) -> float:
        """Return the bound, between `lowest` and `highest`.

        Raises:
            ValueError: `alpha` is another one than the bets were made for.
        """
        if not math.isclose(alpha, self.alpha):
            raise ValueError(f"alpha: the bets were made for {self.alpha:g}")
        if not self.num:
            return lowest
        bound = (self.gains + math.log(self.alpha) - self.penalty) / self.bets
        return min(max(bound, lowest), highest)


def predicted(
    state: HasSums, values: NDArray[np.float64], start: float, first_variance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return means and variances as they are known before each value, (N,), and the deviation.

    mean_t = (start + sum xi) / (t + 1),  var_t = (first_variance + sum (xi_i - mean_i)^2) / (t + 1)
    """
    t = state.num + np.arange(1, len(values) + 1)
    means = (start + state.total + np.cumsum(values)) / (t + 1)
    deviations = state.deviation + np.cumsum((values - means) ** 2)
    variances = (first_variance + deviations) / (t + 1)
    mean = (start + state.total) / (state.num + 1)
    variance = (first_variance + state.deviation) / (state.num + 1)
    return (
        np.concatenate(([mean], means[:-1])),
        np.concatenate(([variance], variances[:-1])),
        float(deviations[-1]),
    )
