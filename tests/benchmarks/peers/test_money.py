"""Sums of 0 to 350 with heavy tails, and no declared range: what a bandit earns once it learned."""

from __future__ import annotations

import pytest

from benchmarks.peers.play import figures, play
from benchmarks.peers.policies import POLICIES
from benchmarks.peers.scenes import money
from tests.fixtures.matrices import examples


@pytest.mark.parametrize(("policy", "horizon"), [("default", examples(1000, 2000)), ("auto", 2000)])
def test_what_is_earned_is_within_a_tenth_of_the_best_mean(policy: str, horizon: int) -> None:
    """With an array of numbers, or with named contexts and actions, and nothing else given."""
    stream = money(seed=605, horizon=horizon)
    chosen = play(POLICIES[policy].player(stream, f"money-{policy}", 605), stream)
    assert figures(stream, chosen)["earned_share"] > 0.9
