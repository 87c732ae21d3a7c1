"""A lower bound of a running mean that holds at every moment: the gamma-exponential mixture.

Legend: xi_t value t, nu_t its mean given the past, k the reach: xi_t >= -k.

For guesses g_t of xi_t that are made before it and are at most 1, xi_t - g_t >= -(k + 1). With
everything in units of k + 1, Fan's inequality makes

    exp(lambda S_t - (-ln(1 - lambda) - lambda) V_t),    S_t = sum xi_i - nu_i,
                                                         V_t = sum (xi_i - g_i)^2

a supermartingale for every lambda in [0, 1), and so is its mixture over a gamma density:

    ln M(s, v) = rho ln rho - ln Gamma(rho) - ln P(rho, rho) + ln Gamma(v + rho)
                 + ln P(v + rho, s + v + rho) - (v + rho) ln(s + v + rho) + s + v

with P the regularised lower incomplete gamma function. By Ville's inequality M reaches 1/alpha ever
with probability alpha at most. The bound is the mean at which M equals that. It holds for the mean
of nu_1 ... nu_t whatever the nu are: values may drift, and the log may be of a bandit that learns.

Howard, Ramdas, McAuliffe & Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences,
Annals of Statistics 2021 (proposition 9); Karampatziakis, Mineiro & Ramdas, Off-policy confidence
sequences, ICML 2021. vw-estimators computes the same without the limit of the guesses, which the
proof needs; the two differ only where sums of weights would make a guess exceed 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_FEW = 16  # values that are added one by one: numpy takes longer than so many
_HALVINGS = 60  # of the interval that the bound is searched in: to the last digit of a float64


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is known of the values so far; three numbers.

    Attributes:
        reach: k; no value is below -k.
        start: The guess of the first value.
        rho: Larger ones make the bound tighter after many values, and wider after few.
        num, total: How many values there were, and their sum.
        spread: V, in the unit of the values.
    """

    reach: float = 0.0
    start: float = 0.5
    rho: float = 1.0
    num: int = 0
    total: float = 0.0
    spread: float = 0.0

    def add(self, values: NDArray[np.float64]) -> Mixture:
        """Return the state after more values, (N,)."""
        if not len(values):
            return self
        if len(values) <= _FEW:
            return self._with_few(values.tolist())
        guesses = self._guesses(values)
        return replace(
            self,
            num=self.num + len(values),
            total=self.total + float(values.sum()),
            spread=self.spread + float(((values - guesses) ** 2).sum()),
        )

    def _with_few(self, values: list[float]) -> Mixture:
        num, total, spread = self.num, self.total, self.spread
        for value in values:
            num += 1
            guess = min((self.start + total) / num, 1.0)
            spread += (value - guess) ** 2
            total += value
        return Mixture(self.reach, self.start, self.rho, num, total, spread)

    def without(self, value: float) -> Mixture:
        """Return the state as if one of the values had not been there: it was wrong.

        Its guess is not known any more, and is taken to be the newest one.
        """
        num, total = self.num - 1, self.total - value
        guess = min((self.start + total) / (num + 1), 1.0)
        spread = max(0.0, self.spread - (value - guess) ** 2)
        return replace(self, num=num, total=total, spread=spread)

    def lower(self, alpha: float, lowest: float, highest: float) -> float:
        """Return the bound; it is wrong at any time with probability `alpha` at most.

        `lowest` and `highest` are what the mean cannot be beyond.
        """
        found = mixture_bound(
            np.array([self.num]), np.array([self.total]), np.array([self.spread]),
            alpha, lowest, highest, reach=self.reach, rho=self.rho,
        )  # fmt: skip
        return float(found[0])

    def evidence(
        self, values: NDArray[np.float64], means: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return ln M after each of some values, (N,), were `means` (N,) the running means.

        The bound is at or above a mean exactly where this is at or above ln(1/alpha).
        """
        guesses, num = self._guesses(values), self.num + np.arange(1, len(values) + 1)
        total = self.total + np.cumsum(values)
        spread = self.spread + np.cumsum((values - guesses) ** 2)
        unit = self.reach + 1.0
        return log_mixture((total - num * means) / unit, spread / unit**2, self.rho)

    def _guesses(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        before = self.total + np.concatenate(([0.0], np.cumsum(values)[:-1]))
        guesses: NDArray[np.float64] = np.minimum(
            (self.start + before) / (self.num + np.arange(1, len(values) + 1)), 1.0
        )
        return guesses


def mixture_bound(
    num: NDArray[np.int64],
    total: NDArray[np.float64],
    spread: NDArray[np.float64],
    alpha: float,
    lowest: float,
    highest: float,
    *,
    reach: float = 0.0,
    rho: float = 1.0,
) -> NDArray[np.float64]:
    """Return the bounds of several states at once, (S,) each; see `Mixture`."""
    unit, needed = reach + 1.0, -math.log(alpha)
    low = np.full(len(num), lowest)
    high = np.full(len(num), highest)
    v = spread / unit**2

    def reached(means: NDArray[np.float64]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = log_mixture((total - num * means) / unit, v, rho) >= needed
        return found

    at_lowest = reached(low)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        above = reached(middle)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(at_lowest, low, lowest)


def log_mixture(s: NDArray[np.float64], v: NDArray[np.float64], rho: float) -> NDArray[np.float64]:
    """Return ln M(s, v), (N,); minus infinity where s + v + rho is not positive."""
    from scipy import special  # takes 0.2 s and 30 MB: only where a bound is asked for

    x, a = s + v + rho, v + rho
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (
            rho * math.log(rho) - special.gammaln(rho) - math.log(special.gammainc(rho, rho))
            + special.gammaln(a) + np.log(special.gammainc(a, x)) - a * np.log(x) + s + v
        )  # fmt: skip
    out: NDArray[np.float64] = np.where(x > 0.0, found, -np.inf)
    return np.where(np.isnan(out), -np.inf, out)
