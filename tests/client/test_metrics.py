"""Several metrics of a decision by the clients, the queue and its spool."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from bandexa_client import BanditClient, RewardQueue, RewardReport, Selection
from tests.client.scripted import Connect
from tests.fixtures.waiting import poll

SPEC = {
    "policy": "linear_ts", "context": {"shape": [1]}, "encoder": {"name": "per_action"},
    "rewards": {"aggregate": "sum", "learn": {"money": 1, "click": 0.5}},
}  # fmt: skip
NUMBERS = itertools.count()


@pytest.fixture
def client(server: Any, connect: Connect) -> BanditClient:
    return connect(server.url, timeout_s=60.0)


@pytest.fixture
def offers(client: BanditClient) -> str:
    name = f"offers-{next(NUMBERS)}"
    client.put_bandit(name, SPEC)
    client.put_actions(name, ["red", "blue"])
    return name


def select(client: BanditClient, name: str) -> Selection:
    return client.select(name, [1.0])


def test_metrics_are_reported_and_read(client: BanditClient, offers: str) -> None:
    chosen = select(client, offers).decision_id
    status = client.reward(chosen, metrics={"click": 1}, reward_id="a")
    assert status.status == "applied"
    reports = [
        RewardReport(chosen, metrics={"money": 9.5}, reward_id="b"),
        RewardReport(chosen, 1.0, reward_id="c"),
    ]
    first, second = client.reward_batch(reports)
    assert (getattr(first, "status", None), getattr(second, "status", None)) == ("aggregated", 422)
    found = client.explain(offers, chosen).chosen[0]
    assert (found.value, found.metrics) == (10.0, {"click": 1.0, "money": 9.5})
    assert [(one.reward, one.metrics) for one in found.rewards] == [
        (None, {"click": 1.0}), (None, {"money": 9.5}),
    ]  # fmt: skip
    state = client.get_bandit(offers).metrics
    assert state is not None
    money = state["money"]
    assert (money.count, money.sum, money.mean, money.weight) == (1, 9.5, 9.5, 1.0)
    done = client.correct_reward(offers, chosen, metrics={"money": 2})
    assert (done.before, done.after) == (10.0, 2.0)


def test_a_queue_delivers_metrics_also_of_an_earlier_process(
    server: Any, client: BanditClient, offers: str, nobody: str, tmp_path: Path
) -> None:
    chosen = select(client, offers).decision_id
    with BanditClient(nobody, trust_env=False) as away:
        queue = RewardQueue(away, spool=tmp_path)
        queue.put(chosen, metrics={"money": 2, "click": 1})
        with pytest.raises(ValueError, match="either"):
            queue.put(chosen, 1.0, metrics={"money": 2})
        with pytest.raises(ValueError, match="either"):
            queue.put(chosen)
        with pytest.raises(ValueError, match=r"metrics\.money"):
            queue.put(chosen, metrics={"money": float("inf")})
        queue.close(0.0)
    with (
        BanditClient(server.url, trust_env=False) as own,
        RewardQueue(own, spool=tmp_path) as queue,
    ):
        queue.put(chosen, metrics={"click": 1})
        poll(lambda: queue.num_delivered == 2, "delivered metrics")
    assert client.explain(offers, chosen).chosen[0].value == 3.0
