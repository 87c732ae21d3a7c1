"""The reward queue: what it accepts arrives once, through outages of the service."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sized
from contextlib import closing
from functools import partial

import pytest

from bandexa_client import BanditClient, QueueClosed, QueueFull, Retry, RewardQueue, Undelivered
from service.store.sqlite.codec import unpack_items
from service.store.sqlite.tables import decision_ids
from tests.fixtures.waiting import poll

QUICK = Retry(attempts=2, first_wait_s=0.001, max_wait_s=0.002)
APPLIED = {"status": "applied", "train_due": False}


def items(*codes: int) -> dict[str, list[dict[str, object]]]:
    return {
        "items": [
            {"code": 200, "answer": APPLIED} if code == 200
            else {"code": code, "error": {"detail": f"problem {code}"}}
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
        queue.put("fallback:1", 1.0)
        with pytest.raises(ValueError, match="finite"):
            queue.put("d", float("nan"))
    assert queue.num_fallback == 1
    assert script.requests == []


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
                    while not enough.is_set():
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
