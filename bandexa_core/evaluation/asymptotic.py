"""An interval of a mean that is right for long logs only: nothing has to be bounded.

    mean +- sd sqrt((t rho^2 + 1) / (t^2 rho^2) * 2 ln(sqrt(t rho^2 + 1) / alpha))
    rho^2 = (-2 ln alpha + ln(1 - 2 ln alpha)) / t*

with t* the number of values that it is made narrowest at. It may be looked at after every value,
but that it is right with probability 1 - alpha is a limit of large t; it is infinite before
`LEAST` values. For estimates whose weights have no bound, as doubly robust ones.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, Time-uniform central limit theory and asymptotic
confidence sequences, Annals of Statistics 2024 (arXiv 2103.06476).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

LEAST = 100
NARROWEST_AT = 10_000


@dataclass(frozen=True, slots=True)
class Asymptotic:
    """What is known of the values so far; three numbers.

    Attributes:
        alpha: The probability that the interval is ever wrong.
        narrowest_at: t*.
        num, mean: How many values there were, and their mean.
        deviation: Sum of squared distances to the mean.
    """

    alpha: float = 0.05
    narrowest_at: float = NARROWEST_AT
    num: int = 0
    mean: float = 0.0
    deviation: float = 0.0

    def add(self, values: NDArray[np.float64]) -> Asymptotic:
        """Return the state after more values, (N,)."""
        more = len(values)
        if not more:
            return self
        mean, num = float(values.mean()), self.num + more
        apart = mean - self.mean
        return replace(  # Chan, Golub & LeVeque's update of a variance by that of another part
            self,
            num=num,
            mean=self.mean + apart * more / num,
            deviation=(
                self.deviation + float(((values - mean) ** 2).sum())
                + apart * apart * self.num * more / num
            ),
        )  # fmt: skip

    def without(self, value: float) -> Asymptotic:
        """Return the state as if one of the values had not been there: it was wrong."""
        num = self.num - 1
        if not num:
            return replace(self, num=0, mean=0.0, deviation=0.0)
        mean = (self.num * self.mean - value) / num
        apart = (value - mean) * (value - self.mean)
        return replace(self, num=num, mean=mean, deviation=max(0.0, self.deviation - apart))

    @property
    def rho_squared(self) -> float:
        """rho^2."""
        log = -2.0 * math.log(self.alpha)
        return (log + math.log1p(log)) / self.narrowest_at

    def reach(self) -> float:
        """Return half the width of the interval."""
        if self.num < LEAST:
            return math.inf
        grown = self.num * self.rho_squared + 1.0
        deviation = math.sqrt(self.deviation / (self.num - 1))
        bound = math.sqrt(2.0 * grown / self.rho_squared * math.log(math.sqrt(grown) / self.alpha))
        return deviation * bound / self.num
