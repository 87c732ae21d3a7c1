"""The reward queue: what it accepts arrives once, through outages of the service."""

from __future__ import annotations

import logging
import math
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Sized
from contextlib import closing
from functools import partial

import pytest

from bandexa_client import BanditClient, QueueClosed, QueueFull, Retry, RewardQueue, Undelivered
from service.store.sql.codec import unpack_items
from service.store.sqlite.tables import decision_ids
from tests.fixtures.waiting import poll

QUICK = Retry(attempts=2, first_wait_s=0.001, max_wait_s=0.002)
APPLIED = {"status": "applied", "train_due": False}


def items(*codes: int) -> dict[str, list[dict[str, object]]]:
    return {
        "items": [
            {"code": 200, "answer": APPLIED} if code == 200
            else {"code": code, "error": {"type": "urn:bandexa:x", "detail": f"problem {code}"}}
            for code in codes
        ]
    }  # fmt: skip


def sent(script) -> list[list[float]]:
    return [[item["reward"] for item in body["items"]] for body in script.bodies()]


@pytest.fixture
def client(script):
    with BanditClient(script.url, retry=QUICK, trust_env=False) as client:
        yield client


def test_rewards_arrive_in_order_with_ids(script, client):
    script.then(200, items(200))
    with RewardQueue(client, max_batch=1) as queue:
        for number in range(5):
            queue.put(f"d{number}", float(number))
        assert queue.flush(10.0)
    assert sent(script) == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    ids = [body["items"][0]["reward_id"] for body in script.bodies()]
    assert len(set(ids)) == 5
    assert queue.num_delivered == 5


@pytest.mark.parametrize("status", [401, 403, 503])
def test_nothing_is_dropped_while_the_service_refuses_everything(script, client, status):
    script.then(status, {"detail": "not now"}).then(status, {}).then(200, items(200))
    with RewardQueue(client) as queue:
        queue.put("d", 1.0)
        assert queue.flush(20.0)
    bodies = script.bodies()
    assert len(bodies) >= 3
    assert all(body == bodies[0] for body in bodies)
    assert queue.num_delivered == 1


def test_waits_may_have_no_end(script, client):
    script.then(503, {}).then(503, {}).then(200, items(200)).then(503, {}).then(200, items(200))
    queue = RewardQueue(client, max_batch=1)
    queue.put("d", 1.0, wait_s=math.inf)
    assert queue.flush(math.inf)
    queue.put("e", 1.0)
    queue.close(math.inf)
    assert (queue.num_delivered, queue.num_waiting) == (2, 0)


def test_a_reward_that_is_refused_for_good_is_returned(script, client):
    script.then(200, items(404))
    seen = []
    with RewardQueue(client, max_batch=1, on_rejected=lambda *found: seen.append(found)) as queue:
        queue.put("gone", 1.0)
        assert queue.flush(10.0)
    ((report, problem),) = seen
    assert (report.decision_id, problem.status) == ("gone", 404)
    assert (queue.num_delivered, queue.num_rejected) == (0, 1)


def test_a_reward_that_is_refused_for_now_holds_its_place(script, client):
    script.then(503, {}).then(503, {})  # both attempts of the first call: all three wait
    script.then(200, items(200, 503, 200)).then(200, items(200, 200))
    with RewardQueue(client) as queue:
        for number in range(3):
            queue.put("d", float(number))
        assert queue.flush(20.0)
    assert sent(script)[-2:] == [[0.0, 1.0, 2.0], [1.0, 2.0]]


def test_a_batch_that_is_refused_as_a_whole_is_sent_in_parts(script, client):
    script.then(503, {}).then(503, {})
    script.then(413, {"detail": "too large"}).then(200, items(200)).then(200, items(200))
    with RewardQueue(client) as queue:
        queue.put("d", 1.0)
        queue.put("d", 2.0)
        assert queue.flush(20.0)
    assert sent(script)[-3:] == [[1.0, 2.0], [1.0], [2.0]]


def test_a_full_queue_refuses_rewards(script, client):
    script.then(503, {})
    queue = RewardQueue(client, max_waiting=2)
    queue.put("d", 1.0)
    queue.put("d", 2.0)
    with pytest.raises(QueueFull, match="2 rewards"):
        queue.put("d", 3.0)
    with pytest.raises(QueueFull):
        queue.put("d", 3.0, wait_s=0.05)
    with pytest.raises(Undelivered) as left:
        queue.close(within_s=0.1)
    assert [report.reward for report in left.value.reports] == [1.0, 2.0]
    with pytest.raises(QueueClosed):
        queue.put("d", 4.0)
    queue.close()


def test_fallback_decisions_and_wrong_numbers_are_not_queued(script, client):
    script.then(200, items(200))
    with RewardQueue(client) as queue:
        queue.put("fallback:" + "0a" * 16, 1.0)
        with pytest.raises(ValueError, match="finite"):
            queue.put("d", float("nan"))
        with pytest.raises(ValueError, match="finite"):
            queue.put("d", 10**400)
    assert queue.num_fallback == 1
    assert script.requests == []


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"reward_id": uuid.uuid4()}, "reward_id"),
        ({"action": 3}, "action"),
        ({"decision_id": None}, "decision_id"),
        ({"reward": "much"}, "number"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(script, client, wrong, field):
    script.then(200, items(200))
    with RewardQueue(client) as queue:
        with pytest.raises(TypeError, match=field):
            queue.put(**({"decision_id": "d", "reward": 1.0} | wrong))
        queue.put("d", 1.0)
        assert queue.flush(20.0)
    assert queue.num_delivered == 1


@pytest.mark.parametrize("status", [404, 408, 413, 421, 425])
def test_a_page_of_a_proxy_refuses_nothing_for_good(script, client, status):
    script.then(status, b"<html>").then(status, {"detail": "no route"}).then(200, items(200))
    with RewardQueue(client) as queue:
        queue.put("d", 1.0)
        assert queue.flush(20.0)
    assert (queue.num_delivered, queue.num_rejected) == (1, 0)


def test_a_verdict_of_the_service_on_a_single_reward_is_final(script, client):
    script.then(422, {"type": "urn:bandexa:invalid-request", "detail": "reward: wrong"})
    with RewardQueue(client) as queue:
        queue.put("d", 1.0)
        assert queue.flush(20.0)
    assert (queue.num_delivered, queue.num_rejected) == (0, 1)


def test_a_decision_that_the_service_fails_on_blocks_no_other(script, client):
    """The rewards of "a" stay in their order, behind all others."""
    script.then(503, {}).then(503, {})
    script.then(200, items(500, 200, 200)).then(200, items(200, 200))
    with RewardQueue(client, max_batch=3) as queue:
        for decision_id, reward in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("a", 4.0)):
            queue.put(decision_id, reward)
        assert queue.flush(20.0)
    assert sent(script)[-2:] == [[1.0, 2.0, 3.0], [1.0, 4.0]]
    assert queue.num_delivered == 4


def test_an_error_that_nobody_foresaw_ends_nothing(script, client, monkeypatch, caplog):
    script.then(200, items(200))
    send = client.reward_batch
    failures = [RuntimeError("out of memory")]

    def reward_batch(batch):
        if failures:
            raise failures.pop()
        return send(batch)

    monkeypatch.setattr(client, "reward_batch", reward_batch)
    with caplog.at_level(logging.CRITICAL), RewardQueue(client) as queue:
        queue.put("d", 1.0)
        assert queue.flush(20.0)
    assert queue.num_delivered == 1


LEAVES = """
import sys
from bandexa_client import BanditClient, RewardQueue
queue = RewardQueue(BanditClient(sys.argv[1], trust_env=False), max_batch=1)
for number in range(20):
    queue.put(f"d{number}", float(number))
"""


def test_an_ordinary_exit_delivers_what_waits(script):
    script.then(200, items(200))
    ended = subprocess.run([sys.executable, "-c", LEAVES, script.url], check=False, timeout=60)
    assert ended.returncode == 0
    assert sent(script) == [[float(number)] for number in range(20)]


def test_an_exit_says_what_it_leaves_behind(nobody):
    code = "import bandexa_client.reward_queue as q; q._AT_EXIT_S = 0.2" + LEAVES
    ended = subprocess.run(
        [sys.executable, "-c", code, nobody],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "20 rewards were not delivered" in ended.stderr


FORKS = """
import os, sys
from bandexa_client import BanditClient, RewardQueue
client = BanditClient(sys.argv[1], trust_env=False)
queue = RewardQueue(client, max_batch=1)
queue.put("parent", -1.0)
assert queue.flush(20.0)
children = []
for child in range(2):
    pid = os.fork()
    if pid == 0:
        assert queue.num_waiting == queue.num_delivered == 0
        for number in range(10):
            queue.put(f"child-{child}", float(child))
        assert queue.flush(20.0)
        assert queue.num_delivered == 10
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
queue.put("parent", -2.0)
assert queue.flush(20.0)
"""


def test_a_queue_made_before_a_fork_delivers_in_every_child(script):
    script.then(200, items(200))
    ended = subprocess.run([sys.executable, "-c", FORKS, script.url], check=False, timeout=60)
    assert ended.returncode == 0
    found = [reward for batch in sent(script) for reward in batch]
    assert sorted(found) == [-2.0, -1.0, *[0.0] * 10, *[1.0] * 10]


@pytest.mark.parametrize("wrong", [{"max_waiting": 0}, {"max_batch": 0}, {"max_batch": 1001}])
def test_numbers_out_of_range_are_refused(client, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RewardQueue(client, **wrong)


def test_every_accepted_reward_is_in_the_store_once_though_the_server_is_killed(start_server):
    """Four threads select and reward through one client; the server is killed and restarted."""
    server = start_server()
    port = server.url.rsplit(":", 1)[1]
    accepted: list[tuple[str, float]] = []
    fallbacks, failures = [], []
    enough = threading.Event()
    retry = Retry(attempts=2, first_wait_s=0.01, max_wait_s=0.05)
    with BanditClient(server.url, retry=retry, timeout_s=5.0, trust_env=False) as client:
        spec = {
            "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"},
            "rewards": {"aggregate": "sum"},
        }  # fmt: skip
        client.put_bandit("offers", spec)
        client.put_actions("offers", ["red", "blue"])
        with RewardQueue(client) as queue:

            def shop(number: int) -> None:
                try:
                    while not enough.wait(0.01):
                        chosen = client.select(
                            "offers", [1.0, float(number)], fallback="red", within_s=2.0
                        )
                        if chosen.fallback:
                            fallbacks.append(chosen)
                            enough.wait(0.01)
                        for part in (0.25, 0.5):  # two outcomes of each decision
                            queue.put(chosen.decision_id, part)
                            if not chosen.fallback:
                                accepted.append((chosen.decision_id, part))
                except BaseException as error:  # asserted below
                    failures.append(error)
                    raise

            threads = [threading.Thread(target=shop, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(2):
                before = len(accepted)
                poll(partial(more, accepted, before + 40), "accepted rewards")
                server.kill()
                away = len(fallbacks)
                poll(partial(more, fallbacks, away + 5), "fallbacks")
                server = start_server(server.data_dir, "--port", port)
            before = len(accepted)
            poll(partial(more, accepted, before + 40), "accepted rewards")
            enough.set()
            for thread in threads:
                thread.join()
            assert not failures
            assert queue.flush(60.0)
        assert (queue.num_delivered, queue.num_rejected) == (len(accepted), 0)
        assert queue.num_fallback == 2 * len(fallbacks)
    assert server.stop() == 0
    with closing(sqlite3.connect(server.data_dir / "bandexa.db")) as store:
        ids = decision_ids(store)
        names = {
            key: ids.name(key, own_id)
            for key, own_id in store.execute("SELECT key, own_id FROM decisions")
        }
        stored = [
            (names[key], reward) for key, reward in store.execute("SELECT key, reward FROM rewards")
        ]
        values = {
            names[key]: unpack_items(items)[0].state.value
            for key, items in store.execute("SELECT key, items FROM ledger")
        }
    assert sorted(stored) == sorted(accepted)
    assert values == dict.fromkeys({decision for decision, _ in accepted}, 0.75)


def more(found: Sized, num: int) -> bool:
    return len(found) > num


def test_what_the_service_says_is_logged_once_however_often_it_is_tried(script, client, caplog):
    refused = {"type": "urn:bandexa:invalid-request", "detail": "reward: too large",
               "errors": [{"field": "reward", "message": "too large"}]}  # fmt: skip
    script.then(200, items(500)).then(200, items(500))
    script.then(200, {"items": [{"code": 422, "error": refused}]})
    with RewardQueue(client) as queue:
        queue.put("d", 1.0)
        assert queue.flush(20.0)
    waits = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
    assert len(waits) == 1
    (said,) = (text for text in map(str, caplog.messages) if "was refused" in text)
    assert said.count("reward: too large") == 1
