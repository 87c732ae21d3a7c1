"""Old rows leave the store: what goes, what is held, what is left for models to be made from."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from bandexa_core.ids import ActionId, LogPosition
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import LearnRow
from bandexa_core.replay.evicted import ranks
from service.store.errors import LogTrimmed, UnknownDecision

FAR = LogPosition(1 << 40)


def decide(desk, store, make, bandit, first: int, num: int, time: float = 5.0) -> None:
    for number in range(first, first + num):
        decision = make.decision(bandit, f"d{number}")._replace(time=time + number)
        desk.call(store.append_decision, decision)


def learn(desk, store, make, bandit, first: int, num: int) -> None:
    decide(desk, store, make, bandit, first, num)
    for number in range(first, first + num):
        desk.call(store.append_reward, make.report(f"d{number}", number / 8))


def trim(desk, store, bandit, up_to: int, size: int = 100) -> None:
    while desk.call(store.trim_log, bandit, LogPosition(up_to), size):
        pass


def rows_after(reader, bandit, after: int) -> list[LearnRow]:
    chunks = reader.follow(bandit, LogPosition(after), FAR)
    return [row for chunk in chunks for row in chunk if isinstance(row, LearnRow)]


@pytest.fixture
def bandit(desk, store, make):
    return make.bandit(desk, store, rewards=make.last_counts())


def test_learn_rows_leave_the_log_and_nothing_else_changes(desk, store, make, bandit):
    ids = tuple(ActionId(name) for name in ("a0", "a1"))
    change = CatalogueChange(ids, np.ones((2, 2), np.float32), np.ones(2, np.bool_))
    desk.call(store.append_change, bandit, change)
    learn(desk, store, make, bandit, 0, 1200)  # rows 2 to 1201, in more than one transaction
    with store.reader() as reader:
        before = rows_after(reader, bandit, 1101)
        head, log_hash = reader.head(bandit.key), reader.hash_at(bandit.key, LogPosition(1101))
        trim(desk, store, bandit, 1101)
        found = reader.trim(bandit.key)
        assert (found.position, found.hash, found.learned) == (1101, log_hash, 1100)
        after = rows_after(reader, bandit, 1101)
        assert [row.decision_id for row in after] == [row.decision_id for row in before]
        assert reader.head(bandit.key) == head
        assert reader.hash_at(bandit.key, LogPosition(1101)) == log_hash
        assert reader.hash_at(bandit.key, LogPosition(1000)) is None
        assert reader.hash_at(bandit.key, LogPosition(0)) is None, "snapshot 0 has no tail left"
        assert reader.count_learned(bandit.key, LogPosition(0), FAR) == 1200
        assert list(reader.catalogue_at(bandit, LogPosition(1101)).ids) == ["a0", "a1"]
        with pytest.raises(LogTrimmed, match="after row 1100 was removed"):
            rows_after(reader, bandit, 1100)
    learn(desk, store, make, bandit, 1200, 1)
    with store.reader() as reader:
        assert reader.head(bandit.key) == head + 1


def test_the_newest_row_stays(desk, store, make, bandit):
    learn(desk, store, make, bandit, 0, 5)
    trim(desk, store, bandit, 99)
    store.close()
    again = desk.open()
    learn(desk, again, make, bandit, 5, 1)
    with again.reader() as reader:
        assert [row.position for row in rows_after(reader, bandit, 4)] == [5, 6]


def test_decisions_go_once_no_row_refers_to_them(desk, store, make, bandit):
    learn(desk, store, make, bandit, 0, 10)
    decide(desk, store, make, bandit, 10, 3)  # never rewarded
    desk.call(store.append_reward, make.report("d1", 9.0))  # row 11 corrects row 2
    trim(desk, store, bandit, 6)
    dropped = desk.call(store.drop_decisions, 5.0 + 11, 0)
    assert (dropped.num, dropped.more) == (6, False)  # d0, d2 to d5; and d10, of no reward
    with store.reader() as reader:
        left = [name for name in (f"d{n}" for n in range(13)) if reader.answer(name) is not None]
        assert left == ["d1", *(f"d{n}" for n in range(6, 10)), "d11", "d12"]
        assert [row.after for row in rows_after(reader, bandit, 6)][-1] == 9.0
    with pytest.raises(UnknownDecision):
        desk.call(store.append_reward, make.report("d0"))
    assert desk.call(store.append_reward, make.report("d1", 2.0)).row.before == 9.0


def test_a_decision_whose_window_is_open_stays(desk, store, make):
    windowed = make.bandit(desk, store, name="w", rewards=make.window(1000.0))
    decide(desk, store, make, windowed, 0, 3)
    assert desk.call(store.drop_decisions, 1e9, 0).num == 0


@pytest.mark.parametrize("steps", [[40], [3, 17, 18, 40]])
def test_the_sample_is_of_the_lowest_ranks_however_it_was_evicted(desk, store, make, bandit, steps):
    learn(desk, store, make, bandit, 0, 50)
    origins = np.arange(1, 41)
    expected = np.sort(origins[np.argsort(ranks(bandit.uid, origins))[:12]])
    with store.reader() as reader:
        all_rows = {row.position: row for row in rows_after(reader, bandit, 0)}
        for position in steps:
            trim(desk, store, bandit, position, size=12)
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


def test_rows_still_in_the_log_are_sampled_beside_those_that_left_it(desk, store, make, bandit):
    learn(desk, store, make, bandit, 0, 50)
    with store.reader() as reader:
        before = reader.evicted(bandit, LogPosition(40), FAR, 12)
        trim(desk, store, bandit, 25, size=12)
        after = reader.evicted(bandit, LogPosition(40), FAR, 12)
        assert before is not None
        assert after is not None
        assert before.num_rows == after.num_rows == 40
        for name in ("positions", "slots", "rewards", "actions", "contexts"):
            assert np.array_equal(getattr(before.rows, name), getattr(after.rows, name)), name
        with pytest.raises(LogTrimmed):
            reader.evicted(bandit, LogPosition(24), FAR, 12)


def test_a_sample_that_was_kept_smaller_stays_uniform(desk, store, make, bandit):
    """A larger sample later may hold no row whose rank the smaller one did not reach."""
    learn(desk, store, make, bandit, 0, 50)
    trim(desk, store, bandit, 25, size=4)
    with store.reader() as reader:
        found = reader.evicted(bandit, LogPosition(40), FAR, 30)
        assert found is not None
        all_ranks = ranks(bandit.uid, np.arange(1, 41))
        reach = np.sort(all_ranks[:25])[3]
        expected = np.flatnonzero(all_ranks <= reach) + 1
        assert found.rows.positions.tolist() == expected.tolist()


def test_values_are_those_of_the_position_asked_for(desk, store, make, bandit):
    learn(desk, store, make, bandit, 0, 10)
    trim(desk, store, bandit, 5)
    desk.call(store.append_reward, make.report("d1", 7.0))  # row 11, of a row that left the log
    desk.call(store.append_reward, make.report("d8", 8.0))  # row 12, of one that is in it
    desk.call(store.append_reward, make.report("d1", 6.0))  # row 13
    with store.reader() as reader:

        def values(position: int) -> tuple[float, float]:
            sample = reader.evicted(bandit, LogPosition(9), LogPosition(position), 100)
            assert sample is not None
            return float(sample.rows.rewards[1]), float(sample.rows.rewards[8])

        assert [values(p) for p in (10, 11, 12, 13)] == [
            (1 / 8, 1.0), (7.0, 1.0), (7.0, 8.0), (6.0, 8.0)
        ]  # fmt: skip


def test_without_a_sample_nothing_of_the_rows_stays(desk, store, make, bandit):
    learn(desk, store, make, bandit, 0, 20)
    trim(desk, store, bandit, 10, size=5)
    trim(desk, store, bandit, 15, size=0)
    with store.reader() as reader:
        assert reader.evicted(bandit, LogPosition(15), FAR, 10) is None
        assert reader.trim(bandit.key).learned == 15


def test_a_deleted_bandit_leaves_no_sample(desk, store, make, bandit):
    learn(desk, store, make, bandit, 0, 20)
    trim(desk, store, bandit, 10)
    desk.call(store.delete_bandit, bandit)
    store.close()
    with closing(sqlite3.connect(desk.path)) as connection:
        for table in ("trims", "evicted", "log", "decisions"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
