"""Old rows leave the store: what is removed, what stays, and what models are built from then."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.ids import ActionId, DecisionId, DecisionKey, LogPosition
from bandexa_core.log import contract
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.contract import Reported
from bandexa_core.replay.evicted import ranks
from service.store.errors import LogTrimmed, UnknownDecision
from service.store.identity import first_key
from service.store.protocol import Step
from tests.store.contract.readable import FAR
from tests.store.logs import decide, learn, learn_rows, trim
from tests.store.reporting import rewards


def key_of(client, store, name: str) -> DecisionKey:
    """Return the key of a stored decision."""
    key: DecisionKey = client.call(store.find_decision, DecisionId(name)).decision.key
    return key


@pytest.fixture
def bandit(client, store, make):
    return make.bandit(client, store, rewards=make.last_counts())


@pytest.mark.few(0, of="postgres")
def test_learn_rows_leave_the_log_and_nothing_else_changes(client, store, make, bandit):
    ids = tuple(ActionId(name) for name in ("a0", "a1"))
    change = CatalogueChange(ids, np.ones((2, 2), np.float32), np.ones(2, np.bool_))
    client.call(store.append_change, bandit, change)
    learn(client, store, make, bandit, 0, 1200)  # rows 2 to 1201, in more than one transaction
    with store.reader() as reader:
        before = learn_rows(reader, bandit, 1101)
        head, log_hash = reader.head(bandit.key), reader.hash_at(bandit.key, LogPosition(1101))
        trim(client, store, bandit, 1101)
        found = reader.trim(bandit.key)
        assert (found.position, found.hash, found.learned) == (1101, log_hash, 1100)
        after = learn_rows(reader, bandit, 1101)
        assert [row.decision_id for row in after] == [row.decision_id for row in before]
        assert reader.head(bandit.key) == head
        assert reader.hash_at(bandit.key, LogPosition(1101)) == log_hash
        assert reader.hash_at(bandit.key, LogPosition(1000)) is None
        assert reader.hash_at(bandit.key, LogPosition(0)) is None, "snapshot 0 has no tail left"
        assert reader.count_learned(bandit.key, LogPosition(0), FAR) == 1200
        assert list(reader.catalogue_at(bandit, LogPosition(1101)).ids) == ["a0", "a1"]
        with pytest.raises(LogTrimmed, match="after row 1100 was removed"):
            learn_rows(reader, bandit, 1100)
    learn(client, store, make, bandit, 1200, 1)
    with store.reader() as reader:
        assert reader.head(bandit.key) == head + 1


def test_the_newest_row_stays(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 5)
    trim(client, store, bandit, 99)
    learn(client, store, make, bandit, 5, 1)
    with store.reader() as reader:
        assert [row.position for row in learn_rows(reader, bandit, 4)] == [5, 6]


def test_decisions_are_removed_once_no_row_refers_to_them(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 10)
    decide(client, store, make, bandit, 10, 3)  # never rewarded
    client.call(rewards(store), make.report("d1", 9.0))  # row 11 corrects row 2
    trim(client, store, bandit, 6)
    dropped = client.call(
        store.drop_decisions, bandit, key_of(client, store, "d11"), DecisionKey(0)
    )
    assert (dropped.num, dropped.more) == (6, False)  # d0, d2 to d5; and d10, which has no reward
    with store.reader() as reader:
        left = [name for name in (f"d{n}" for n in range(13)) if reader.answer(name) is not None]
        assert left == ["d1", *(f"d{n}" for n in range(6, 10)), "d11", "d12"]
        assert [row.after for row in learn_rows(reader, bandit, 6)][-1] == 9.0
    with pytest.raises(UnknownDecision):
        client.call(rewards(store), make.report("d0"))
    assert client.call(rewards(store), make.report("d1", 2.0)).row.before == 9.0


def test_readers_know_what_there_is_to_remove(client, store, make, bandit):
    empty = make.bandit(client, store, name="empty")
    learn(client, store, make, bandit, 0, 10)
    with store.reader() as reader:
        assert reader.with_old_rows(1e12, 1 << 20) == {bandit.key}
        assert reader.with_old_rows(-1.0, 1 << 20) == set()
        assert not reader.may_trim(empty.key, FAR)
        assert reader.may_trim(bandit.key, FAR)
        end, start = first_key(bandit.key + 1), DecisionKey(0)
        assert reader.may_drop(bandit, end, start)
        held = client.call(store.drop_decisions, bandit, end, start)
        assert held.num == 0, "the log refers to all of them"
        assert not reader.may_drop(bandit, end, held.last), "nothing is examined twice"
        trim(client, store, bandit, 6)
        assert not reader.may_trim(bandit.key, LogPosition(6))
        trim(client, store, bandit, 99)
        assert not reader.may_trim(bandit.key, FAR), "the newest row stays"


def test_a_decision_whose_window_is_open_stays(client, store, make):
    windowed = make.bandit(client, store, name="w", rewards=make.window(1000.0))
    decide(client, store, make, windowed, 0, 3)
    with store.reader() as reader:
        assert not reader.may_drop(windowed, first_key(windowed.key + 1), DecisionKey(0))
    assert (
        client.call(store.drop_decisions, windowed, first_key(windowed.key + 1), DecisionKey(0)).num
        == 0
    )


def test_a_decision_that_the_log_held_back_goes_with_its_rows(client, store, make, bandit):
    """Nobody has to examine it again, and nothing is removed that was not old when examined."""
    learn(client, store, make, bandit, 0, 10)
    client.call(rewards(store), make.report("d1", 9.0))  # row 11 corrects row 2
    before = key_of(client, store, "d6")
    first = client.call(store.drop_decisions, bandit, before, DecisionKey(0))
    assert first.num == 0, "all are in the log"
    with store.reader() as reader:
        assert not reader.may_drop(bandit, before, first.last), "nothing is examined twice"
    freed = client.call(store.trim_log, bandit, LogPosition(8), 100)
    assert freed.num == 5
    with store.reader() as reader:
        left = [n for n in range(10) if reader.answer(DecisionId(f"d{n}")) is not None]
    assert left == [1, 6, 7, 8, 9]


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("steps", [[40], [3, 17, 18, 40]])
def test_the_sample_has_the_lowest_ranks_in_any_number_of_steps(client, store, make, bandit, steps):
    learn(client, store, make, bandit, 0, 50)
    origins = np.arange(1, 41)
    expected = np.sort(origins[np.argsort(ranks(bandit.uid, origins))[:12]])
    with store.reader() as reader:
        all_rows = {row.position: row for row in learn_rows(reader, bandit, 0)}
        for position in steps:
            trim(client, store, bandit, position, size=12)
        stored = reader.evicted(bandit, LogPosition(40), FAR, 12)
        assert stored is not None
        assert stored.num_rows == 40
        assert stored.rows.positions.tolist() == expected.tolist()
        for number, position in enumerate(expected):
            row = all_rows[LogPosition(int(position))]
            assert stored.rows.rewards[number] == row.after
            assert stored.rows.slots[number] == row.slot
            assert stored.rows.contexts[number].tobytes() == row.context.tobytes()
            assert stored.rows.actions[number].tobytes() == row.action.tobytes()


@pytest.mark.few(0, of="postgres")
def test_rows_still_in_the_log_are_sampled_beside_those_that_left_it(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 50)
    with store.reader() as reader:
        before = reader.evicted(bandit, LogPosition(40), FAR, 12)
        trim(client, store, bandit, 25, size=12)
        after = reader.evicted(bandit, LogPosition(40), FAR, 12)
        assert before is not None
        assert after is not None
        assert before.num_rows == after.num_rows == 40
        for name in ("positions", "slots", "rewards", "actions", "contexts"):
            assert np.array_equal(getattr(before.rows, name), getattr(after.rows, name)), name
        with pytest.raises(LogTrimmed):
            reader.evicted(bandit, LogPosition(24), FAR, 12)


def within_reach(bandit) -> list[int]:
    """Return the positions up to 40 whose rank a sample of 4 of the first 25 rows reached."""
    all_ranks = ranks(bandit.uid, np.arange(1, 41))
    reach = np.sort(all_ranks[:25])[3]
    return (np.flatnonzero(all_ranks <= reach) + 1).tolist()


@pytest.mark.few(0, of="postgres")
def test_a_sample_that_was_smaller_before_stays_uniform(client, store, make, bandit):
    """A larger sample later has no row of a higher rank than the smaller one reached."""
    learn(client, store, make, bandit, 0, 50)
    trim(client, store, bandit, 25, size=4)
    with store.reader() as reader:
        found = reader.evicted(bandit, LogPosition(40), FAR, 30)
        assert found is not None
        assert found.rows.positions.tolist() == within_reach(bandit)


@pytest.mark.few(0, of="postgres")
def test_a_sample_that_grows_again_takes_no_row_beyond_what_it_reached(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 50)
    trim(client, store, bandit, 25, size=4)
    trim(client, store, bandit, 40, size=30)
    with store.reader() as reader:
        found = reader.evicted(bandit, LogPosition(40), FAR, 30)
        assert found is not None
        assert len(within_reach(bandit)) > 4, "later rows take part as well"
        assert found.rows.positions.tolist() == within_reach(bandit)


def test_values_are_those_of_the_requested_position(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 10)
    trim(client, store, bandit, 5)
    client.call(rewards(store), make.report("d1", 7.0))  # row 11, of a row that left the log
    client.call(rewards(store), make.report("d8", 8.0))  # row 12, of one that is in it
    client.call(rewards(store), make.report("d1", 6.0))  # row 13
    with store.reader() as reader:

        def values(position: int) -> tuple[float, float]:
            sample = reader.evicted(bandit, LogPosition(9), LogPosition(position), 100)
            assert sample is not None
            return float(sample.rows.rewards[1]), float(sample.rows.rewards[8])

        assert [values(p) for p in (10, 11, 12, 13)] == [
            (1 / 8, 1.0), (7.0, 1.0), (7.0, 8.0), (6.0, 8.0)
        ]  # fmt: skip


def test_without_a_sample_no_removed_row_stays(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 20)
    trim(client, store, bandit, 10, size=5)
    trim(client, store, bandit, 15, size=0)
    with store.reader() as reader:
        assert reader.evicted(bandit, LogPosition(15), FAR, 10) is None
        assert reader.trim(bandit.key).learned == 15


def catalogue_change(*ids: str, value: float) -> CatalogueChange:
    names = tuple(ActionId(name) for name in ids)
    features = np.full((len(ids), 2), value, np.float32)
    return CatalogueChange(names, features, np.array([value < 3] * len(ids), np.bool_))


def test_changes_of_the_catalogue_go_once_no_decision_is_older(client, store, make, bandit):
    """Rows 1, 2, 4 and 6 change it; d0 was made at row 2, d1 at row 4."""
    client.call(store.append_change, bandit, catalogue_change("a", "b", value=1.0))
    client.call(store.append_change, bandit, catalogue_change("c", value=2.0))
    for number, at in enumerate((2, 4)):
        decision = replace(make.decision(bandit, f"d{number}"), position=LogPosition(at), time=at)
        client.call(store.append_decision, decision)
        client.call(rewards(store), make.report(f"d{number}"))
        client.call(store.append_change, bandit, catalogue_change("b", value=number + 3.0))
    learn(client, store, make, bandit, 10, 1)  # row 7
    with store.reader() as reader:
        before = {n: reader.catalogue_at(bandit, LogPosition(n)) for n in range(1, 8)}
        assert reader.removable_changes(bandit.key) == (0, 0), "the log still begins at row 1"
        trim(client, store, bandit, 5)
        up_to, num_bytes = reader.removable_changes(bandit.key)
        assert up_to == 2, "d0 was made there"
        assert num_bytes > 0
        client.call(store.drop_decisions, bandit, key_of(client, store, "d1"), DecisionKey(0))
        assert reader.removable_changes(bandit.key)[0] == 2, "its row, 3, is sampled"
        trim(client, store, bandit, 6, size=0)
        up_to, _ = reader.removable_changes(bandit.key)
        assert up_to == 4, "d1 was made there"
        client.call(store.trim_catalogue, bandit, before[7], LogPosition(7))
        assert reader.removable_changes(bandit.key)[1] > 0, "the log does not begin there"


def test_the_catalogue_is_the_same_after_its_changes_went(client, store, make, bandit):
    client.call(store.append_change, bandit, catalogue_change("a", "b", value=1.0))
    client.call(store.append_change, bandit, catalogue_change("c", "a", value=4.0))
    learn(client, store, make, bandit, 0, 3)
    client.call(store.append_change, bandit, catalogue_change("d", value=2.0))  # row 6
    learn(client, store, make, bandit, 3, 1)
    trim(client, store, bandit, 6, size=0)
    with store.reader() as reader:
        expected = {n: reader.catalogue_at(bandit, LogPosition(n)) for n in range(2, 8)}
        client.call(store.trim_catalogue, bandit, expected[2], LogPosition(2))
        for position, catalogue in expected.items():
            found = reader.catalogue_at(bandit, LogPosition(position))
            assert (found.ids, found.slots) == (catalogue.ids, catalogue.slots)
            assert found.features.tobytes() == catalogue.features.tobytes()
            assert found.enabled.tolist() == catalogue.enabled.tolist()
        with pytest.raises(LogTrimmed, match="before row 2"):
            reader.catalogue_at(bandit, LogPosition(1))


def test_of_several_reports_in_one_commit_the_last_is_sampled(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 9)
    trim(client, store, bandit, 6)
    decision = client.call(store.find_decision, DecisionId("d2")).decision
    for value in (0.5, 4.0, -0.0):
        reported = Reported(0, value, None)
        _, change = contract.report(decision.state, reported, bandit.spec.rewards, 100)
        assert change is not None
        client.ask(store.append_step, Step(decision, change, 50.0, reported))
        decision = replace(decision, state=change.state)
    client.commit()
    with store.reader() as reader:
        sample = reader.evicted(bandit, LogPosition(6), FAR, 100).rows
    assert str(sample.rewards[list(sample.positions).index(3)]) == "0.0", "without the sign"
    with store.history() as history:
        reports = history.decision(bandit, DecisionId("d2")).rewards
    assert [str(each.reward) for each in reports][1:] == ["0.5", "4.0", "0.0"]


def test_look_ups_of_one_commit_are_answered_one_by_one(client, store, make, bandit):
    made = "0123456789abcdef" * 2  # stored as bytes by some
    record = make.decision(bandit, made)
    own = make.decision(bandit, "x")
    own = replace(own, decision_id=store.ids.text(own.key))
    learn(client, store, make, bandit, 0, 2)
    for each in (record, own):
        client.call(store.append_decision, each)
    client.call(rewards(store), replace(make.report("d1", 4.0), reward_id="r"))
    names = ["d1", "nobody", made, own.decision_id, "d1", "d0"]
    asked = [client.ask(store.find_decision, DecisionId(name)) for name in names]
    client.commit()
    missing = asked.pop(1)
    assert isinstance(missing.exception(0), UnknownDecision)
    found = [each.result(0) for each in asked]
    assert [each.decision.id for each in found] == [name for name in names if name != "nobody"]
    assert [dict(each.rewards) for each in found] == [
        {(0, "r"): [4.0]}, {}, {}, {(0, "r"): [4.0]}, {},
    ]  # fmt: skip
