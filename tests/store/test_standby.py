"""Two servers for one database: one serves, the other stands by, each with its own directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.store.address import PostgresUrl
from service.store.postgres.schema import open_writer
from service.store.postgres.turn import FREE_LOOKS, wait_for_turn
from tests.fixtures.commands import bandexa as run
from tests.fixtures.nodes import Node, Refused, context_of, reward_of
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


def node_of(folder: Path, url: str) -> Node:
    given = {"BANDEXA_STORE": url, "BANDEXA_SNAPSHOT_STORE": "postgresql"}
    return Node(folder, environment=given | {"BANDEXA_STANDBY": "true"})


@contextmanager
def ended(*nodes: Node) -> Iterator[None]:
    """End the servers that still run, at the exit."""
    try:
        yield
    finally:
        for node in nodes:
            if node.is_running:
                node.kill()


def stands_by(node: Node) -> bool:
    answer = node.http.get("/readyz")
    return answer.status_code == 503 and "standby" in answer.json()["detail"]


def decide(node: Node, number: int) -> dict[str, Any]:
    """Make a decision under a caller's id, and reward it; returns both answers."""
    context = context_of("b", number)
    body = {"bandit": "b", "context": context, "decision_id": f"d{number}"}
    answer = node.call("POST", "/select", body)
    reward = reward_of(context, answer["action"]["index"])
    status = node.call("POST", "/reward", {"decision_id": f"d{number}", "reward": reward})
    return {"decision": answer, "reward": status["status"]}


def decided(node: Node, number: int) -> bool:
    """Whether it makes a decision and takes the reward, or cannot now."""
    try:
        decide(node, number)
    except Refused as error:
        if " 503 " not in str(error):
            raise
        return False
    return True


def repeats(node: Node, made: list[dict[str, Any]]) -> None:
    """Check that what was acknowledged is there, once."""
    again = [decide(node, number) for number in range(len(made))]
    assert [each["decision"] for each in again] == [each["decision"] for each in made]
    assert {each["reward"] for each in again} == {"duplicate"}


@pytest.mark.slow
def test_the_other_server_goes_on_where_one_was_killed_or_ends(tmp_path, url) -> None:
    a, b = node_of(tmp_path / "a", url), node_of(tmp_path / "b", url)
    with ended(a, b):
        a.start()
        a.create("b", LINEAR)
        made = [decide(a, number) for number in range(10)]
        a.train("b")
        made += [decide(a, number) for number in range(10, 16)]
        b.spawn().answering()
        poll(lambda: stands_by(b), "a server that stands by")
        assert b.http.get("/healthz").status_code == 200
        assert b.http.post("/select", json={}).status_code == 503
        scores, position = a.score("b"), a.state("b")["position"]
        a.kill()
        b.serving()
        assert b.state("b")["position"] == position
        np.testing.assert_array_equal(b.score("b"), scores)
        repeats(b, made)
        made += [decide(b, number) for number in range(16, 22)]
        b.train("b")
        a.spawn().answering()
        poll(lambda: stands_by(a), "the killed server, which stands by")
        scores = b.score("b")
        assert b.stop() == 0
        a.serving()
        np.testing.assert_array_equal(a.score("b"), scores)
        repeats(a, made)
        assert a.stop() == 0
    for node in (a, b):
        done = run("verify", node.data_dir, env={"BANDEXA_STORE": url})
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_lost_connection_or_a_restart_of_the_database_moves_nothing(tmp_path) -> None:
    with cluster() as made:
        a, b = node_of(tmp_path / "a", made.url()), node_of(tmp_path / "b", made.url())
        with ended(a, b):
            a.start()
            a.create("b", LINEAR)
            b.spawn().answering()
            poll(lambda: stands_by(b), "a server that stands by")
            made.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                     " WHERE application_name = 'bandexa'")  # fmt: skip
            poll(lambda: decided(a, 0), "a decision")
            made.stop()
            poll(lambda: "the database is away" in b.log_text(), "an outage")
            made.start()
            poll(lambda: decided(a, 1), "a decision")
            assert stands_by(b)
            position = a.state("b")["position"]
            assert a.stop() == 0
            b.serving()
            assert b.state("b")["position"] == position
            assert b.stop() == 0


def test_a_lock_is_taken_only_where_it_stays_free(url) -> None:
    """The server that had it may connect again: in its place, a session closes and opens."""
    address = PostgresUrl(url)
    holders = [open_writer(address)]
    looks = 0

    def waiting() -> None:
        nonlocal looks
        looks += 1
        if looks in (3, 3 + FREE_LOOKS):
            holders.pop().close()
        elif looks == 2 + FREE_LOOKS:
            holders.append(open_writer(address))

    wait_for_turn(address, waiting)
    assert holders == []
    assert looks >= 2 * FREE_LOOKS + 2


def test_a_server_that_stands_by_ends_by_a_signal(tmp_path, url) -> None:
    open_writer(PostgresUrl(url)).close()
    session = open_writer(PostgresUrl(url))
    b = node_of(tmp_path / "b", url)
    with ended(b):
        b.spawn().answering()
        poll(lambda: stands_by(b), "a server that stands by")
        assert b.stop() == 0
    session.close()


def test_a_server_that_could_not_take_over_is_refused(tmp_path, url) -> None:
    a = Node(tmp_path / "a", environment={"BANDEXA_STORE": url})
    settings = {"BANDEXA_STORE": url, "BANDEXA_STANDBY": "true"}
    serve = ("serve", "--port", 0, "--data-dir", tmp_path / "b")
    with ended(a):
        a.start()
        done = run(*serve, env=settings | {"BANDEXA_SNAPSHOT_STORE": "postgresql"})
        assert done.returncode != 0
        refusal = [line for line in done.stderr.splitlines() if "cannot start" in line]
        assert len(refusal) == 1
        assert "keeps its snapshots in directory" in refusal[0]
    done = run(*serve, env=settings)
    assert done.returncode != 0
    assert "standby: needs `snapshot_store`" in done.stderr
    done = run(*serve, env={"BANDEXA_STANDBY": "true"})
    assert "standby: needs `store`" in done.stderr
