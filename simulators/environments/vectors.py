"""The common part of environments with vector contexts: contexts and noise are drawn once per seed.

A subclass adds its actions and `expected`. Pure computation in the simulator's process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulators.environments.protocol import Streams

Draw = Callable[[np.random.Generator, int], NDArray[np.float32]]
"""A function that draws n contexts, float32 of shape (n, dim)."""


class VectorEnvironment(ABC):
    """Contexts x_t and noise e_t of all steps; the reward of an action is m(x_t, a) + e_t.

    The service receives contexts as float32. The expected rewards are computed from the same
    rounded values, in float64.

    Args:
        streams: the random streams of the seed; `contexts`, `noise` and `probes` are used here.
        horizon: number of steps.
        draw: the law of a context.
        noise_std: standard deviation of the noise, which is the same for every action of a step.
    """

    context_dtype = "float32"

    def __init__(self, streams: Streams, *, horizon: int, draw: Draw, noise_std: float) -> None:
        self.horizon = horizon
        self._draw = draw
        self._contexts = draw(streams.contexts, horizon)
        self.context_shape = self._contexts.shape[1:]
        self._noise = noise_std * streams.noise.standard_normal(horizon)
        self._probes = streams.probes

    def context(self, t: int) -> NDArray[np.generic]:
        """Return x of step t, shape (dim,)."""
        context: NDArray[np.float32] = self._contexts[t]
        return context

    def candidates(self, t: int) -> NDArray[np.int64] | None:
        """Offer all actions at every step."""
        return None

    @abstractmethod
    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return m(x_t, a) of these actions, shape (K,)."""

    def reward(self, t: int, action: int) -> float:
        """Return m(x_t, a) plus the noise of the step, which is the same for every action."""
        return float(self.expected(t, np.array([action]))[0] + self._noise[t])

    def probes(self, num: int) -> NDArray[np.generic]:
        """Return further contexts of shape (num, dim)."""
        return self._draw(np.random.default_rng(self._probes), num)


def standard_normal(dim: int) -> Draw:
    """Return a function that draws standard normal contexts of `dim` features."""

    def draw(generator: np.random.Generator, num: int) -> NDArray[np.float32]:
        return generator.standard_normal((num, dim)).astype(np.float32)

    return draw
