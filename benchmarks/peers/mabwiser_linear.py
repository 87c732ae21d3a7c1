"""mabwiser: LinUCB and LinTS with their defaults, one ridge regression for each action.

The library has no intercept, so a context gets a number 1 at its end. Features of actions are not
used: the library has no policy that takes them together with contexts. It has no candidates
either, so the greatest of its expectations among the offered actions is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.peers.player import Choice, Context, Features, Outcome, UnavailableError
from benchmarks.peers.stream import Stream

_MOST_ACTIONS = 500  # a decision among 1,682 takes a third of a second


class MabwiserPlayer:
    """One MAB; before the first reward it chooses at random."""

    def __init__(self, stream: Stream, seed: int, learning: str) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        if len(stream.action_ids) > _MOST_ACTIONS:
            raise UnavailableError(f"mabwiser: more than {_MOST_ACTIONS} actions, too slow")
        policy = getattr(LearningPolicy, learning)()
        self._mab = MAB(list(stream.action_ids), policy, seed=seed)
        self._rng = np.random.default_rng(seed)
        self._fitted = False

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Choose the greatest expectation: a bound of LinUCB, a draw of LinTS."""
        del step, features
        if not self._fitted:
            return Choice(ids[int(self._rng.integers(len(ids)))], 1.0 / len(ids))
        found = self._mab.predict_expectations([_row(context)])
        scores = np.array([found[action_id] for action_id in ids])
        best = np.flatnonzero(scores == scores.max())
        return Choice(ids[int(self._rng.choice(best))], None)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Fit the rewards in one call."""
        call = self._mab.partial_fit if self._fitted else self._mab.fit
        call(
            [outcome.action_id for outcome in outcomes],
            [outcome.reward for outcome in outcomes],
            [_row(outcome.context) for outcome in outcomes],
        )
        self._fitted = True

    def retire(self, action_id: str) -> None:
        """Remove the action."""
        self._mab.remove_arm(action_id)


def _row(context: Context) -> list[float]:
    return [*context.tolist(), 1.0]
