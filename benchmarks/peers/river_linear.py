"""river: LinUCBDisjoint with its defaults, a Bayesian linear regression for each action.

The regression has no intercept, so a context gets a number 1 under the name "one". Features of
actions are not used.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.player import Choice, Context, Features, Outcome
from benchmarks.peers.stream import Stream


class RiverPlayer:
    """One policy of river."""

    def __init__(self, stream: Stream, seed: int) -> None:
        from river.bandit import LinUCBDisjoint

        del stream
        self._policy = LinUCBDisjoint(seed=seed)

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Choose the greatest upper bound."""
        del step, features
        return Choice(self._policy.pull(list(ids), context=_named(context)), None)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Learn one reward after the other."""
        for outcome in outcomes:
            self._policy.update(outcome.action_id, _named(outcome.context), outcome.reward)

    def retire(self, action_id: str) -> None:
        """Do nothing: an action that is not offered is not chosen."""


def _named(context: Context) -> dict[str, float]:
    return {"one": 1.0} | {f"x{n}": value for n, value in enumerate(context.tolist())}
