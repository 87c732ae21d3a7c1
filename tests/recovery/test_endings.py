"""A server ends under load, or its disk takes no more: what it acknowledged is stored once."""

from __future__ import annotations

import resource
import signal
import threading

import httpx
import pytest

from service.store.errors import StoreError
from service.store.identity import first_key
from service.store.sqlite.store import SqliteStore
from tests.fixtures.transport import open_client

NUM_CLIENTS = 8
ENOUGH_REWARDS = 250


class Load:
    """Clients that select and reward until the server is gone, and what it acknowledged to them."""

    def __init__(self, node, rig, bandit: str) -> None:
        self._url, self._rig, self.bandit = str(node.http.base_url), rig, bandit
        self.decisions: dict[str, int] = {}
        self.rewards: dict[str, float] = {}
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(NUM_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        rig = self._rig
        with open_client(self._url, 30) as http:
            number = 0
            while True:
                name = f"{self.bandit}.{client}.{number}"
                context = rig.context_of(name, 0)
                body = {"bandit": self.bandit, "context": context, "decision_id": name}
                try:
                    answer = http.post("/select", json=body)
                    if not self._good(answer):
                        return
                    action = answer.json()["action"]
                    self.decisions[name] = answer.json()["position"]
                    reward = rig.reward_of(context, action["index"])
                    body = {"decision_id": name, "reward": reward}
                    answer = http.post("/reward", json=body)
                    if not self._good(answer):
                        return
                    self.rewards[name] = reward
                except httpx.TransportError:
                    return  # the server is gone
                number += 1

    def _good(self, answer: httpx.Response) -> bool:
        if not answer.is_success:
            self.errors.append(f"{answer.status_code} {answer.text}")
        return answer.is_success

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.fixture(scope="module")
def node(launch):
    """One server; every test has a new bandit, ends the server and starts it again."""
    return launch("ended")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_what_was_acknowledged_is_stored_once(node, rig, number, status):
    name = number.name.lower()
    node.create(name, rig.neural(training={"train_every": 50, "optimizer_steps": 5}))
    load = Load(node, rig, name)
    rig.poll(lambda: len(load.rewards) >= ENOUGH_REWARDS, "load on the server")
    node.signal(number)
    assert node.wait() == status
    load.join()
    assert load.errors == []
    position, num_learned = assert_stored_once(node, rig, load)
    node.start()
    state = node.state(name)
    assert (state["position"], state["num_learned"]) == (position, num_learned)
    for decision_id, reward in list(load.rewards.items())[:3]:
        body = {"decision_id": decision_id, "reward": reward}
        assert node.call("POST", "/reward", body)["status"] == "duplicate"


def assert_stored_once(node, rig, load: Load) -> tuple[int, int]:
    """Compare the store with the answers to clients; returns its head and number of learn rows."""
    ((bandit,),) = rig.query(node, "SELECT bandit FROM bandits WHERE name = ?", load.bandit)
    stored = dict(
        rig.query(
            node, "SELECT own_id, position FROM decisions WHERE key >= ? AND key < ?",
            first_key(bandit), first_key(bandit + 1),
        )
    )  # fmt: skip
    assert load.decisions.items() <= stored.items()
    log = rig.query(
        node,
        "SELECT l.position, kind, own_id, after FROM log AS l"
        " LEFT JOIN decisions AS d ON d.key = l.key WHERE bandit = ? ORDER BY l.position",
        bandit,
    )
    assert [position for position, *_ in log] == list(range(1, len(log) + 1))
    learned = [(decision_id, after) for _, kind, decision_id, after in log if kind == 1]
    values = dict(learned)
    assert len(values) == len(learned), "each reward has one learn row"
    assert load.rewards.items() <= values.items()
    # Requests under way may be stored too, but each reward belongs to a decision that was made.
    assert values.keys() <= stored.keys()
    assert len(values) <= len(load.rewards) + NUM_CLIENTS
    return len(log), len(learned)


def test_a_bandit_whose_snapshot_finds_no_room_is_not_created(node, rig):
    wide = rig.linear(context={"shape": [1100]})  # a root of 10 MB; the log stays far below 6
    _, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (6 << 20, hard))
    answer = node.http.put("/bandits/wide", json=wide)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:bandexa:snapshot-failed")
    assert int(answer.headers["retry-after"]) > 0
    assert node.http.get("/bandits/wide").status_code == 404
    assert node.http.get("/readyz").is_success, "the store is as good as before"
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert node.http.put("/bandits/wide", json=wide).status_code == 201


def test_a_full_disk_makes_it_not_ready_and_loses_nothing_acknowledged(node, rig):
    node.create("full", rig.linear())
    rig.steps(node, "full", 0, 5)
    _, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (128 << 10, hard))
    acknowledged = [f"full.{number}" for number in range(5)]
    for number in range(5, 2000):
        context = rig.context_of("full", number)
        body = {"bandit": "full", "context": context, "decision_id": f"full.{number}"}
        answer = node.http.post("/select", json=body)
        if not answer.is_success:
            break
        acknowledged.append(f"full.{number}")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:bandexa:unavailable"
    assert int(answer.headers["retry-after"]) > 0
    ready = node.http.get("/readyz")
    assert ready.status_code == 503
    assert "the store takes no writes" in ready.json()["detail"]
    assert node.http.get("/healthz").is_success
    late = node.http.post("/reward", json={"decision_id": "full.0", "reward": 0.5})
    assert (late.status_code, late.json()["type"]) == (503, "urn:bandexa:unavailable")
    node.score("full")
    position = node.state("full")["position"]
    assert node.stop() == 0
    stored = rig.query(node, "SELECT own_id FROM decisions WHERE own_id LIKE 'full.%'")
    assert sorted(name for (name,) in stored) == sorted(acknowledged)
    node.start()
    assert node.state("full")["position"] == position == 6
    assert {step.status for step in rig.steps(node, "full", 3000, 5)} == {"applied"}

    with pytest.raises(StoreError, match="open in another process"):
        SqliteStore(node.data_dir / "bandexa.db", "os", lambda answer: answer())
    assert {step.status for step in rig.steps(node, "full", 4000, 5)} == {"applied"}
