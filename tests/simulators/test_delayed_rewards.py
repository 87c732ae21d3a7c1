"""The calls that reach the service when rewards are collected before they are sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bandexa_client import BanditClient, BanditError, Rejected, RewardReport, RewardStatus
from simulators.environments import SyntheticEnvironment
from simulators.private_server import PrivateServer
from simulators.runner import Run, play, upsert_actions

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_server.py")))


class RecordingClient(BanditClient):
    """Records the ids of the rewards sent in batches; `spoiled` is replaced by an unknown id."""

    def __init__(self, url: str, *, spoiled: str | None = None) -> None:
        super().__init__(url, trust_env=False)
        self.batches: list[list[str]] = []
        self.spoiled = spoiled

    def reward_batch(self, reports: Sequence[RewardReport]) -> list[RewardStatus | Rejected]:
        self.batches.append([report.decision_id for report in reports])
        unknown = RewardReport("unknown", 0.0)
        sent = [unknown if report.decision_id == self.spoiled else report for report in reports]
        return super().reward_batch(sent)


@pytest.fixture
def url() -> Iterator[str]:
    with PrivateServer(command=STAND_IN) as server:
        yield server.url


def play_delayed(client: BanditClient, *, horizon: int, delay: int) -> None:
    environment = SyntheticEnvironment(horizon=horizon, num_actions=3, dim=2)
    client.put_bandit("b", {})
    upsert_actions(client, environment, "b")
    run = Run("linear_ts", 0, horizon)
    play(client, environment, run, bandit="b", live=True, delay=delay, on_step=lambda: None)
    assert run.complete


def test_rewards_are_sent_in_order_and_the_last_batch_is_the_rest(url: str) -> None:
    with RecordingClient(url) as client:
        play_delayed(client, horizon=25, delay=10)
        assert client.get_bandit("b").num_learned == 25
    assert [len(batch) for batch in client.batches] == [10, 10, 5]
    assert [i for batch in client.batches for i in batch] == [f"b.{t}" for t in range(25)]


def test_a_batch_beyond_the_limit_of_a_call_is_split_in_order(url: str) -> None:
    with RecordingClient(url) as client:
        play_delayed(client, horizon=1002, delay=1002)
        assert client.get_bandit("b").num_learned == 1002
    assert [len(batch) for batch in client.batches] == [1000, 2]
    assert [i for batch in client.batches for i in batch] == [f"b.{t}" for t in range(1002)]


def test_without_delay_rewards_travel_one_by_one(url: str) -> None:
    with RecordingClient(url) as client:
        play_delayed(client, horizon=12, delay=1)
        assert client.get_bandit("b").num_learned == 12
    assert client.batches == []


def test_a_refused_reward_of_a_batch_ends_the_run(url: str) -> None:
    reason = r"the reward of b\.13 was refused: item 3 of a batch: 404 no such decision"
    with (
        RecordingClient(url, spoiled="b.13") as client,
        pytest.raises(BanditError, match=reason),
    ):
        play_delayed(client, horizon=30, delay=10)
