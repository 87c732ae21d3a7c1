"""Two-tower problem: many actions, and a reward that only products of hidden features explain.

    u = tanh(W_x x)    v = tanh(W_a a)    with L hidden features each
    p(x, a) = sigmoid(u . v / sqrt(L) + 0.25 mean((u * v)^2) - 0.1)
    r = clamp(p(x, a) + N(0, sd^2), 0, 1)

x is standard normal, a is 0.6 times standard normal, entries of W_x and W_a are 0.7 times standard
normal. Regret and expected rewards refer to p: clamping moves the mean of r slightly, by the same
increasing map for every action, and does not change the ranking. The law is this project's own; the
name is that of retrieval models whose score is the product of a context and an item embedding (Yi
et al., RecSys 2019). Pure computation in the simulator's process.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulators.environments.protocol import Streams, at_step
from simulators.environments.vectors import VectorEnvironment, standard_normal

_ACTION_SCALE = 0.6
_WEIGHT_SCALE = 0.7
_SQUARE_WEIGHT = 0.25
_OFFSET = -0.1


class TwoTowerEnvironment(VectorEnvironment):
    """The problem of the module docstring, fixed by its parameters and `seed`.

    Args:
        horizon: number of steps.
        num_actions: size of the catalogue.
        candidate_size: number of actions offered at a step, or retrieved by the service.
        retrieve: let the service choose the candidates by its own sampled values; regret is then
            against the best of all actions. Otherwise candidates are drawn at random and are the
            same for every policy.
        dim: features of a context and of an action.
        latent_dim: hidden features L.
        noise_std: standard deviation of the noise on a reward.
        seed: fixes weights, actions, contexts, candidates and noise.

    Raises:
        ValueError: there are more candidates than actions.
    """

    reward_range = (0.0, 1.0)

    def __init__(
        self,
        *,
        horizon: int = 3000,
        num_actions: int = 10_000,
        candidate_size: int = 1024,
        retrieve: bool = False,
        dim: int = 32,
        latent_dim: int = 32,
        noise_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        if candidate_size > num_actions:
            raise ValueError(f"{candidate_size} candidates of only {num_actions} actions")
        streams = Streams.of(seed)
        super().__init__(streams, horizon=horizon, draw=standard_normal(dim), noise_std=noise_std)
        draw = streams.parameters.standard_normal
        self.action_ids = tuple(f"a{index}" for index in range(num_actions))
        self.retrieve = candidate_size if retrieve else None
        self.context_weights = _WEIGHT_SCALE * draw((latent_dim, dim))
        self.action_weights = _WEIGHT_SCALE * draw((latent_dim, dim))
        self.action_features = (_ACTION_SCALE * draw((num_actions, dim))).astype(np.float32)
        self._latent_actions = np.tanh(
            self.action_features.astype(np.float64) @ self.action_weights.T
        )
        self._candidate_size = candidate_size
        self._candidates = streams.candidates

    def candidates(self, t: int) -> NDArray[np.int64] | None:
        """Return the random candidates of step t in order; None when the service retrieves."""
        if self.retrieve is not None:
            return None
        generator = at_step(self._candidates, t)
        num_actions = len(self.action_ids)
        return np.sort(generator.choice(num_actions, self._candidate_size, replace=False))

    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return p(x_t, a) of these actions, shape (K,)."""
        context = np.tanh(self.context_weights @ self._contexts[t].astype(np.float64))
        products = self._latent_actions[actions] * context
        dots = products.sum(axis=1) / np.sqrt(len(context))
        logits = dots + _SQUARE_WEIGHT * np.square(products).mean(axis=1) + _OFFSET
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))

    def reward(self, t: int, action: int) -> float:
        """Return p(x_t, a) plus the noise of the step, clamped to 0..1."""
        return min(max(super().reward(t, action), 0.0), 1.0)
