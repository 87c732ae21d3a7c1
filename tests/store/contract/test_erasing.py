"""Erased decisions: nothing of them can be read; numbers, hashes and all others are as before."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, LogPosition
from bandexa_core.log.rows import ErasedRow
from service.store.errors import Erased, UnknownDecision
from service.store.identity import first_key
from tests.fixtures.waiting import poll
from tests.store.contract.readable import FAR
from tests.store.logs import trim
from tests.store.reporting import rewards

NUM = 8
HERS = (1, 4)


@pytest.fixture
def bandit(client, store, make):
    return make.bandit(client, store, rewards=make.last_counts())


def fill(client, store, make, bandit) -> None:
    """Append decisions d0 to d7, of which two are of unit "her", and learn from all at once."""
    for number in range(NUM):
        decision = make.decision(bandit, f"d{number}", body_hash=b"0123456789abcdef")
        unit = "her" if number in HERS else "other"
        client.call(store.append_decision, replace(decision, unit=unit))
    for number in range(NUM):
        client.ask(rewards(store), make.report(f"d{number}", float(number)))
    client.commit()


def erase(client, store, *, unit=None, ids=(), bandit=None):
    """Erase all of it; returns the parts."""
    named = tuple(DecisionId(each) for each in ids)
    erasure = client.call(store.begin_erasure, bandit, unit, named)
    parts = [client.call(store.erase, erasure, 0)]
    while parts[-1].more:
        parts.append(client.call(store.erase, erasure, parts[-1].next))
    return parts


def rows(reader, bandit):
    return [row for group in reader.follow(bandit, LogPosition(0), FAR) for row in group.rows]


@pytest.mark.few(0, of="postgres")
def test_rows_of_an_erased_unit_teach_nothing_and_the_hashes_stay(client, store, make, bandit):
    fill(client, store, make, bandit)
    with store.reader() as reader, store.follower() as follower:
        before = rows(reader, bandit)
        log_hash = reader.hash_at(bandit.key, reader.head(bandit.key))
        parts = erase(client, store, unit="her")
        assert sum(len(ids) for part in parts for ids in part.decisions.values()) == len(HERS)
        for seen in (reader, follower):
            after = rows(seen, bandit)
            assert [row.position for row in after] == [row.position for row in before]
            gone = [index for index, row in enumerate(after) if isinstance(row, ErasedRow)]
            assert tuple(gone) == HERS
            for index in set(range(NUM)) - set(HERS):
                assert np.array_equal(after[index].context, before[index].context)
        assert reader.hash_at(bandit.key, reader.head(bandit.key)) == log_hash
        assert reader.count_learned(bandit.key, LogPosition(0), FAR) == NUM - len(HERS)
        assert reader.count_learned(bandit.key, LogPosition(2), FAR) == NUM - len(HERS) - 1
        assert reader.first_learned(bandit.key, 2, FAR) == 3
        assert [(mark.bandit, mark.first) for mark in reader.relearning()] == [(bandit.key, 2)]
        assert reader.erasures() == []


def test_what_is_reported_later_is_refused(client, store, make, bandit):
    server_made = store.ids.text(store.ids.new_key(bandit.key))
    key = store.ids.key(server_made)
    decision = replace(make.decision(bandit, server_made), key=key, unit="her")
    client.call(store.append_decision, decision)
    step = client.call(store.find_decision, server_made)
    erase(client, store, ids=[server_made])
    with pytest.raises(Erased):
        client.call(store.find_decision, server_made)
    with pytest.raises(Erased):
        client.call(rewards(store), make.report(server_made))
    with store.history() as history, pytest.raises(Erased):
        history.decision(bandit, server_made)
    assert step.decision.id == server_made
    with store.reader() as reader:
        assert reader.head(bandit.key) == 0
        assert reader.relearning() == [], "nothing was learned from it"


def test_a_callers_id_is_not_known_any_more(client, store, make, bandit):
    fill(client, store, make, bandit)
    erase(client, store, ids=["d1", "no-such-decision"])
    with pytest.raises(UnknownDecision):
        client.call(store.find_decision, DecisionId("d1"))
    assert client.call(store.find_decision, DecisionId("d2")).decision.id == "d2"


def test_only_the_named_bandits_decisions_are_erased(client, store, make, bandit):
    other = make.bandit(client, store, "other", rewards=make.last_counts())
    fill(client, store, make, bandit)
    [part] = erase(client, store, unit="her", bandit=other.key)
    assert part.decisions == {}
    parts = erase(client, store, unit="her", bandit=bandit.key)
    assert sum(len(ids) for part in parts for ids in part.decisions.values()) == len(HERS)


def test_a_rebuild_that_more_was_erased_since_does_not_count(client, store, make, bandit):
    fill(client, store, make, bandit)
    erase(client, store, ids=["d4"])
    with store.reader() as reader:
        [old] = reader.relearning()
        erase(client, store, ids=["d1"])
        client.call(store.relearned, old)
        [mark] = reader.relearning()
        assert mark.first == 2
        client.call(store.relearned, mark)
        assert reader.relearning() == []


def test_when_rows_were_blanked_is_known_after_the_rebuild(client, store, make, bandit):
    other = make.bandit(client, store, "other", rewards=make.last_counts())
    fill(client, store, make, bandit)
    with store.reader() as reader:
        assert reader.blanked() == []
        erase(client, store, ids=["d2"])
        erase(client, store, ids=["d4"])
        times = [(bandit.key, 1, 3, 3), (bandit.key, 2, 5, 5)]
        assert [tuple(each) for each in reader.blanked()] == times
        for mark in reader.relearning():
            client.call(store.relearned, mark)
        assert [tuple(each) for each in reader.blanked(bandit.key)] == times
        erase(client, store, ids=["d3", "d5"])
        included = [times[0], (bandit.key, 3, 4, 6)]  # and with it the second
        assert [tuple(each) for each in reader.blanked()] == included
        assert reader.blanked(other.key) == []
        client.call(store.delete_bandit, bandit)
        poll(lambda: reader.blanked() == [], "what a deleted bandit leaves to go")


def test_rows_of_the_sample_are_erased_whether_their_decision_is_stored_or_not(
    client, store, make, bandit
):
    fill(client, store, make, bandit)
    client.call(rewards(store), make.report("d0", 9.0))
    trim(client, store, bandit, NUM, 100)
    with store.reader() as reader:
        assert len(reader.evicted(bandit, LogPosition(NUM), FAR, 100).rows) == NUM
        erase(client, store, ids=["d4"])  # its decision is stored
        client.call(store.drop_decisions, bandit, first_key(bandit.key + 1), 0)
        erase(client, store, unit="her")  # d1: retention removed the decision
        sample = reader.evicted(bandit, LogPosition(NUM), FAR, 100)
        assert sorted(sample.rows.positions.tolist()) == [1, 3, 4, 6, 7, 8]
        assert reader.count_learned(bandit.key, LogPosition(0), FAR) == NUM - len(HERS)


@pytest.mark.few(0, of="postgres")
def test_samples_of_a_unit_are_erased_in_one_bandit_behind_many_of_another(client, store, make):
    both = [
        make.bandit(client, store, name=name, rewards=make.last_counts())
        for name in ("first", "second")
    ]
    for bandit in both:
        for number in range(60):  # more than one part erases
            decision = replace(make.decision(bandit, f"{bandit.name}-{number}"), unit="her")
            client.call(store.append_decision, decision)
        for number in range(60):
            client.ask(rewards(store), make.report(f"{bandit.name}-{number}", 1.0))
        client.commit()
        client.call(rewards(store), make.report(f"{bandit.name}-0", 9.0))  # the newest row stays
        trim(client, store, bandit, 60, 100)
        client.call(store.drop_decisions, bandit, first_key(bandit.key + 1), 0)
    parts = erase(client, store, unit="her", bandit=both[1].key)
    found = [store_samples(store, bandit) for bandit in both]
    assert found == [60, 0]
    assert sum(part.samples for part in parts) == 59, "the decision of the newest row is stored"


def store_samples(store, bandit) -> int:
    with store.reader() as reader:
        head = reader.head(bandit.key)
        sample = reader.evicted(bandit, reader.trim(bandit.key).position, head, 100)
        return 0 if sample is None else len(sample.rows)
