"""Two servers report of one decision at once: one of them looks again, and no report is lost."""

from __future__ import annotations

import threading
from contextlib import closing

import asyncpg
import pytest

from service.store.address import PostgresUrl
from service.store.identity import TIME_BITS
from service.store.postgres.connection import Session
from service.store.postgres.schema import open_writer
from tests.fixtures.waiting import poll

pytestmark = pytest.mark.needs("postgres")
KEY = (1 << TIME_BITS) + 1
APPEND = "SELECT append_v1('{}', '{}', '{}', $1, $2, $3, '{}', '{}', '{}', '{}', '{}')"


def sessions(url: str) -> tuple[Session, Session]:
    """Return connections to a database that has one bandit with one decision."""
    open_writer(PostgresUrl(url), shared=True).close()
    one, two = (Session(PostgresUrl(url), own_loop=False) for _ in range(2))
    one.script(
        "INSERT INTO bandits VALUES (1, 'u', 'b', '{}', 0, NULL); INSERT INTO decisions"
        " (key, time, context, chosen, snapshot, position, activated)"
        f" VALUES ({KEY}, 0, 'x', 'y', 0, 0, 1)"
    )
    return one, two


def report(session: Session, version: int, reward: float) -> None:
    """Store the step from one version of the decision to the next, with its reward."""
    row = (KEY, version + 1, version + 1, None, None, b"items", None)
    reported = (KEY, 0, "", reward, version + 1, "counted", 0.0, None)
    session.fetch(APPEND, [row], [version], [reported])


@pytest.mark.parametrize("version", [0, 1], ids=["the first one", "a later one"])
def test_of_two_reports_from_one_state_the_second_is_refused(postgres, version) -> None:
    with postgres.empty() as url:
        one, two = sessions(url)
        with closing(one), closing(two):
            for earlier in range(version):
                report(one, earlier, 0.5)
            one.script("BEGIN")
            report(one, version, 1.0)
            refused: list[BaseException] = []

            def second() -> None:
                try:
                    report(two, version, 2.0)
                except asyncpg.PostgresError as error:
                    refused.append(error)

            thread = threading.Thread(target=second)
            thread.start()
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            poll(lambda: int(postgres.sql(waits)) > 0, "the second one waits for the first")
            one.script("COMMIT")
            thread.join()
            assert [getattr(error, "sqlstate", None) for error in refused] == ["BX002"]
            stored = one.fetch("SELECT reward FROM rewards WHERE seq = $1", version + 1)
            assert [row[0] for row in stored] == [1.0]
            report(two, version + 1, 2.0)  # what a server does that looked again
            assert one.fetch("SELECT version FROM ledger")[0][0] == version + 2


def test_no_report_is_stored_of_a_decision_that_was_erased_meanwhile(postgres) -> None:
    with postgres.empty() as url:
        one, two = sessions(url)
        with closing(one), closing(two):
            one.script("UPDATE decisions SET context = ''")
            with pytest.raises(asyncpg.PostgresError, match="was erased or removed"):
                report(two, 0, 1.0)


def test_a_decision_of_a_deleted_bandit_is_not_stored(postgres) -> None:
    with postgres.empty() as url:
        one, two = sessions(url)
        with closing(one), closing(two):
            one.script("UPDATE bandits SET deleted = 1")
            row = (
                KEY + 1, None, 0.0, None, b"x", b"y", None, 0, 0, None, 1, None, None, None, None,
                None, None, None, None,
            )  # fmt: skip
            ((refused,),) = two.fetch("SELECT keep_v1($1, '{}', '{}')", [row])
            assert refused == [KEY + 1]
            assert one.fetch("SELECT count(*) FROM decisions")[0][0] == 1
