"""Learn rows have the bounds of their values: those of earlier first values, or of the origin."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey, LogPosition
from bandexa_core.log.bounds import RewardBounds
from bandexa_core.log.rows import LearnRow
from bandexa_core.spec import RewardSpec
from tests.store.contract.readable import FAR
from tests.store.logs import decide, learn_rows, trim
from tests.store.reporting import close_windows, rewards

VALUES = np.random.default_rng(3).random(40).round(3).tolist()
FIRST = 20  # values; later ones have bounds


def report(client, store, make, bandit, values: list[float], first: int = 0) -> None:
    """Store the decisions d<first> and so on, and reward each."""
    decide(client, store, make, bandit, first, len(values))
    for number, value in enumerate(values, first):
        client.call(rewards(store), make.report(f"d{number}", value))


def rows_of(store, bandit, after: int = 0) -> list[LearnRow]:
    with store.reader() as reader:
        return learn_rows(reader, bandit, after)


def bounds_of(rows: list[LearnRow]) -> list[tuple[float | None, float | None]]:
    return [(row.low, row.high) for row in rows]


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("reward_range", [None, (0.0, 4.0)])
def test_a_first_value_has_the_bounds_of_those_before_it(client, store, make, reward_range):
    bandit = make.bandit(client, store, reward_range=reward_range)
    values = [*VALUES[:FIRST], 1e4, *VALUES[FIRST:]]
    report(client, store, make, bandit, values)
    expected = RewardBounds(reward_range)
    assert bounds_of(rows_of(store, bandit)) == [expected.take(value) for value in values]
    wrong = rows_of(store, bandit)[FIRST]
    assert wrong.after == 1e4, "it is recorded as it was reported"
    assert wrong.learned == wrong.high is not None


def test_values_of_metrics_have_no_bounds_whatever_held_for_their_decision(client, store, make):
    """Decisions from before `rewards.learn` take metrics, too."""
    bandit = make.bandit(client, store)
    report(client, store, make, bandit, VALUES)
    decide(client, store, make, bandit, 40, 1)
    client.call(rewards(store), make.report("d40", (("money", 1e4),)))
    report(client, store, make, bandit, [0.5], first=41)
    *_, of_metrics, single = rows_of(store, bandit)
    assert of_metrics.metrics == (("money", 1e4),)
    assert bounds_of([of_metrics]) == [(None, None)]
    assert bounds_of([single]) == [RewardBounds(values=VALUES).current()]


def test_values_of_one_commit_count_for_those_behind_them(client, store, make):
    bandit = make.bandit(client, store)
    decide(client, store, make, bandit, 0, len(VALUES))
    for number, value in enumerate(VALUES):
        client.ask(rewards(store), make.report(f"d{number}", value))
    client.commit()
    expected = RewardBounds()
    assert bounds_of(rows_of(store, bandit)) == [
        expected.take(row.after) for row in rows_of(store, bandit)
    ]


@pytest.mark.few(0, of="postgres")
def test_a_correction_has_the_bounds_of_the_first_value(client, store, make):
    bandit = make.bandit(client, store, rewards=make.last_counts())
    report(client, store, make, bandit, [*VALUES, 1e4])
    client.call(rewards(store), make.report("d40", 500.0))
    client.call(rewards(store), make.report("d2", 1e4))  # it was learned before there were bounds
    *_, first, correction, early = rows_of(store, bandit)
    assert (correction.before, correction.after) == (1e4, 500.0)
    assert bounds_of([correction]) == bounds_of([first])
    assert correction.learned_before == correction.learned == first.high
    assert (early.low, early.high, early.learned) == (None, None, 1e4)
    later = RewardBounds(values=[*VALUES, 1e4])  # corrections are no first values
    report(client, store, make, bandit, [0.5], first=41)
    assert bounds_of(rows_of(store, bandit)[-1:]) == [later.current()]


@pytest.mark.few(0, of="postgres")
def test_a_correction_has_them_too_when_the_first_row_has_left_the_log(client, store, make):
    bandit = make.bandit(client, store, rewards=make.last_counts())
    report(client, store, make, bandit, [*VALUES, 1e4, 0.5])
    (high,) = [row.high for row in rows_of(store, bandit) if row.after == 1e4]
    trim(client, store, bandit, 41)
    with store.reader() as reader:
        assert reader.trim(bandit.key).position == 41
        evicted = reader.evicted(bandit, LogPosition(41), FAR, 100)
        assert evicted.rows.rewards.tolist() == [*VALUES, high], "as they are learned"
        client.call(rewards(store), make.report("d40", 2e4))
        (correction,) = rows_of(store, bandit, 42)
        assert (correction.before, correction.after) == (1e4, 2e4)
        assert correction.learned_before == correction.learned == high
        client.call(rewards(store), make.report("d40", 0.25))
        for position, value in ((42, high), (43, high), (44, 0.25)):
            found = reader.evicted(bandit, LogPosition(41), LogPosition(position), 100)
            assert found.rows.rewards[-1] == value


@pytest.mark.few(0, of="postgres")
def test_the_default_reward_of_a_closed_window_is_a_first_value(client, store, make):
    rules = RewardSpec(reward_window_s=2.0, default_reward=7.0)
    bandit = make.bandit(client, store, rewards=rules)
    client.call(store.due_windows)
    report(client, store, make, bandit, VALUES)
    decide(client, store, make, bandit, 40, 1)
    client.clock.now += 3.0
    close_windows(client.call, store, client.clock.now)
    last = rows_of(store, bandit)[-1]
    assert (last.after, *bounds_of([last])[0]) == (7.0, *RewardBounds(values=VALUES).current())
    assert last.learned == last.high != 7.0
    with store.history() as history:
        found = history.decision(bandit, DecisionId("d40"))
        assert [(value.after, value.learned) for value in found.learned] == [(7.0, last.high)]


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": RewardSpec(clip_outliers=False)},
        {"edition": 1, "reward_range": (0.0, 1.0)},
        {"rewards": RewardSpec(aggregate="sum")},
        {"rewards": RewardSpec(aggregate="last")},
    ],
)
def test_bandits_that_do_not_clip_have_no_bounds(client, store, make, changes):
    bandit = make.bandit(client, store, **changes)
    decide(client, store, make, bandit, 0, 30)
    for number in range(30):
        sent = replace(make.report(f"d{number}", VALUES[number]), reward_id="r")
        client.call(rewards(store), sent)
    assert set(bounds_of(rows_of(store, bandit))) == {(None, None)}


@pytest.mark.few(0, of="postgres")
def test_a_bandit_of_the_name_of_a_deleted_one_starts_without_values(client, store, make):
    bandit = make.bandit(client, store)
    report(client, store, make, bandit, VALUES)
    client.call(store.delete_bandit, bandit)
    again = make.bandit(client, store)
    decide(client, store, make, again, 50, 1)
    client.call(rewards(store), make.report("d50", 1e4))
    assert bounds_of(rows_of(store, again)) == [(None, None)]
    assert DecisionKey(again.key) != bandit.key
