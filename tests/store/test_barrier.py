"""A store whose groups commit asynchronously, and whose answers wait for a shared commit.

The writer of the write-ahead log sleeps for ten seconds here: what no barrier has made durable is
lost when the database is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.ids import DecisionId
from service.serving.commits import Committer
from service.serving.recent import RecentDecisions
from service.serving.steps import Steps
from service.store.address import PostgresUrl
from service.store.errors import StoreError, Unavailable
from service.store.postgres.barrier import open_barrier
from service.store.postgres.schema import open_writer
from service.store.postgres.store import PostgresStore
from service.store.records import BanditRecord, RewardReport
from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.postgres import Cluster, cluster
from tests.fixtures.servers import servers
from tests.fixtures.waiting import poll
from tests.store.conftest import ANSWER_WITHIN_S, Asking, make_decision, make_spec
from tests.store.reporting import first_step, rewards

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


@contextmanager
def no_commit_ends(database: Cluster) -> Iterator[None]:
    """Let synchronous commits wait for a standby that does not come; others are visible at once."""
    database.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    database.sql("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        database.sql("ALTER SYSTEM RESET synchronous_standby_names")
        database.sql("SELECT pg_reload_conf()")


WAITS = "FROM pg_stat_activity WHERE application_name = 'bandexa' AND wait_event = 'SyncRep'"


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


@contextmanager
def relay(port: int, ignored: bytes) -> Iterator[int]:
    """Pass connections on to a port, without one of the settings that they begin with."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends = list[socket.socket]()

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:  # the end
                    return
                far = socket.create_connection(("127.0.0.1", port))
                ends.extend((near, far))
                threading.Thread(target=begin, args=(near, far), daemon=True).start()

        def begin(near: socket.socket, far: socket.socket) -> None:
            size = int.from_bytes(near.recv(4, socket.MSG_WAITALL))
            words = near.recv(size - 4, socket.MSG_WAITALL)
            protocol, pairs = words[:4], words[4:].rstrip(b"\0").split(b"\0")
            settings = [
                word + b"\0"
                for name, value in zip(pairs[::2], pairs[1::2], strict=True)
                if name != ignored
                for word in (name, value)
            ]
            start = protocol + b"".join(settings) + b"\0"
            far.sendall((len(start) + 4).to_bytes(4) + start)
            threading.Thread(target=copy, args=(far, near), daemon=True).start()
            copy(near, far)

        def copy(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:  # one of them has ended
                return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in ends:
                each.close()


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


def test_a_repeated_select_is_not_answered_by_a_decision_that_may_be_lost(
    database: Cluster, tmp_path: Path
) -> None:
    """The barrier fails while the database lives, and the decision can be read."""
    with (
        database.empty() as url,
        servers(tmp_path) as start,
        ThreadPoolExecutor() as threads,
    ):
        schema = url.rpartition("=")[2]
        server = start(env={"BANDEXA_STORE": url}, durability="barrier")
        with server.client() as http:
            name = Api(http).two_actions()
            body = {"bandit": name, "context": [1.0, 0.0], "decision_id": "own"}
            with no_commit_ends(database):
                asked = threads.submit(http.post, "/select", json=body)
                stored = f"SELECT count(*) FROM {schema}.decisions"
                poll(lambda: database.sql(stored) == "1", "the decision can be read")
                ends = f"SELECT count(pg_terminate_backend(pid)) {WAITS}"
                poll(lambda: database.sql(ends) == "1", "the barrier ends")
                assert asked.result(ANSWER_WITHIN_S).status_code == 503
            poll(lambda: http.post("/select", json=body).is_success, "it is answered later")
            assert database.sql(stored) == "1", "it is the same decision"


def test_a_reward_that_the_database_has_lost_is_no_duplicate(database: Cluster) -> None:
    """It was looked up before it was durable, and the decision was held in memory since."""

    async def scene(url: str) -> None:
        loop = asyncio.get_running_loop()
        deliver = loop.call_soon_threadsafe
        store = await asyncio.to_thread(PostgresStore, PostgresUrl(url), "barrier", deliver)
        commit, records = Committer(loop), dict[int, BanditRecord]()
        steps = Steps(
            store, commit, RecentDecisions(), records.get, 100, lambda record: None,
            lambda step, rows: None, lambda key: None,
        )  # fmt: skip
        with store.reader() as reader:
            uid = reader.next_uid("shop")
        bandit = await commit(store.create_bandit, uid, "shop", make_spec())
        made = make_decision(bandit, "d")
        await commit(store.append_decision, made)
        report = RewardReport(made.decision_id, 1.0, None, None, 6.0)
        lost: list[asyncio.Future[Any]] = []
        with no_commit_ends(database):
            lost.append(commit.start(store.confirm))
            while database.sql(f"SELECT count(*) {WAITS}") != "1":
                await asyncio.sleep(0.02)
            lost.append(commit.start(store.append_step, first_step(bandit, made)))
            lost.append(asyncio.ensure_future(steps.reward(report)))
            for _ in range(5):  # the report looks it up as often before it waits for the barrier
                visible = await commit(store.find_decision, made.decision_id)
            assert visible.decision.state.num_rewards == 1
            database.stop(signal.SIGKILL)
            database.start()
        for each in lost:
            with pytest.raises(Unavailable):
                await each
        status = None
        while status is None:
            try:
                _, status, _ = await steps.reward(report)
            except Unavailable:
                await asyncio.sleep(0.02)
        assert status == "applied"
        found = await commit(store.find_decision, made.decision_id)
        assert found.decision.state.num_rewards == 1
        await loop.run_in_executor(None, store.close)

    with database.empty() as url:
        asyncio.run(asyncio.wait_for(scene(url), 60))


def test_the_first_start_is_durable_before_anything_else(database: Cluster) -> None:
    with database.empty() as url:
        store = PostgresStore(PostgresUrl(url), "barrier", lambda answer: answer())
        database.stop(signal.SIGKILL)
        database.start()
        store.close()
        schema = url.rpartition("=")[2]
        kept = f"SELECT count(*) FROM {schema}.meta WHERE key IN ('log_uid', 'epoch')"
        assert database.sql(kept) == "2"


def test_functions_that_a_restored_database_lacks_are_created(store) -> None:
    client = Client(store)
    bandit = client.bandit()
    store._database.session.script("DROP FUNCTION keep_v2")
    with pytest.raises(Unavailable):
        client.call(store.append_decision, make_decision(bandit, "refused"))
    client.decide(bandit)


def test_commits_wait_as_they_are_to_behind_a_pooler(database: Cluster) -> None:
    """It takes no settings as a connection begins."""
    with database.empty() as url, relay(database.port, b"synchronous_commit") as port:
        pooled = PostgresUrl(url.replace(f":{database.port}/", f":{port}/") + "&sslmode=disable")
        database.sql("ALTER ROLE bandexa SET synchronous_commit = local")
        try:
            with closing(open_writer(pooled)) as writer:
                assert writer.fetch("SHOW synchronous_commit")[0][0] == "on"
                with closing(open_barrier(pooled, writer)) as barrier:
                    assert barrier.fetch("SHOW synchronous_commit")[0][0] == "on"
        finally:
            database.sql("ALTER ROLE bandexa RESET synchronous_commit")


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
