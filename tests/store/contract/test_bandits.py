"""Bandits: created under one uid, deleted with all that is stored of them."""

from __future__ import annotations

import pytest

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from service.store.errors import Conflict, UnknownDecision
from service.store.identity import first_key
from service.store.records import AuditEntry, RoundRecord
from tests.store.contract.readable import FAR, Readers
from tests.store.logs import change, trim
from tests.store.reporting import first_step, rewards

ROUND = RoundRecord(5.0, 1, 1, 0.5, None, None, None, None)


def test_a_bandit_is_created_under_the_next_uid_of_its_name_alone(client, store, make):
    with store.reader() as reader:
        first = reader.next_uid("b")
        with pytest.raises(Conflict, match="meanwhile"):
            client.call(store.create_bandit, BanditUid("another"), "b", make.spec())
        made = client.call(store.create_bandit, first, "b", make.spec())
        assert (made.uid, made.name, made.spec) == (first, "b", make.spec())
        assert made.created == client.clock.now
        second = reader.next_uid("b")
        with pytest.raises(Conflict, match="already"):
            client.call(store.create_bandit, second, "b", make.spec())
        assert reader.bandits() == [made]
    assert second != first


def test_of_two_bandits_of_one_name_in_one_commit_the_first_is_created(client, store, make):
    with store.reader() as reader:
        uid = reader.next_uid("b")
        won = client.ask(store.create_bandit, uid, "b", make.spec())
        lost = client.ask(store.create_bandit, uid, "b", make.spec())
        client.commit()
        assert isinstance(lost.exception(0), Conflict)
        assert reader.bandits() == [won.result(0)]


def test_bandits_are_listed_by_name(client, store, make):
    for name in ("m", "z", "a"):
        make.bandit(client, store, name)
    with store.reader() as reader:
        assert [record.name for record in reader.bandits()] == ["a", "m", "z"]
        assert reader.deleted() == []


def test_a_name_created_again_is_another_bandit(client, store, make):
    first = make.bandit(client, store)
    client.call(store.delete_bandit, first)
    second = make.bandit(client, store)
    assert second.uid != first.uid
    assert second.key != first.key
    with store.reader() as reader:
        assert reader.bandits() == [second]
        assert reader.deleted() == [first.uid]


def fill(client, store, make, bandit, num: int) -> None:
    """Store something of every kind, trim part of it, and leave a reward window open."""
    client.call(store.append_change, bandit, change("a0"))
    for number in range(num):
        name = f"{bandit.name}{number}"
        client.call(store.append_decision, make.decision(bandit, name))
        client.call(rewards(store), make.report(name, number / 4))
    client.call(store.append_config, bandit, bandit.spec)
    client.call(store.append_import, bandit, SnapshotVersion(3))
    client.call(store.append_round, bandit, ROUND)
    trim(client, store, bandit, 3, 10)
    with store.reader() as reader:
        actions = reader.catalogue_at(bandit, LogPosition(1))
    client.call(store.trim_catalogue, bandit, actions, LogPosition(1))


@pytest.mark.few(0, of="postgres")
def test_deleting_removes_all_of_a_bandit_and_nothing_of_another(client, store, make):
    window = make.window(1000.0)
    doomed = make.bandit(client, store, "doomed", rewards=window)
    other = make.bandit(client, store, "other", rewards=window)
    fill(client, store, make, doomed, 5)
    fill(client, store, make, other, 5)
    kept = [DecisionId(f"other{n}") for n in range(5)]
    with Readers(store) as readers:
        before = readers.of_log(other, 9.0), readers.of_decisions(other, kept, 9.0)
        client.call(store.delete_bandit, doomed)
        assert (readers.of_log(other, 9.0), readers.of_decisions(other, kept, 9.0)) == before

        log, key = readers.log, doomed.key
        assert log.bandits() == [other]
        assert (log.head(key), log.trim(key).position, log.trim(key).learned) == (0, 0, 0)
        assert log.hash_at(key, LogPosition(1)) is None
        assert list(log.follow(doomed, LogPosition(0), FAR)) == []
        assert log.count_learned(key, LogPosition(0), FAR) == 0
        assert log.evicted(doomed, LogPosition(0), LogPosition(0), 10) is None
        assert (log.imports(key), log.last_import(key, FAR)) == ({}, 0)
        assert log.removable_changes(key) == (0, 0)
        assert log.catalogue_at(doomed, LogPosition(0)).ids == ()
        assert log.answer(DecisionId("doomed0")) is None
        history, counting = readers.history, readers.counting
        assert history.decision(doomed, DecisionId("doomed0")) is None
        assert (history.newest(doomed, None, 9), history.rounds(doomed, 0.0, 9)) == ([], [])
        assert list(counting.newest()) == [other.key]
        assert counting.decisions(key, 0, 9, 1 << 20) == []
        assert counting.learned(key, 0, 99, 9) == []
    client.clock.now += 1e6
    client.call(store.due_windows)
    for _ in range(700):
        client.clock.now += 3.0
        due = client.call(store.due_windows)
    assert {decision.bandit.name for _, decision in due.windows} == {"other"}
    again = make.bandit(client, store, "doomed")
    assert client.call(store.append_decision, make.decision(again, "doomed1")) is None


def test_appends_queued_behind_a_deletion_are_refused(client, store, make):
    bandit = make.bandit(client, store)
    first = make.decision(bandit, "d0")
    client.call(store.append_decision, first)
    deleted = client.ask(store.delete_bandit, bandit)
    refused = [
        client.ask(store.append_decision, make.decision(bandit, "d1")),
        client.ask(store.append_config, bandit, make.spec()),
        client.ask(store.append_change, bandit, change("a0")),
        client.ask(store.append_import, bandit, SnapshotVersion(1)),
    ]
    reward = client.ask(store.append_step, first_step(bandit, first))
    looked_up = client.ask(store.find_decision, DecisionId("d0"))
    nothing = [
        client.ask(store.append_round, bandit, ROUND),
        client.ask(store.append_propensity, first.key, 0.5),
    ]
    trimmed = client.ask(store.trim_log, bandit, LogPosition(9), 5)
    dropped = client.ask(store.drop_decisions, bandit, first_key(bandit.key + 1), DecisionKey(0))
    client.commit()
    assert deleted.result(0) is None
    assert [type(future.exception(0)) for future in refused] == [Conflict] * 4
    assert isinstance(reward.exception(0), UnknownDecision)
    assert isinstance(looked_up.exception(0), UnknownDecision)
    assert [future.result(0) for future in nothing] == [None] * 2
    assert trimmed.result(0) == (0, False)
    assert (dropped.result(0).num, dropped.result(0).more) == (0, False)
    with store.reader() as reader, store.history() as history:
        assert reader.head(bandit.key) == 0
        assert history.newest(bandit, None, 9) == history.rounds(bandit, 0.0, 9) == []


def test_the_audit_trail_is_by_name_newest_first_and_outlives_its_bandit(client, store, make):
    bandit = make.bandit(client, store, "shop")
    given = [
        AuditEntry(float(n), name, "ops", f"PUT {n}", '[{"key": "a", "old": null, "new": 1}]')
        for n, name in enumerate(["shop", "other", "shop", "shop"])
    ]
    for entry in given:
        assert client.call(store.append_audit, entry) is None
    client.call(store.delete_bandit, bandit)
    with store.history() as history:
        found = history.audit("shop", None, 10)
        assert [each._replace(row=0) for each in found] == [given[3], given[2], given[0]]
        assert [each.row for each in found] == sorted((each.row for each in found), reverse=True)
        assert history.audit("shop", found[0].row, 1) == found[1:2]
        assert history.audit("nothing", None, 10) == []


def test_challengers_are_stored_replaced_and_removed_with_their_bandit(client, store, make):
    bandit, other = make.bandit(client, store, "shop"), make.bandit(client, store, "other")
    for name, state in (("wide", "1"), ("linear", "2"), ("wide", "3")):
        assert client.call(store.put_challenger, bandit, name, state) is None
    client.call(store.put_challenger, other, "wide", "4")
    with store.reader() as reader:
        assert list(reader.challengers(bandit.key).items()) == [("linear", "2"), ("wide", "3")]
        assert reader.challengers(other.key) == {"wide": "4"}
    client.call(store.put_challenger, bandit, "wide", None)
    client.call(store.put_challenger, bandit, "never", None)
    with store.reader() as reader:
        assert reader.challengers(bandit.key) == {"linear": "2"}
    client.call(store.delete_bandit, bandit)
    refused = client.ask(store.put_challenger, bandit, "late", "5")
    client.commit()
    assert isinstance(refused.exception(0), Conflict)
