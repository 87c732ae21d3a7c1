"""Two servers that share a database: each answers, one is the keeper, and both learn the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.servers import Server, servers
from tests.fixtures.waiting import poll
from tests.workers.traffic import Traffic

pytestmark = pytest.mark.needs("postgres")


@dataclass
class Pair:
    """The keeper and the other server, each with a client."""

    servers: tuple[Server, Server]
    apis: tuple[Api, Api]
    url: str


def environment_of(url: str) -> dict[str, str]:
    return {
        "BANDEXA_STORE": url, "BANDEXA_SERVERS": "4", "BANDEXA_LEASE_S": "2",
        "BANDEXA_SNAPSHOT_STORE": "postgresql",
    }  # fmt: skip


def child_of(server: Server) -> int:
    """Return the process that serves for a server."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return int(children[0])


def served_at(http: httpx.Client, name: str) -> None:
    """Wait until a server serves a bandit that another one has created, with its actions."""
    body = {"bandit": name, "context": [1.0, 1.0]}
    poll(lambda: http.post("/select", json=body).is_success, "it is served")


def same_posterior(one: Api, two: Api, name: str) -> int:
    """Check that both serve the same numbers to the last bit, once both have the same rows.

    Returns the position of the last one.
    """
    contexts = ([1.0, 0.0], [0.0, 1.0], [0.3, -2.0])

    def at_one_position() -> list[list[dict[str, Any]]] | None:
        """Return what both say; a round may be served at any moment, at one of them first."""
        found = [[api.scores(name, context) for context in contexts] for api in (one, two)]
        states = {(each["position"], each["snapshot"]) for half in found for each in half}
        return found if len(states) == 1 else None

    ours, theirs = poll(at_one_position, "both have applied the same rows")
    assert ours == theirs
    return int(ours[0]["position"])


@pytest.fixture(scope="module")
def pair(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharing")
    with postgres.empty() as url, servers(folder) as start, ExitStack() as stack:
        one, two = (start(env=environment_of(url)) for _ in range(2))
        first, second = (Api(stack.enter_context(each.client())) for each in (one, two))
        yield Pair((one, two), (first, second), url)


def test_what_one_decides_the_other_learns_and_both_stay_equal(pair) -> None:
    one, two = pair.apis
    name = two.two_actions(name="learned")  # the keeper creates it, and this server serves it
    for number in range(60):
        decides, rewards = (one, two) if number % 2 else (two, one)
        context = [float(number % 5), 1.0]
        decision = decides.select(name, context)
        rewards.reward(decision["decision_id"], float(number % 3))
    assert same_posterior(one, two, name) == 61, "the catalogue's row and one for each reward"


def test_a_decision_id_that_both_get_is_one_decision(pair) -> None:
    one, two = pair.apis
    name = one.two_actions(name="ids")
    one.select(name, [1.0, 0.0])
    poll(
        lambda: two.http.post("/select", json={"bandit": name, "context": [1.0, 0.0]}).is_success,
        "it serves",
    )
    for number in range(20):
        answers = [
            api.select(name, [1.0, float(number)], decision_id=f"{name}-{number}")
            for api in (one, two)
        ]
        assert answers[0] == answers[1]


def test_a_round_is_served_by_both(pair) -> None:
    one, two = pair.apis
    name = two.two_actions(name="trained", policy="neural_linear_ts", encoder={"name": "mlp"})
    for number in range(40):
        one.teach(name, [number / 40, 1.0], "xy"[number % 2], number % 2)
    version = two.train(name)["snapshot"]

    def both_serve_it() -> bool:
        found = [api.select(name, [0.5, 1.0])["snapshot"] for api in (one, two)]
        return found == [version, version]

    poll(both_serve_it, "both serve the round's model")
    same_posterior(one, two, name)


def test_a_reward_at_a_server_that_still_loads_the_bandit_is_as_good_as_learned(
    postgres, tmp_path
) -> None:
    """The first network of a server takes seconds: it loads PyTorch."""
    with postgres.empty() as url, servers(tmp_path) as start:
        one, two = (start(env=environment_of(url)) for _ in range(2))
        with one.client() as first, two.client() as second:
            keeper, replica = Api(first), Api(second)
            name = keeper.two_actions(policy="neural_linear_ts", encoder={"name": "mlp"})
            decision = keeper.select(name, [1.0, 0.0])["decision_id"]
            report = {"decision_id": decision, "reward": 1.0}

            def answer() -> dict[str, Any] | None:
                """Return what the other server says; it may not know of the bandit yet."""
                found = second.post("/reward", json=report)
                return found.json() if found.is_success else None

            assert poll(answer, "it is answered")["status"] == "applied"
            served_at(second, name)
            assert same_posterior(keeper, replica, name) == 2


def test_a_snapshot_that_a_server_cannot_load_is_served_once_it_can(postgres, tmp_path) -> None:
    """Else this server would decide by an older model until the next round."""
    with postgres.empty() as url, servers(tmp_path) as start:
        one, two = (start(env=environment_of(url)) for _ in range(2))
        with one.client() as first, two.client() as second:
            keeper, replica = Api(first), Api(second)
            name = keeper.two_actions(policy="neural_linear_ts", encoder={"name": "mlp"})
            for number in range(20):
                keeper.teach(name, [number / 20, 1.0], "xy"[number % 2], number % 2)
            same_posterior(keeper, replica, name)
            cache = two.data_dir / "snapshots" / keeper.state(name)["uid"]
            shutil.rmtree(cache)
            cache.write_text("no directory")
            version = keeper.train(name)["snapshot"]
            poll(lambda: "cannot be served" in two.log_text(), "it cannot be loaded")
            assert replica.select(name, [0.5, 1.0])["snapshot"] < version
            cache.unlink()
            poll(lambda: replica.select(name, [0.5, 1.0])["snapshot"] == version, "it is served")
            same_posterior(keeper, replica, name)


def test_a_window_closes_with_what_either_server_was_told(pair) -> None:
    """The keeper closes it, and may still have the decision in memory as it was made."""
    one, two = pair.apis
    rules = {"reward_window_s": 1.0, "default_reward": 0.25, "maturity": "close"}
    name = one.two_actions(name="windows", rewards=rules)
    body = {"bandit": name, "context": [1.0, 0.0]}
    poll(lambda: two.http.post("/select", json=body).is_success, "both serve it")
    expected: dict[str, float] = {}
    for number in range(12):
        decides, rewards = (one, two) if number % 2 else (two, one)
        decision_id = decides.select(name, [1.0, 0.5])["decision_id"]
        expected[decision_id] = 0.25
        if number % 3:
            assert rewards.reward(decision_id, number / 12)["status"] == "pending"
            expected[decision_id] = number / 12

    def values() -> dict[str, float | None]:
        lines = map(json.loads, one.http.get(f"/bandits/{name}/log").text.splitlines())
        made = {each["decision_id"]: each for each in lines if each["kind"] == "decision"}
        return {key: made[key]["value"] for key in expected}

    poll(lambda: None not in values().values(), "all windows close")
    assert values() == expected
    same_posterior(one, two, name)


def test_another_server_becomes_the_keeper_and_nothing_answered_is_lost(postgres, tmp_path) -> None:
    with postgres.empty() as url, servers(tmp_path) as start:
        keeper, other = (start(env=environment_of(url)) for _ in range(2))
        with keeper.client() as client:
            name = Api(client).two_actions()
        with other.client() as client:
            context = {"bandit": name, "context": [1.0, 0.0]}
            poll(lambda: client.post("/select", json=context).is_success, "its actions are there")
        traffic = Traffic(other, name)
        try:
            traffic.goes_on()
            keeper.signal(signal.SIGSTOP)  # so that its process is not started again at once
            os.kill(child_of(keeper), signal.SIGKILL)
            traffic.goes_on()  # while no server is the keeper
            with other.client() as client:
                change = {"ids": ["z"], "features": [[1.0, 1.0]]}
                where = f"/bandits/{name}/actions"
                poll(lambda: client.put(where, json=change).is_success, "it administers")
                keeper.signal(signal.SIGCONT)
            with keeper.client() as client:
                poll(lambda: client.get("/readyz").is_success, "it comes back, beside it")
            traffic.goes_on()
        finally:
            keeper.signal(signal.SIGCONT)
            traffic.stop()
        with other.client() as client, keeper.client() as another:
            traffic.check(Api(client))
            position = same_posterior(Api(client), Api(another), name)
            assert position >= len(traffic.rewarded), "what was answered is learned"
        assert (keeper.stop(), other.stop()) == (0, 0)
        checked = bandexa("verify", other.data_dir, "--quiet")
        assert checked.returncode == 0, checked.stdout


def test_a_bandit_that_was_just_created_is_never_said_not_to_exist(pair) -> None:
    one, two = pair.apis
    name = one.two_actions(name="new")
    decision = one.select(name, [1.0, 0.0])
    report = {"decision_id": decision["decision_id"], "reward": 1.0}
    answers = []

    def rewarded() -> bool:
        answers.append(two.http.post("/reward", json=report).status_code)
        return bool(answers[-1] == 200)

    poll(rewarded, "the other server takes its reward")
    assert set(answers) <= {200, 503}
