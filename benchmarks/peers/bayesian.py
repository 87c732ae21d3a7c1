"""bayesianbandits: Thompson sampling with Bayesian linear regression, and its defaults.

Without features of actions every action has a learner of its own (`ContextualAgent`'s model). With
them all share one on [x; a; x (x) a; 1]. The learner is `NormalInverseGammaRegressor` or, with
hyperparameters tuned by the library itself, `EmpiricalBayesNormalRegressor`. A policy of the
library draws from the learners and takes the greatest; the same is done here by hand for the
offered actions, because its agents offer all of their arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.player import Choice, Context, Features, Outcome
from benchmarks.peers.stream import Stream


class BayesianPlayer:
    """The learners of one run, by action; under the id "" the shared one."""

    def __init__(self, stream: Stream, seed: int, regressor: str) -> None:
        import bayesianbandits

        self._make = getattr(bayesianbandits, regressor)
        self._rng = np.random.default_rng(seed)
        self._learners: dict[str, Any] = {}

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Draw a mean reward for each action and choose the greatest."""
        del step
        if features is None:
            row = _own(context)
            draws = [float(self._learner(i).sample(row, size=1).ravel()[0]) for i in ids]
        else:
            draws = self._learner("").sample(_shared(context, features), size=1).ravel().tolist()
        return Choice(ids[int(np.argmax(draws))], None)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Update the learner of each action once, with all of its rewards."""
        rows: dict[str, list[tuple[NDArray[np.float64], float]]] = {}
        for outcome in outcomes:
            if outcome.features is None:
                name, row = outcome.action_id, _own(outcome.context)
            else:
                name, row = "", _shared(outcome.context, outcome.features[None])
            rows.setdefault(name, []).append((row, outcome.reward))
        for name, found in rows.items():
            inputs = np.concatenate([row for row, _ in found])
            self._learner(name).partial_fit(inputs, np.array([reward for _, reward in found]))

    def retire(self, action_id: str) -> None:
        """Forget the action's own learner."""
        self._learners.pop(action_id, None)

    def _learner(self, name: str) -> Any:
        if name not in self._learners:
            self._learners[name] = self._make(random_state=self._rng)
        return self._learners[name]


def _own(context: Context) -> NDArray[np.float64]:
    return np.append(context.astype(np.float64), 1.0)[None]


def _shared(context: Context, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return [x; a; x (x) a; 1] for each action, (K, d + A + d A + 1)."""
    num = len(features)
    x, a = context.astype(np.float64), features.astype(np.float64)
    products = (a[:, :, None] * x).reshape(num, -1)
    return np.concatenate([np.tile(x, (num, 1)), a, products, np.ones((num, 1))], axis=1)
