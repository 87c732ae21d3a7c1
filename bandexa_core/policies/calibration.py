"""How much surer a trained network is of its rewards than it should be, measured on later rows.

The noise of the posterior is estimated from the rows that the network was just trained on. A
network that fits their noise, too, takes it for signal, and all standard deviations are too small.
The rows that arrived after a training are a fair test of it. With a well calibrated posterior the
squared errors over their predicted variances, (r - m'z)^2 / (s^2 (1 + z'Sz)), have mean 1 (the
predictive distribution of Bayesian linear regression; Bishop, "Pattern Recognition and Machine
Learning", 2006, eq. 3.59). Their mean is what the noise variance is multiplied by, as in Kuleshov,
Fenner & Ermon, "Accurate Uncertainties for Deep Learning Using Calibrated Regression", ICML 2018,
with a single factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.posterior.disjoint import DisjointPosterior
from bandexa_core.posterior.gaussian import GaussianPosterior
from bandexa_core.posterior.tensors import read_tensor

MOST_ROWS = 1024  # of one round that are tested
PRIOR_ROWS = 8.0  # of factor 1
HALF_LIFE_SHARE = 0.2  # of all rows
LEAST_HALF_LIFE = 64.0
# MOST holds for the error of one row, too: one wrong reward must not widen all draws.
LEAST, MOST = 0.25, 100.0
# A network whose errors on later rows are larger than predicted has learned noise by heart. Its
# weights decay faster in the next round, so that it learns less by heart.
SURPRISE = 0.3  # by which errors are larger than predicted, and weights decay at the usual rate
DECAY_POWER = 2.0


class Calibration(NamedTuple):
    """The errors on later rows so far, newer ones with more weight.

    Attributes:
        squares: Sum of the squared errors over their predicted variances.
        num_rows: The weight of their rows.
    """

    squares: float = 0.0
    num_rows: float = 0.0

    @property
    def factor(self) -> float:
        """What the noise variance, and with it all variances, are multiplied by."""
        factor = (self.squares + PRIOR_ROWS) / (self.num_rows + PRIOR_ROWS)
        return min(max(factor, LEAST), MOST)

    @property
    def spread(self) -> float:
        """What standard deviations are multiplied by."""
        return math.sqrt(self.factor)

    @property
    def decay(self) -> float:
        """What the weight decay of the next round is multiplied by, at least 1."""
        surprise = max(self.factor - 1.0, 0.0) / SURPRISE
        return max(float(surprise**DECAY_POWER), 1.0)

    def tested(self, squares_N: NDArray[np.float64], num_new: int, num_rows: float) -> Calibration:
        """Return the calibration after the test of one more round.

        Args:
            squares_N: Squared errors over their predicted variances, (N,); of one row, 100 count.
            num_new: Rows that came since the last round, of which N were tested.
            num_rows: Rows so far, less what was forgotten. A fifth of them, at least 64, halves the
                weight of older errors.
        """
        half_life = max(LEAST_HALF_LIFE, HALF_LIFE_SHARE * num_rows)
        keep = 0.5 ** (num_new / half_life)
        mean = float(np.minimum(squares_N, MOST).mean())
        return Calibration(keep * self.squares + num_new * mean, keep * self.num_rows + num_new)

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """Return it as a tensor."""
        return {"calibration": np.array(self)}

    @classmethod
    def loaded(cls, tensors: Mapping[str, NDArray[Any]]) -> Calibration:
        """Return what `tensors` wrote.

        Raises:
            ValueError: It is missing, or below 0.
        """
        squares, num_rows = read_tensor(tensors, "calibration", (2,)).tolist()
        if squares < 0.0 or num_rows < 0.0:
            raise ValueError("tensor 'calibration' must not be below 0")
        return cls(squares, num_rows)


class HeldOut(NamedTuple):
    """The errors of a posterior on rows that it has not learned.

    Attributes:
        squares: Squared errors over their predicted variances, (N,).
        error: The mean of the squared errors, in squared reward units.
    """

    squares: NDArray[np.float64]
    error: float


def held_out(
    posterior: GaussianPosterior | DisjointPosterior,
    z_ND: NDArray[np.float64],
    slots: NDArray[np.int64],
    rewards: NDArray[np.float64],
) -> HeldOut:
    """Return the errors on N rows that are not learned.

    Args:
        posterior: What predicts them.
        z_ND: Features, (N, D).
        slots: Action slots, (N,); read where each action has a posterior.
        rewards: Values in reward units, (N,).
    """
    if isinstance(posterior, DisjointPosterior):
        pairs = [posterior.mean_std(z, [int(k)]) for z, k in zip(z_ND, slots, strict=True)]
        mean_N, std_N = (np.concatenate(column) for column in zip(*pairs, strict=True))
    else:
        mean_N, std_N = posterior.mean_std(z_ND)
    errors_N = rewards - posterior.frame.center - mean_N
    squares_N: NDArray[np.float64] = errors_N**2 / (posterior.noise_mean + std_N**2)
    return HeldOut(squares_N, float(np.mean(errors_N**2)))
