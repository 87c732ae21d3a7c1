"""Plays a stream by Rank and Reward: each visit is ranked, and what its choice pays is rewarded.

A click is rewarded at once with 1, and a visit without one with 0, so both learn every event.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.peers.personalizer.requests import Features, action_of, context_of
from simulators.environments.shop import ShopStream


class Ranked(NamedTuple):
    """What was chosen, and with which probability."""

    action_id: str
    probability: float


class Ranker(Protocol):
    """One policy in one run."""

    def rank(self, context: Features, actions: list[tuple[str, Features]]) -> Ranked:
        """Choose one of these actions."""

    def reward(self, value: float) -> None:
        """Report what the last choice paid."""


def play(ranker: Ranker, stream: ShopStream) -> dict[str, Any]:
    """Return the regret in percent of that of uniform choices, and the sum of the rewards."""
    regret, uniform, paid = 0.0, 0.0, 0.0
    curve = []
    for t, visit in enumerate(stream.contexts):
        offers = stream.on_offer(t)
        actions = [(offer.id, action_of(offer.features, visit)) for offer in offers]
        chosen = ranker.rank(context_of(visit), actions)
        place = next(n for n, offer in enumerate(offers) if offer.id == chosen.action_id)
        if not 0.0 < chosen.probability <= 1.0:
            raise ValueError(f"step {t}: probability {chosen.probability}")
        ranker.reward(float(stream.rewards[t, place]))
        means = stream.means[t]
        regret += float(means.max() - means[place])
        uniform += float(means.max() - means.mean())
        paid += float(stream.rewards[t, place])
        if (t + 1) % (max(1, stream.horizon // 5)) == 0:
            curve.append(round(100.0 * regret / uniform, 2))
    return {
        "percent": 100.0 * regret / uniform, "regret": regret, "reward": paid, "curve": curve,
        "best": float(np.max(stream.means, axis=1).sum()),
    }  # fmt: skip
