"""The interface of a simulated environment, and the random streams behind it.

Parameters and seed determine an environment. Context, candidates and noise of step t depend on t
alone, never on earlier choices, so every policy meets the same stream. Regret of a step is the
greatest expected reward among the offered actions minus that of the chosen one; it contains no
noise. Pure computation in the simulator's process; nothing is stored.

Shapes: N actions, K of them in question, D features per action.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Environment(Protocol):
    """A contextual bandit problem of `horizon` steps whose expected rewards are known."""

    @property
    def horizon(self) -> int:
        """Number of steps."""

    @property
    def action_ids(self) -> tuple[str, ...]:
        """The N ids, in the order of the catalogue."""

    @property
    def action_features(self) -> NDArray[np.float32] | None:
        """Features of shape (N, D), None when actions have none."""

    @property
    def context_shape(self) -> tuple[int, ...]:
        """Shape of every context."""

    @property
    def context_dtype(self) -> str:
        """Name of the contexts' dtype."""

    @property
    def reward_range(self) -> tuple[float, float]:
        """Declared range of rewards; noise may exceed it slightly."""

    @property
    def retrieve(self) -> int | None:
        """Number of candidates that the service retrieves itself; None: `candidates` decides."""

    def context(self, t: int) -> NDArray[np.generic]:
        """Return the context of step t (0-based)."""

    def candidates(self, t: int) -> NDArray[np.int64] | None:
        """Return the offered actions of step t in ascending order; None offers all N."""

    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the expected rewards of shape (K,) of these actions at step t."""

    def reward(self, t: int, action: int) -> float:
        """Return the reward of an action at step t; repeated calls return the same value."""

    def probes(self, num: int) -> NDArray[np.generic]:
        """Return `num` contexts beside those of the steps; every call returns the same ones."""


class Streams(NamedTuple):
    """Independent random streams of one seed: a draw from one does not change the others."""

    parameters: np.random.Generator
    contexts: np.random.Generator
    candidates: np.random.SeedSequence
    noise: np.random.Generator
    probes: np.random.SeedSequence

    @classmethod
    def of(cls, seed: int) -> Self:
        """Split a seed into its streams."""
        parameters, contexts, candidates, noise, probes = np.random.SeedSequence(seed).spawn(5)
        return cls(
            np.random.default_rng(parameters),
            np.random.default_rng(contexts),
            candidates,
            np.random.default_rng(noise),
            probes,
        )


def at_step(stream: np.random.SeedSequence, t: int) -> np.random.Generator:
    """Return the generator of step t of a stream, which does not depend on earlier steps."""
    key = (*stream.spawn_key, t)
    return np.random.default_rng(np.random.SeedSequence(stream.entropy, spawn_key=key))
