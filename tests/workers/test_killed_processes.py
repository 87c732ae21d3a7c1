"""Processes of a server are killed: what was answered is there, and the others go on."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import is_running, poll
from tests.workers.crew import KEEPER, crew_of, killed


@pytest.fixture
def own_crew(start_server, api_of):
    server = start_server(None, "--workers", 2, env={"BANDEXA_KEEP_ALIVE_S": "3600"})
    with crew_of(server, 2, api_of) as crew:
        yield crew


class Traffic:
    """Selects and rewards over connections of its own, until it is stopped.

    Attributes:
        decided: The answered decisions: their ids and what was answered.
        rewarded: The ids of the decisions whose rewards were answered.
        refused: How many calls were refused with 503, each with a `Retry-After`.
    """

    def __init__(self, crew, name: str) -> None:
        self._server, self._name = crew.server, name
        self._stop = threading.Event()
        self.decided: dict[str, dict[str, Any]] = {}
        self.rewarded: list[str] = []
        self.refused = 0
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, own: int) -> None:
        number = 0
        while not self._stop.is_set():
            with suppress(httpx.TransportError), self._server.client() as client:
                while not self._stop.is_set():
                    number += 1
                    decision_id = f"own-{own}-{number}"
                    body = {
                        "bandit": self._name, "context": [number % 7, 1.0],
                        "decision_id": decision_id,
                    }  # fmt: skip
                    if not self._sent(client.post("/select", json=body), 200):
                        continue
                    self.decided[decision_id] = body
                    report = {"decision_id": decision_id, "reward": number % 2}
                    if self._sent(client.post("/reward", json=report), 200):
                        self.rewarded.append(decision_id)

    def _sent(self, answer: httpx.Response, expected: int) -> bool:
        if answer.status_code == 503:
            self.refused += 1
            if int(answer.headers["retry-after"]) < 1:
                self.failed.append("a Retry-After below a second")
        elif answer.status_code != expected:
            self.failed.append(answer.text)
        return answer.status_code == expected

    def goes_on(self) -> None:
        """Wait until rewards have been answered for a while."""
        before = len(self.rewarded)
        poll(lambda: len(self.rewarded) > before + 40, "rewards go on")

    def stop(self) -> None:
        """Stop it, and check that nothing but 503 was answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.failed == []

    def check(self, api: Api) -> None:
        """Check that everything that was answered is stored once."""
        first = next(iter(self.decided.values()))
        # The other worker may have found the keeper again, and this one not yet.
        poll(lambda: api.http.post("/select", json=first).status_code == 200, "the keeper")
        for decision_id, body in self.decided.items():
            repeated = api.call("POST", "/select", body)
            assert repeated["decision_id"] == decision_id
        for decision_id in self.rewarded:
            number = int(decision_id.split("-")[-1])
            status = api.reward(decision_id, 1 - number % 2)["status"]  # another value
            assert status == "ignored", decision_id


def test_whichever_process_is_killed_nothing_answered_is_lost(own_crew, tmp_path) -> None:
    crew = own_crew
    one = crew.apis[1]
    name = one.two_actions()
    traffic = Traffic(crew, name)
    try:
        for process in ("worker-1", KEEPER, "worker-2", KEEPER):
            traffic.goes_on()
            killed(crew.pids()[process])
        traffic.goes_on()
    finally:
        traffic.stop()
    with crew.server.client() as client:
        traffic.check(Api(client))
        state = Api(client).state(name)
    assert len(traffic.rewarded) <= state["num_learned"] <= len(traffic.decided)
    assert crew.server.stop() == 0
    checked = bandexa("verify", crew.server.data_dir, "--quiet")
    assert checked.returncode == 0, checked.stdout


def test_scores_go_on_while_the_keeper_is_away(own_crew) -> None:
    crew = own_crew
    one, two = crew.both
    name = one.two_actions()
    one.teach(name, [0.5, 1.0], "x", 1.0)
    before = two.scores(name, [0.5, 1.0])
    pid = crew.pids()[KEEPER]
    killed(pid)
    refused = crew.clients[1].post("/select", json={"bandit": name, "context": [0.5, 1.0]})
    assert two.scores(name, [0.5, 1.0]) == before
    if refused.status_code != 200:  # else it was started again already
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
    listed = crew.clients[2].get("/bandits")
    assert listed.status_code in (200, 503)
    poll(
        lambda: crew.clients[1].post(
            "/select", json={"bandit": name, "context": [0.5, 1.0]}
        ).status_code == 200,
        "selects",
    )  # fmt: skip
    poll(lambda: crew.clients[2].get("/bandits").status_code == 200, "the keeper")
    two.teach(name, [0.25, 1.0], "y", 0.0)
    poll(lambda: one.scores(name, [0.5, 1.0]) == two.scores(name, [0.5, 1.0]), "equal scores")


def test_ctrl_c_ends_the_workers_and_then_the_keeper(start_server, api_of) -> None:
    env = {"BANDEXA_KEEP_ALIVE_S": "3600", "BANDEXA_DRAIN_S": "600"}
    server = start_server(None, "--workers", 2, env=env)
    with crew_of(server, 2, api_of) as crew:
        one, two = crew.both
        name = one.two_actions()
        pids = crew.pids()
        os.killpg(server.pid, signal.SIGINT)  # as a terminal does
        ready = poll(
            lambda: found if (found := crew.clients[1].get("/readyz")).status_code == 503 else None,
            "a worker that drains",
        )
        assert "asked to end" in ready.json()["detail"]
        two.select(name, [0.5, 1.0])  # it is stored
        assert server.stop() == 0  # a second signal: it need not drain any longer
    assert [pid for pid in pids.values() if is_running(pid)] == []


def test_the_processes_end_with_the_one_that_started_them(own_crew) -> None:
    pids = own_crew.pids()
    own_crew.server.kill()
    poll(lambda: not any(map(is_running, pids.values())), "the ends of all processes")
