"""The age at which decisions are mature follows the delays of rewards."""

from __future__ import annotations

import math

import numpy as np

from bandexa_core.log.delays import LEAST, MOST, SHARE, WATCHED, Delays


def added(delays: Delays, seconds: np.ndarray, start: float = 0.0, every: float = 1.0) -> float:
    """Add delays of rewards that are reported at equal intervals; returns the time of the last."""
    now = start
    for delay in seconds.tolist():
        now += every
        delays.add(delay, now)
    return now


def test_the_age_is_a_quantile_of_exponential_delays():
    """The quantile is -mean log(1 - share); a bin is a twelfth wide, and 3,000 delays vary it."""
    delays = Delays()
    added(delays, np.random.default_rng(1).exponential(60.0, 3000))
    exact = -60.0 * math.log(1.0 - SHARE)
    assert delays.age_s is not None
    assert 0.9 * exact < delays.age_s < 1.2 * exact


def test_there_is_none_before_enough_rewards():
    delays = Delays()
    added(delays, np.full(LEAST - 1, 3.0))
    assert delays.age_s is None
    delays.add(3.0, 100.0)
    assert delays.age_s is not None


def test_short_delays_are_not_believed_before_long_ones_could_have_come():
    """Hundreds of rewards a second: all that can be seen of delays of 10 s are those below 1 s."""
    delays = Delays()
    now = added(delays, np.linspace(0.01, 1.0, 500), every=0.002)
    assert delays.age_s is None
    added(delays, np.full(64, 1.0), start=now + WATCHED, every=0.01)
    assert delays.age_s is not None


def test_the_age_follows_delays_that_change_and_what_is_held_is_bounded():
    delays = Delays()
    now = added(delays, np.full(5000, 2.0))
    assert delays.age_s == 2.0
    added(delays, np.full(9000, 64.0), start=now)
    assert delays.age_s == 64.0
    state = delays.state
    assert sum(state.counts.values()) < MOST
    assert set(state.counts) == {72}, "what has not occurred for long is dropped"


def test_it_goes_on_from_what_is_stored():
    seconds = np.random.default_rng(2).exponential(5.0, 3000)
    whole, first = Delays(), Delays()
    added(whole, seconds)
    now = added(first, seconds[:1111])
    second = Delays(first.state)
    added(second, seconds[1111:], start=now)
    assert second.state == whole.state
