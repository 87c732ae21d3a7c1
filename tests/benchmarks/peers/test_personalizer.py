"""The loop of Rank and Reward: the same JSON for all, and what is played is what is paid."""

from __future__ import annotations

from typing import Any

import pytest

from bandexa_core.schema.namespaces import united
from benchmarks.peers.personalizer.ours import InProcessRanker
from benchmarks.peers.personalizer.play import Ranked, play
from benchmarks.peers.personalizer.requests import Features, action_of, context_of
from simulators.environments.shop import SHOP, shop_stream


class Best:
    """Knows the stream."""

    def __init__(self, stream: Any, *, worst: bool = False) -> None:
        self._stream, self._worst, self._step = stream, worst, -1
        self.paid = 0.0

    def rank(self, context: Features, actions: list[tuple[str, Features]]) -> Ranked:
        self._step += 1
        means = self._stream.means[self._step]
        place = int(means.argmin() if self._worst else means.argmax())
        return Ranked(actions[place][0], 1.0)

    def reward(self, value: float) -> None:
        self.paid += value


def test_the_best_choices_have_no_regret_and_the_worst_more_than_uniform_ones() -> None:
    stream = shop_stream(SHOP, seed=3, horizon=50)
    best = Best(stream)
    found = play(best, stream)
    assert (found["percent"], found["reward"]) == (0.0, best.paid)
    assert play(Best(stream, worst=True), stream)["percent"] > 100.0


def test_the_features_are_what_personalizer_takes() -> None:
    stream = shop_stream(SHOP, seed=3, horizon=20)
    for t, visit in enumerate(stream.contexts):
        context = united(context_of(visit), "context")
        assert {"time.hour", "user.member", "visit.device"} <= set(context)
        action = united(action_of(stream.on_offer(t)[0].features, visit), "action")
        assert {"offer.kind", "offer.price"} <= set(action)


def test_the_bandit_of_the_doorway_plays_it_and_repeats() -> None:
    stream = shop_stream(SHOP, seed=3, horizon=60)
    one, other = (play(InProcessRanker("loop", 3), stream) for _ in range(2))
    assert one == other
    assert one["percent"] == pytest.approx(100.0, abs=60.0)
