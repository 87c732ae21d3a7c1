"""Wheel problem: a safe action is best inside a disc, and one action per quadrant pays 50 outside.

    x uniform in the unit disc          r = m(x, a) + N(0, sd^2)
    m(x, safe) = 1.2
    m(x, quadrant q) = 50 if |x| >= delta and x lies in quadrant q, else 1.0

There are four quadrant actions and the safe one; none has features. The quadrants in the order of
the actions have these signs of (x_1, x_2): (+, +), (+, -), (-, +), (-, -); an axis counts as
negative. The ring |x| >= delta holds 1 - delta^2 of the contexts, so a large delta makes
exploration hard. The problem is that of Riquelme, Tucker and Snoek, "Deep Bayesian Bandits
Showdown", ICLR 2018, with the same noise level for all actions and regions. Pure computation in
the simulator's process.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from simulators.environments.protocol import Streams
from simulators.environments.vectors import VectorEnvironment

_NUM_QUADRANTS = 4
_PLAIN, _SAFE, _JACKPOT = 1.0, 1.2, 50.0


class WheelEnvironment(VectorEnvironment):
    """The problem of the module docstring, fixed by its parameters and `seed`.

    Args:
        horizon: number of steps.
        delta: inner radius of the ring, from 0 to 1.
        noise_std: standard deviation of the noise on a reward.
        seed: fixes contexts and noise.

    Raises:
        ValueError: `delta` is not from 0 to 1.
    """

    reward_range = (0.0, _JACKPOT)
    retrieve = None
    action_ids = (*(f"quadrant{number}" for number in range(1, _NUM_QUADRANTS + 1)), "safe")
    action_features = None

    def __init__(
        self,
        *,
        horizon: int = 80_000,
        delta: float = 0.5,
        noise_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        if not 0.0 <= delta <= 1.0:
            raise ValueError(f"delta must be from 0 to 1, not {delta}")
        super().__init__(Streams.of(seed), horizon=horizon, draw=_in_disc, noise_std=noise_std)
        self._delta = delta

    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return m(x_t, a) of these actions, shape (K,)."""
        means = np.where(actions == _NUM_QUADRANTS, _SAFE, _PLAIN)
        x, y = float(self._contexts[t, 0]), float(self._contexts[t, 1])
        if math.hypot(x, y) >= self._delta:
            means[actions == 2 * (x <= 0.0) + (y <= 0.0)] = _JACKPOT
        return means


def _in_disc(generator: np.random.Generator, num: int) -> NDArray[np.float32]:
    """Draw points uniformly from the unit disc, where the square of the radius is uniform."""
    squares, turns = generator.random((num, 2)).T
    angles = 2.0 * np.pi * turns
    points = np.sqrt(squares) * np.stack([np.cos(angles), np.sin(angles)])
    rows: NDArray[np.float32] = points.T.astype(np.float32)
    return rows
