"""Synthetic problem: a saturated linear reward with interactions of context and action.

    m(x, a) = tanh(w_x . x + w_a . a + w_xa . (x * a) + b)        r = m(x, a) + N(0, sd^2)

x and a in R^dim, a fixed set of actions; x, a, b and all weights are standard normal, and w_xa is
then multiplied by the interaction scale. Without interactions the ranking of the actions would not
depend on x. Pure computation in the simulator's process.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulators.environments.protocol import Streams


class SyntheticEnvironment:
    """The problem of the module docstring, fixed by its parameters and `seed`.

    Args:
        horizon: number of steps.
        dim: features of a context and of an action.
        num_actions: size of the fixed set of actions.
        noise_std: standard deviation of the noise on a reward.
        interaction_scale: factor on w_xa.
        seed: fixes weights, actions, contexts and noise.
    """

    context_dtype = "float32"
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
        seed: int = 0,
    ) -> None:
        streams = Streams.of(seed)
        draw = streams.parameters.standard_normal
        self.horizon = horizon
        self.context_shape = (dim,)
        self.action_ids = tuple(f"a{index}" for index in range(num_actions))
        self.context_weights = draw(dim)
        self.action_weights = draw(dim)
        self.interaction_weights = interaction_scale * draw(dim)
        self.bias = float(draw())
        # float32 is what the service sees, so the expected rewards are computed from the same.
        self.action_features = draw((num_actions, dim)).astype(np.float32)
        self._contexts = streams.contexts.standard_normal((horizon, dim)).astype(np.float32)
        self._noise = noise_std * streams.noise.standard_normal(horizon)
        self._probes = streams.probes

    def context(self, t: int) -> NDArray[np.generic]:
        """Return x of step t, shape (dim,)."""
        context: NDArray[np.float32] = self._contexts[t]
        return context

    def candidates(self, t: int) -> None:
        """Offer all actions at every step."""
        return

    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return m(x_t, a) of these actions, shape (K,)."""
        context = self._contexts[t].astype(np.float64)
        features = self.action_features[actions].astype(np.float64)
        by_action = features @ (self.action_weights + self.interaction_weights * context)
        sums: NDArray[np.float64] = context @ self.context_weights + by_action + self.bias
        return np.tanh(sums)

    def best(self, t: int) -> float:
        """Return the greatest m(x_t, a) of all actions."""
        return float(self.expected(t, np.arange(len(self.action_ids))).max())

    def reward(self, t: int, action: int) -> float:
        """Return m(x_t, a) plus the noise of the step, which is the same for every action."""
        return float(self.expected(t, np.array([action]))[0] + self._noise[t])

    def probes(self, num: int) -> NDArray[np.generic]:
        """Return further contexts of shape (num, dim)."""
        draws = np.random.default_rng(self._probes).standard_normal((num, *self.context_shape))
        return draws.astype(np.float32)
