"""Two stores that share a database append to the log of one bandit at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from bandexa_core.ids import LogPosition
from service.observe.counters import SharedCount
from service.store.address import PostgresUrl
from service.store.opening import join, open_shared
from service.store.postgres.connection import Session
from service.store.protocol import EventStore
from service.store.records import BanditRecord, RewardReport
from tests.fixtures.postgres import Cluster
from tests.store.conftest import ANSWER_WITHIN_S, Asking, make_decision, make_spec
from tests.store.reporting import rewards

pytestmark = pytest.mark.needs("postgres")
REPORTS = 40


@pytest.fixture
def stores(postgres: Cluster) -> Iterator[list[EventStore]]:
    with postgres.empty() as text, ExitStack() as stack:
        url, found = PostgresUrl(text), list[EventStore]()
        for number in range(2):
            member = join(url, 4, f"server{number}", "http://127.0.0.1:1", 60.0, SharedCount())
            stack.callback(member.end)
            store = open_shared(url, member, "os", lambda answer: answer(), None)
            stack.callback(store.close)
            if not number:
                with store.reader() as reader:
                    uid = reader.next_uid("shop")
                create = Asking().ask(store.create_bandit, uid, "shop", make_spec())
                create.result(ANSWER_WITHIN_S)
            store.watch(lambda changes: None, lambda: None)
            found.append(store)
        yield found


def test_every_report_is_answered_and_learned_once(stores: list[EventStore]) -> None:
    """Each reads the end of the log, makes its rows behind it, and is overtaken by the other."""
    with stores[0].reader() as reader:
        (bandit,) = reader.bandits()
    failed: list[BaseException] = []

    def report(place: int) -> None:
        try:
            _report(stores[place], bandit, place)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=report, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with stores[1].reader() as reader:
        head = reader.head(bandit.key)
        assert head == 2 * REPORTS
        groups = list(reader.follow(bandit, LogPosition(0), head))  # compares the hashes
    assert [row.position for group in groups for row in group.rows] == [*range(1, head + 1)]


def test_rows_behind_an_end_that_moves_while_they_are_made_are_made_again(
    stores: list[EventStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other store appends between the two looks at the end: for the rows, and to compare."""
    one, two = stores
    with one.reader() as reader:
        (bandit,) = reader.bandits()
    fetch, appended = Session.fetch, list[str]()

    def overtaken(session: Session, sql: str, *arguments: Any) -> list[Any]:
        if sql.startswith("SELECT position, hash FROM heads") and not appended:
            appended.append(threading.current_thread().name)
            _taught(two, bandit, "other")
        return fetch(session, sql, *arguments)

    monkeypatch.setattr(Session, "fetch", overtaken)
    _taught(one, bandit, "own")
    assert appended == ["store-writer"]
    with one.reader() as reader:
        assert reader.head(bandit.key) == 2


def _taught(store: EventStore, bandit: BanditRecord, name: str) -> None:
    asking, made = Asking(), make_decision(bandit, name)
    asking.ask(store.append_decision, made).result(ANSWER_WITHIN_S)
    report = RewardReport(made.decision_id, 1.0, None, None, 6.0)
    assert asking.ask(rewards(store), report).result(ANSWER_WITHIN_S).status == "applied"


def _report(store: EventStore, bandit: BanditRecord, place: int) -> None:
    asking = Asking()
    for number in range(0, REPORTS, 4):
        asked: list[Any] = []
        for each in range(number, number + 4):
            made = make_decision(bandit, f"s{place}-{each}")
            asking.ask(store.append_decision, made).result(ANSWER_WITHIN_S)
            asked.append(RewardReport(made.decision_id, 1.0, None, None, 6.0))
        for waiting in [asking.ask(rewards(store), report) for report in asked]:
            assert waiting.result(ANSWER_WITHIN_S).status == "applied"
