"""Servers that share a database, of which one is paused or killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.servers import Server, servers
from tests.fixtures.waiting import poll
from tests.sharing.test_two_servers import child_of, environment_of, same_posterior
from tests.workers.traffic import Traffic

pytestmark = [pytest.mark.needs("postgres"), pytest.mark.slow]
PAUSES, KILLS, WINDOW_S = 8, 3, 2.0


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """Stop both processes of a server, wherever they are."""
    processes = (server.pid, child_of(server))
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def both_know(keeper: Server, other: Server, name: str) -> None:
    body = {"bandit": name, "context": [1.0, 0.0]}
    for http in (keeper.http, other.http):

        def serves(http: httpx.Client = http) -> bool:
            return http.post("/select", json=body).is_success

        poll(serves, "it serves")


def test_a_paused_server_holds_nobody_back(postgres, tmp_path) -> None:
    """It is paused while it writes to the same bandit, at moments that differ."""
    rng = random.Random(3)
    with postgres.empty() as url, servers(tmp_path) as start:
        environment = environment_of(url) | {"BANDEXA_LEASE_S": "30"}
        keeper, other = (start(env=environment) for _ in range(2))
        name = Api(keeper.http).two_actions()
        both_know(keeper, other, name)
        traffic = [Traffic(server, name) for server in (keeper, other)]
        try:
            for _ in range(PAUSES):
                threading.Event().wait(rng.uniform(0.0, 0.05))
                with paused(other):
                    traffic[0].goes_on()
                traffic[1].goes_on()
        finally:
            for each in traffic:
                each.stop()
        assert traffic[0].refused == 0
        position = same_posterior(Api(keeper.http), Api(other.http), name)
        rewarded = {key for each in traffic for key in each.rewarded}  # some are of both
        assert position == 1 + len(rewarded)


def test_each_window_closes_once_however_often_the_keeper_is_killed(postgres, tmp_path) -> None:
    with postgres.empty() as url, servers(tmp_path) as start:
        two = [start(env=environment_of(url)) for _ in range(2)]
        name = Api(two[0].http).two_actions(
            rewards={
                "reward_window_s": WINDOW_S,
                "default_reward": 0.25,
                "maturity": "close",
            }
        )
        both_know(two[0], two[1], name)
        made: list[str] = []

        def decide(server: Server) -> None:
            made.append(Api(server.http).select(name, [1.0, 0.5])["decision_id"])

        for _ in range(KILLS):
            keeper, other = sorted(two, key=lambda s: role_of(s) != "keeper")
            for _ in range(10):
                decide(keeper)
                decide(other)
            os.kill(child_of(keeper), signal.SIGKILL)
            for _ in range(5):
                decide(other)
            poll(lambda: {role_of(server) for server in two} == {"keeper", "replica"}, "a keeper")

        def decisions() -> list[dict[str, Any]]:
            (tmp_path / "log.jsonl").unlink(missing_ok=True)
            done = bandexa("export", name, tmp_path / "log.jsonl", "--url", two[0].url, "--quiet")
            assert done.returncode == 0, done.stderr
            lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
            return [line for line in lines if line["kind"] == "decision"]

        poll(lambda: all(line["closed"] for line in decisions()), "every window closes")
        found = decisions()
        assert set(made) <= {line["decision_id"] for line in found}
        assert {line["value"] for line in found} == {0.25}
        assert all(line["closed"] >= line["time"] + WINDOW_S for line in found)
        position = same_posterior(Api(two[0].http), Api(two[1].http), name)
        assert position == 1 + len(found), "the catalogue's row, and one for each decision"


def role_of(server: Server) -> str | None:
    """Return the role that a server says it has; None while it is away."""
    try:
        answer = server.http.get("/readyz")
    except httpx.TransportError:
        return None
    return str(answer.json()["role"]) if answer.is_success else None


def test_a_reward_that_comes_before_its_decision_is_joined(postgres, tmp_path) -> None:
    """At the other server, for an id of the caller's own that is decided a moment later."""
    with postgres.empty() as url, servers(tmp_path) as start:
        keeper, other = (start(env=environment_of(url)) for _ in range(2))
        name = Api(keeper.http).two_actions()
        both_know(keeper, other, name)
        for number in range(10):
            key = f"early-{number}"
            with ThreadPoolExecutor(1) as threads:
                early = threads.submit(Api(other.http).reward, key, 1.0)
                Api(keeper.http).select(name, [1.0, number / 10], decision_id=key)
            assert early.result()["status"] == "applied"
