"""A store whose groups commit asynchronously, and whose answers wait for a shared commit.

The writer of the write-ahead log sleeps for ten seconds here: what no barrier has made durable is
lost when the database is killed.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.ids import DecisionId
from service.store.address import PostgresUrl
from service.store.errors import StoreError, Unavailable
from service.store.postgres.store import PostgresStore
from service.store.records import BanditRecord, RewardReport
from tests.fixtures.commands import bandexa
from tests.fixtures.postgres import Cluster, cluster
from tests.fixtures.waiting import poll
from tests.store.conftest import ANSWER_WITHIN_S, Asking, make_decision, make_spec
from tests.store.reporting import rewards

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture(scope="module")
def database() -> Iterator[Cluster]:
    with cluster(wal_writer_delay="10s", autovacuum="off") as made:
        yield made


@pytest.fixture
def store(database: Cluster) -> Iterator[PostgresStore]:
    with database.empty() as url:
        store = PostgresStore(PostgresUrl(url), "barrier", lambda answer: answer())
        yield store
        store.close()


class Client(Asking):
    """Asks a store, and waits for its answers."""

    def __init__(self, store: PostgresStore) -> None:
        super().__init__()
        self.store = store
        self._numbers = itertools.count(1)

    def call(self, append: Any, *args: Any) -> Any:
        return self.ask(append, *args).result(ANSWER_WITHIN_S)

    def bandit(self) -> BanditRecord:
        with self.store.reader() as reader:
            uid = reader.next_uid("shop")
        found: BanditRecord = self.call(self.store.create_bandit, uid, "shop", make_spec())
        return found

    def decide(self, bandit: BanditRecord) -> DecisionId:
        """Store a decision; repeated until it is answered."""
        made = make_decision(bandit, f"d{next(self._numbers)}")
        self._repeated(self.store.append_decision, made)
        return made.decision_id

    def reward(self, decision_id: DecisionId) -> None:
        """Report a reward; repeated until it is answered."""
        report = RewardReport(decision_id, 1.0, f"r-{decision_id}", None, 6.0)
        self._repeated(rewards(self.store), report)

    def _repeated(self, append: Any, *args: Any) -> None:
        def answered() -> bool:
            try:
                self.call(append, *args)
            except Unavailable:
                return False
            return True

        poll(answered, "it is answered")


class Load:
    """Decisions and rewards of a bandit, from several threads, until the exit.

    Attributes:
        decided, rewarded: The ids of what was answered.
    """

    def __init__(self, client: Client, bandit: BanditRecord) -> None:
        self._client, self._bandit = client, bandit
        self._stop = threading.Event()
        self.decided: list[DecisionId] = []
        self.rewarded: list[DecisionId] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        enough = len(self.rewarded) + 50
        poll(lambda: len(self.rewarded) >= enough, "rewards are answered")

    def _run(self) -> None:
        while not self._stop.is_set():
            decision_id = self._client.decide(self._bandit)
            self.decided.append(decision_id)
            self._client.reward(decision_id)
            self.rewarded.append(decision_id)


def test_what_was_answered_survives_kills_of_the_database(database: Cluster, store) -> None:
    client = Client(store)
    bandit = client.bandit()
    with Load(client, bandit) as load:
        for _ in range(3):
            load.goes_on()
            database.stop(signal.SIGKILL)
            database.start()
        load.goes_on()
    for decision_id in load.decided:
        found = client.call(store.find_decision, decision_id)
        assert found.decision.state.num_rewards == (1 if decision_id in load.rewarded else 0)
    with store.reader() as reader:
        learned = reader.count_learned(bandit.key, 0, reader.head(bandit.key))
    assert learned == len(load.rewarded), "each counts once"


def test_answers_wait_for_the_barrier_and_the_next_group_does_not(database: Cluster, store) -> None:
    """A barrier takes a tenth of a second here; what comes meanwhile shares the next one."""
    client = Client(store)
    bandit = client.bandit()
    database.sql("ALTER SYSTEM SET commit_delay = 100000")
    database.sql("ALTER SYSTEM SET commit_siblings = 0")
    database.sql("SELECT pg_reload_conf()")
    waiting: list[Future[Any]] = []
    for number in range(200):  # each in a group of its own, as far as the writer is fast enough
        waiting.append(client.ask(store.append_decision, make_decision(bandit, f"w{number}")))
    for each in waiting:
        assert each.result(ANSWER_WITHIN_S) is None
    database.sql("ALTER SYSTEM RESET ALL")
    database.sql("SELECT pg_reload_conf()")
    assert store.times.sync.counts[-1] == 0
    assert sum(store.times.sync.counts) < sum(store.times.commit.counts), "groups share barriers"


@pytest.mark.parametrize("which", ["writer", "barrier"])
def test_a_connection_that_ends_leaves_nothing_answered_that_is_not_there(
    database: Cluster, store, which
) -> None:
    client = Client(store)
    bandit = client.bandit()
    is_barrier = "query LIKE '%emit_message%' AND query NOT LIKE '%COMMIT%'"
    chosen = is_barrier if which == "barrier" else "query LIKE 'SELECT%append_v%'"
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE application_name = 'bandexa' AND {chosen}"
    )
    with Load(client, bandit) as load:
        load.goes_on()
        poll(lambda: database.sql(end) == "1", "the connection was ended")
        load.goes_on()
    for decision_id in load.rewarded:
        found = client.call(store.find_decision, decision_id)
        assert found.decision.state.num_rewards == 1


def test_what_another_store_reads_is_confirmed_by_a_barrier(store) -> None:
    client = Client(store)
    before = sum(store.times.sync.counts)
    client.call(store.confirm)
    assert sum(store.times.sync.counts) == before + 1


def test_a_database_that_does_not_sync_is_refused(postgres: Cluster, tmp_path: Path) -> None:
    with postgres.empty() as url:
        with pytest.raises(StoreError, match="promises nothing where the database has fsync"):
            PostgresStore(PostgresUrl(url), "barrier", lambda answer: answer())
        done = bandexa("serve", "--port", 0, "--data-dir", tmp_path / "data", "--durability",
                       "barrier", env={"BANDEXA_STORE": url})  # fmt: skip
    assert done.returncode != 0
    assert "durability: barrier promises nothing" in done.stderr


def test_a_file_has_no_barrier(tmp_path: Path) -> None:
    done = bandexa("serve", "--port", 0, "--data-dir", tmp_path, "--durability", "barrier")
    assert done.returncode != 0
    assert "durability: barrier needs `store`" in done.stderr
