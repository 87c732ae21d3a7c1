"""Ids of decisions that the service names itself."""

import time

from bandexa_core.ids import new_decision_id


def test_ids_follow_each_other_in_time() -> None:
    made, deadline = [], time.monotonic() + 10.0
    for _ in range(20):
        made.append(new_decision_id())
        now = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 <= now:
            assert time.monotonic() < deadline
    assert made == sorted(made)


def test_they_cannot_be_guessed() -> None:
    ids = [new_decision_id() for _ in range(2000)]
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)
    assert len({one[12:] for one in ids}) == 2000
    # Of 80 random bits each is set in half of the ids; 6 standard errors of 2,000 are 134.
    random = [int(one[12:], 16) for one in ids]
    for bit in range(80):
        assert abs(sum(number >> bit & 1 for number in random) - 1000) < 134
