"""A server whose store is a database: refusals, an outage, moves of the store.

The contract of stores has its own tests (`tests/store/contract`), which run over PostgreSQL, too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.store.address import PostgresUrl
from service.store.opening import heads
from service.store.placing import NOTE, store_of
from service.store.postgres.connection import ReadConnection
from tests.fixtures.commands import bandexa as run
from tests.fixtures.nodes import Node, context_of, reward_of
from tests.fixtures.postgres import Cluster, cluster
from tests.fixtures.waiting import poll

pytestmark = pytest.mark.needs("postgres")
LINEAR = {
    "policy": "linear_ts",
    "context": {"shape": [6]},
    "action_dim": 4,
    "seed": 3,
    "training": {"mode": "lockstep"},
}


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    with postgres.empty() as url:
        yield url


def node_of(tmp_path: Path, url: str | None, name: str = "data", durability: str = "os") -> Node:
    given = {} if url is None else {"BANDEXA_STORE": url}
    return Node(tmp_path / name, environment=given, durability=durability)


@contextmanager
def serving(node: Node) -> Iterator[Node]:
    """Start a server, and end it at the exit if it still runs."""
    node.start()
    try:
        yield node
    finally:
        if node.is_running:
            node.stop()


def decide(node: Node, number: int) -> dict[str, Any]:
    """Make a decision under a caller's id, and reward it; returns both answers."""
    context = context_of("b", number)
    body = {"bandit": "b", "context": context, "decision_id": f"d{number}"}
    answer = node.call("POST", "/select", body)
    reward = reward_of(context, answer["action"]["index"])
    status = node.call("POST", "/reward", {"decision_id": f"d{number}", "reward": reward})
    return {"decision": answer, "reward": status}


def test_decisions_in_lockstep_are_those_of_a_file(tmp_path, url) -> None:
    answers = []
    for name, place in (("file", None), ("database", url)):
        with serving(node_of(tmp_path, place, name)) as node:
            node.create("b", LINEAR)
            found = [decide(node, number) for number in range(12)]
            found.append(node.train("b")["position"])
            found += [decide(node, number) for number in range(12, 20)]
            answers.append((found, node.state("b")["position"]))
    assert answers[0] == answers[1]


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path, url) -> None:
    node = node_of(tmp_path, url)
    with serving(node):
        node.create("b", LINEAR)
        before = [decide(node, number) for number in range(10)]
        state = node.state("b")
        node.kill()
    with serving(node):
        assert node.state("b")["position"] == state["position"]
        again = [decide(node, number) for number in range(10)]
    assert [each["decision"] for each in again] == [each["decision"] for each in before]
    assert {each["reward"]["status"] for each in again} == {"duplicate"}
    done = run("verify", node.data_dir, env={"BANDEXA_STORE": url})
    assert done.returncode == 0, done.stdout + done.stderr


def test_calls_on_a_reader_from_two_threads_come_one_after_the_other(url) -> None:
    """As those of SQLite do: a model is loaded while a worker compares the log, for example."""
    reader = ReadConnection(PostgresUrl(url))
    found: list[Any] = []

    def sleep() -> None:
        found.append(reader.execute("SELECT 1 FROM pg_sleep(0.5)").fetchone())

    thread = threading.Thread(target=sleep)
    thread.start()
    while thread.is_alive():
        found.append(reader.execute("SELECT 1").fetchone())
    thread.join()
    reader.close()
    assert set(found) == {(1,)}
    assert len(found) > 1


def test_a_second_server_is_refused(tmp_path, url) -> None:
    with serving(node_of(tmp_path, url)):
        done = run("serve", "--port", 0, "--data-dir", tmp_path / "second",
                   env={"BANDEXA_STORE": url})  # fmt: skip
    assert done.returncode != 0
    assert "is open in another server" in done.stderr


@pytest.mark.parametrize("case", ["rights", "newer", "unreachable", "other tables"])
def test_a_database_that_cannot_be_served_is_refused_in_one_line(
    tmp_path, postgres: Cluster, url, case
) -> None:
    schema = url.rpartition("=")[2]
    says = {
        "rights": "permission denied",
        "newer": "upgrade bandexa",
        "unreachable": "PostgreSQL:",
        "other tables": "not of this service",
    }[case]
    if case == "rights":
        postgres.sql(f"CREATE ROLE reader_{schema} LOGIN")
        postgres.sql(f"GRANT USAGE ON SCHEMA {schema} TO reader_{schema}")
        url = url.replace("bandexa@", f"reader_{schema}@")
    elif case == "newer":
        with serving(node_of(tmp_path, url)):
            pass
        for key in ("schema", "schema_readers"):
            postgres.sql(f"UPDATE {schema}.meta SET value = '99' WHERE key = '{key}'")
    elif case == "unreachable":
        url = url.replace(f":{postgres.port}", ":1")
    else:
        postgres.sql(f"CREATE TABLE {schema}.meta (key text, value text)")
    done = run("serve", "--port", 0, "--data-dir", tmp_path / "data", env={"BANDEXA_STORE": url})
    assert done.returncode != 0
    refusal = [line for line in done.stderr.splitlines() if "cannot start" in line]
    assert len(refusal) == 1
    assert says in refusal[0]
    found = run("doctor", "--data-dir", tmp_path / "data", env={"BANDEXA_STORE": url})
    assert "WRONG" in found.stdout


def test_models_of_one_log_are_not_mixed_with_another(tmp_path, postgres: Cluster, url) -> None:
    with serving(node_of(tmp_path, url)) as node:
        node.create("b", LINEAR)
    refused = run("serve", "--port", 0, "--data-dir", node.data_dir)
    assert "has the models of the log at" in refused.stderr
    with postgres.empty() as other:
        refused = run("serve", "--port", 0, "--data-dir", node.data_dir,
                      env={"BANDEXA_STORE": other})  # fmt: skip
    assert "cannot start" in refused.stderr
    with serving(node_of(tmp_path, None, "file")) as file:
        file.create("b", LINEAR)
    refused = run("serve", "--port", 0, "--data-dir", file.data_dir, env={"BANDEXA_STORE": url})
    assert "has a log of its own" in refused.stderr


def test_a_store_moves_into_a_database_and_back(tmp_path, url) -> None:
    node = node_of(tmp_path, None)
    with serving(node):
        node.create("b", LINEAR)
        before = [decide(node, number)["decision"] for number in range(8)]
        node.call("POST", "/select", {"bandit": "b", "context": context_of("b", 99)})
        node.train("b")
        state = node.state("b")
    file = node.data_dir / "bandexa.db"
    ends = heads(file)
    assert run("migrate", node.data_dir, url).returncode == 0
    assert not file.exists()
    assert store_of(node.data_dir) == PostgresUrl(url)
    assert heads(PostgresUrl(url)) == ends
    assert run("migrate", node.data_dir, url).returncode == 2, "the database is not empty"
    node.env = {**node.env, "BANDEXA_STORE": url}
    with serving(node):
        assert node.state("b")["position"] == state["position"]
        assert [decide(node, number)["decision"] for number in range(8)] == before
        decide(node, 20)
        ends = heads(PostgresUrl(url))
    assert run("migrate", url, node.data_dir).returncode == 0
    assert heads(file) == ends
    assert not (node.data_dir / NOTE).exists()
    done = run("verify", node.data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    node.env = {key: value for key, value in node.env.items() if key != "BANDEXA_STORE"}
    with serving(node):
        assert [decide(node, number)["decision"] for number in range(8)] == before


def test_a_backup_of_a_running_server_is_a_directory_that_can_be_served(tmp_path, url) -> None:
    with serving(node_of(tmp_path, url)) as node:
        node.create("b", LINEAR)
        before = [decide(node, number)["decision"] for number in range(6)]
        done = run("backup", node.data_dir, tmp_path / "copy", env={"BANDEXA_STORE": url})
    assert done.returncode == 0, done.stderr
    with serving(Node(tmp_path / "copy")) as copy:
        assert [decide(copy, number)["decision"] for number in range(6)] == before


def test_nothing_acknowledged_is_lost_when_the_database_is_killed(tmp_path) -> None:
    with cluster() as own:  # with fsync
        own.sql("CREATE DATABASE bandexa")
        url = own.url("bandexa")
        with serving(node_of(tmp_path, url, durability="commit")) as node:
            node.create("b", LINEAR)
            acknowledged: dict[int, str] = {}
            decided: dict[int, Any] = {}
            stop = threading.Event()

            def load(first: int) -> None:
                number = first
                while not stop.wait(0.01):
                    context = context_of("b", number)
                    body = {"bandit": "b", "context": context, "decision_id": f"d{number}"}
                    answer = node.http.post("/select", json=body)
                    if answer.status_code == 200:
                        decided[number] = answer.json()
                        reward = {"decision_id": f"d{number}", "reward": 0.5}
                        answer = node.http.post("/reward", json=reward)
                        if answer.status_code == 200:
                            acknowledged[number] = answer.json()["status"]
                            number += 2
                    if answer.status_code != 200:
                        assert answer.status_code == 503, answer.text
                        assert "retry-after" in answer.headers
                        stop.wait(0.05)

            threads = [threading.Thread(target=load, args=(first,)) for first in (0, 1)]
            for thread in threads:
                thread.start()
            try:
                poll(lambda: len(acknowledged) >= 15, "acknowledged rewards")
                own.stop(signal.SIGKILL)
                poll(lambda: node.http.get("/readyz").status_code == 503, "an outage")
                score = {"context": context_of("b", 1)}
                assert node.http.post("/bandits/b/score", json=score).status_code == 200
                own.start()
                enough = len(acknowledged) + 15
                poll(lambda: len(acknowledged) >= enough, "acknowledged rewards after the kills")
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            assert set(acknowledged.values()) <= {"applied", "duplicate"}
            for number, answer in decided.items():
                found = node.call("GET", f"/bandits/b/decisions/d{number}")
                assert found["chosen"][0]["id"] == answer["action"]["id"]
                if number in acknowledged:
                    assert [each["reward"] for each in found["chosen"][0]["rewards"]] == [0.5]
        done = run("verify", node.data_dir,
                   env={"BANDEXA_STORE": url})  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_shared_models_need_no_directory(tmp_path, url) -> None:
    """Another machine serves them from the database; a backup and a move take them along."""
    given = {"BANDEXA_STORE": url, "BANDEXA_SNAPSHOT_STORE": "postgresql"}
    first = Node(tmp_path / "first", environment=given)
    with serving(first):
        first.create("b", LINEAR)
        before = [decide(first, number)["decision"] for number in range(8)]
        first.train("b")
        before += [decide(first, number)["decision"] for number in range(8, 12)]
        done = run("backup", first.data_dir, tmp_path / "copy", env={"BANDEXA_STORE": url})
        assert done.returncode == 0, done.stderr
    second = node_of(tmp_path, url, "second")  # it has no setting: the database says where
    with serving(second):
        again = [decide(second, number)["decision"] for number in range(12)]
        assert again == before
        assert second.state("b")["snapshot"] == 1
    env = {"BANDEXA_STORE": url}
    done = run("verify", second.data_dir, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("doctor", "--data-dir", second.data_dir, env=env)
    assert "snapshots are shared, in postgresql" in done.stdout
    done = run("snapshots", "list", "--data-dir", second.data_dir, "--quiet", env=env)
    assert done.stdout.split() == ["0", "1"]
    with serving(Node(tmp_path / "copy")) as copy:
        assert [decide(copy, number)["decision"] for number in range(12)] == before
    done = run("migrate", url, second.data_dir, env=env)
    assert done.returncode == 0, done.stderr
    with serving(Node(second.data_dir)) as moved:
        assert [decide(moved, number)["decision"] for number in range(12)] == before
