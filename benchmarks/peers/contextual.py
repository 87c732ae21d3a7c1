"""contextualbandits: bootstrapped Thompson sampling over logistic regressions.

The base classifier is scikit-learn's logistic regression. All models are fitted again after 50
rewards, and then after every fifth more, 50 at least: the library's way of learning in batches.
Everything else is its default: ten bootstrapped models for each action, and its "auto" prior where
an action has too few rewards. It needs rewards of 0 or 1 and uses no features of actions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from benchmarks.peers.player import Choice, Context, Features, Outcome, UnavailableError
from benchmarks.peers.stream import Stream

_LEAST_ROWS, _MORE = 50, 0.2
_MOST_ACTIONS = 100


class ContextualPlayer:
    """One BootstrappedTS; before the first fit it chooses at random."""

    def __init__(self, stream: Stream, seed: int) -> None:
        from contextualbandits.online import BootstrappedTS
        from sklearn.linear_model import LogisticRegression

        if not stream.rewards_are_binary:
            raise UnavailableError("contextualbandits learns rewards of 0 and 1 alone")
        if len(stream.action_ids) > _MOST_ACTIONS:
            raise UnavailableError(
                f"contextualbandits: more than {_MOST_ACTIONS} actions, too slow"
            )
        # One row is decided at a time, so one model of each action is drawn in either case.
        self._policy = BootstrappedTS(
            LogisticRegression(), nchoices=len(stream.action_ids), sample_unique=False,
            random_state=seed,
        )  # fmt: skip
        self._index = {action_id: n for n, action_id in enumerate(stream.action_ids)}
        self._rng = np.random.default_rng(seed)
        self._rows: list[tuple[Context, int, float]] = []
        self._fitted = 0

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Choose the greatest of the scores of the models that were drawn."""
        del step, features
        if not self._fitted:
            return Choice(ids[int(self._rng.integers(len(ids)))], 1.0 / len(ids))
        found = self._policy.predict(context[None].astype(np.float64), output_all_scores=True)
        scores = found["scores"].reshape(-1)
        offered = scores[[self._index[action_id] for action_id in ids]]
        return Choice(ids[int(np.argmax(offered))], None)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Store the rewards; fit when a batch is complete."""
        for outcome in outcomes:
            self._rows.append((outcome.context, self._index[outcome.action_id], outcome.reward))
        if len(self._rows) < self._fitted + max(_LEAST_ROWS, int(_MORE * self._fitted)):
            return
        contexts, actions, rewards = zip(*self._rows, strict=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of iterations that end before they converge
            self._policy.fit(
                np.array(contexts, np.float64), np.array(actions), np.array(rewards, np.float64)
            )
        self._fitted = len(self._rows)

    def retire(self, action_id: str) -> None:
        """Do nothing: an action that is not offered is not chosen."""
