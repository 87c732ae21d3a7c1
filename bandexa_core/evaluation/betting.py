"""A lower bound of a constant mean by betting: the tightest one, and the one that costs most.

For every m of a grid somebody bets that the mean is above m. Capital begins at 1 and is multiplied
by 1 + lambda_t(m) (xi_t - m) with each value xi_t >= -k,

    lambda_t(m) = clip((mean - m) / (var + (mean - m)^2), 0, 1/(2 (k + m)))

with mean and variance as they were before the value (the bet that maximises the expected logarithm,
to second order). Were the mean m or less, capital would be a supermartingale, and would reach
1/alpha ever with probability alpha at most (Ville). So m is rejected where it does.

The smallest grid point at or above the mean is rejected with probability alpha at most. The bound
is the grid point before the first one that is not rejected, which is thus below the mean: a coarse
grid costs width and no validity. What is rejected is that *all* values so far had means of m or
less; the bound is one of the mean while it is constant.

Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024
(section 4; "aGRAPA" is the bet).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bandexa_core.evaluation.plug_in import predicted

GRID = 1000
_CHUNK = 1 << 19  # elements of a matrix of values and grid points
_SHARE = 0.5  # of the largest bet that cannot lose everything


@dataclass(frozen=True, slots=True, eq=False)
class Betting:
    """The capital at every grid point.

    Attributes:
        lowest, highest: The means that are bet against are between them; at or above -reach.
        reach: k; no value is below -k.
        num_points: How many they are, G.
        start, first_variance: Guesses of mean and variance before the first value.
        num, total, deviation: See `PlugIn`.
        capital: Its logarithm, (G,).
        peak: The largest logarithm so far, (G,).
    """

    lowest: float = 0.0
    highest: float = 1.0
    reach: float = 0.0
    num_points: int = GRID
    start: float = 0.5
    first_variance: float = 0.25
    num: int = 0
    total: float = 0.0
    deviation: float = 0.0
    capital: NDArray[np.float64] | None = None
    peak: NDArray[np.float64] | None = None

    @property
    def grid(self) -> NDArray[np.float64]:
        """The means that are bet against, ascending, (G,)."""
        return np.linspace(self.lowest, self.highest, self.num_points + 1)[1:]

    def add(self, values: NDArray[np.float64]) -> Betting:
        """Return the state after more values, (N,), each at least -reach."""
        if not len(values):
            return self
        means, variances, deviation = predicted(self, values, self.start, self.first_variance)
        grid = self.grid
        capital = np.zeros(len(grid)) if self.capital is None else self.capital
        peak = np.zeros(len(grid)) if self.peak is None else self.peak
        step = max(1, _CHUNK // len(grid))
        for first in range(0, len(values), step):
            part = slice(first, first + step)
            gains = _log_gains(self, values[part], means[part], variances[part], grid)
            path = capital + np.cumsum(gains, axis=0)
            capital, peak = path[-1], np.maximum(peak, path.max(axis=0))
        return replace(
            self, num=self.num + len(values), total=self.total + float(values.sum()),
            deviation=deviation, capital=capital, peak=peak,
        )  # fmt: skip

    def lower(self, alpha: float, lowest: float, highest: float) -> float:
        """Return the bound; `lowest` where nothing is rejected."""
        if self.peak is None:
            return lowest
        kept = np.flatnonzero(self.peak < -math.log(alpha))
        first = int(kept[0]) if len(kept) else self.num_points
        return lowest if first == 0 else min(float(self.grid[first - 1]), highest)

    def evidence(self, values: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
        """Return the logarithm of the capital against one mean after each of some first values."""
        means, variances, _ = predicted(self, values, self.start, self.first_variance)
        gains = _log_gains(self, values, means, variances, np.array([mean]))
        path: NDArray[np.float64] = np.cumsum(gains[:, 0])
        return path


def _log_gains(
    state: Betting,
    values: NDArray[np.float64],
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    grid: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the logarithms of what each value multiplies the capital by, (N, G)."""
    ahead = means[:, None] - grid
    bets = ahead / (variances[:, None] + ahead * ahead)
    np.clip(bets, 0.0, _SHARE / (state.reach + grid), out=bets)
    bets *= values[:, None] - grid
    found: NDArray[np.float64] = np.log1p(bets, out=bets)
    return found
