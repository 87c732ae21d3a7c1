"""Synthetic problem: a saturated linear reward with interactions of context and action.

    m(x, a) = tanh(w_x . x + w_a . a + w_xa . (x * a) + b)        r = m(x, a) + N(0, sd^2)

x in R^dim is the context and a in R^dim the features of an action from a fixed set; `*` multiplies
elementwise. x, a, b and all weights are standard normal, and w_xa is then multiplied by the
interaction scale. Without interactions the best action would be the same for every x. A problem
with drift draws new weights and a new b from the same law at one step; actions, contexts and noise
stay those of the problem without drift. The law is this project's own. Pure computation in the
simulator's process.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.environments.protocol import Streams
from simulators.environments.vectors import VectorEnvironment, standard_normal


class Weights(NamedTuple):
    """The parameters of the expected reward: w_x, w_a and w_xa of shape (dim,), and b."""

    context: NDArray[np.float64]
    action: NDArray[np.float64]
    interaction: NDArray[np.float64]
    bias: float


class SyntheticEnvironment(VectorEnvironment):
    """The problem of the module docstring, fixed by its parameters and `seed`.

    Args:
        horizon: number of steps.
        dim: features of a context and of an action.
        num_actions: size of the fixed set of actions.
        noise_std: standard deviation of the noise on a reward.
        interaction_scale: factor on w_xa.
        drift_at: the first step (0-based) with redrawn weights; None: no drift.
        seed: fixes weights, actions, contexts and noise.

    Raises:
        ValueError: no step comes before `drift_at`, or none from it on.
    """

    reward_range = (-1.0, 1.0)
    retrieve = None

    def __init__(
        self,
        *,
        horizon: int = 2000,
        dim: int = 16,
        num_actions: int = 50,
        noise_std: float = 0.1,
        interaction_scale: float = 1.0,
        drift_at: int | None = None,
        seed: int = 0,
    ) -> None:
        if drift_at is not None and not 0 < drift_at < horizon:
            raise ValueError(f"drift_at must be from 1 to {horizon - 1}, not {drift_at}")
        streams = Streams.of(seed)
        super().__init__(streams, horizon=horizon, draw=standard_normal(dim), noise_std=noise_std)
        self.action_ids = tuple(f"a{index}" for index in range(num_actions))
        self._weights = _draw_weights(streams.parameters, dim, interaction_scale)
        # The service receives float32; the expected rewards are computed from the same values.
        features = streams.parameters.standard_normal((num_actions, dim))
        self.action_features = features.astype(np.float32)
        self._drift_at = horizon
        if drift_at is not None:
            self._drift_at = drift_at
            self._later_weights = _draw_weights(streams.parameters, dim, interaction_scale)

    def weights(self, t: int) -> Weights:
        """Return the weights in force at step t."""
        return self._weights if t < self._drift_at else self._later_weights

    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return m(x_t, a) of these actions, shape (K,)."""
        weights = self.weights(t)
        context = self._contexts[t].astype(np.float64)
        features = self.action_features[actions].astype(np.float64)
        by_action = features @ (weights.action + weights.interaction * context)
        sums: NDArray[np.float64] = context @ weights.context + by_action + weights.bias
        return np.tanh(sums)


def _draw_weights(generator: np.random.Generator, dim: int, interaction_scale: float) -> Weights:
    draw = generator.standard_normal
    return Weights(draw(dim), draw(dim), interaction_scale * draw(dim), float(draw()))
