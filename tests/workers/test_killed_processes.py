"""Processes of a server are killed: what was answered is there, and the others go on."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import is_running, poll
from tests.workers.crew import KEEPER, crew_of, is_gone, killed
from tests.workers.traffic import Traffic


@pytest.fixture
def own_crew(start_server, api_of):
    server = start_server(None, "--workers", 2, env={"BANDEXA_KEEP_ALIVE_S": "3600"})
    with crew_of(server, 2, api_of) as crew:
        yield crew


def test_whichever_process_is_killed_nothing_answered_is_lost(own_crew, tmp_path) -> None:
    crew = own_crew
    one = crew.apis[1]
    name = one.two_actions()
    traffic = Traffic(crew.server, name)
    try:
        for process in ("worker-1", KEEPER, "worker-2"):
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


def test_a_process_that_hangs_is_killed_and_started_again(start_server, api_of) -> None:
    environment = {"BANDEXA_KEEP_ALIVE_S": "3600", "BANDEXA_PROCESS_TIMEOUT_S": "3"}
    server = start_server(None, "--workers", 2, env=environment)
    with crew_of(server, 2, api_of) as crew:
        name = crew.apis[1].two_actions()
        traffic = Traffic(crew.server, name)
        try:
            for process in ("worker-1", KEEPER):
                traffic.goes_on()
                pid = crew.pids()[process]
                os.kill(pid, signal.SIGSTOP)
                poll(partial(is_gone, pid), f"{process} is killed")
            traffic.goes_on()
        finally:
            traffic.stop()
        with server.client() as client:
            traffic.check(Api(client))
    said = server.log_text()
    assert "worker-1 (process" in said
    assert said.count("has not moved for") >= 2


@pytest.mark.slow
def test_the_shortest_time_ends_a_process_that_hangs(start_server, api_of) -> None:
    environment = {"BANDEXA_KEEP_ALIVE_S": "3600", "BANDEXA_PROCESS_TIMEOUT_S": "1"}
    server = start_server(None, "--workers", 2, env=environment)
    with crew_of(server, 2, api_of) as crew:
        pid = crew.pids()["worker-1"]
        os.kill(pid, signal.SIGSTOP)
        poll(partial(is_gone, pid), "worker-1 is killed")
        poll(lambda: crew.pids()["worker-1"] != pid, "another one has its place")


def test_scores_go_on_while_the_keeper_is_away(own_crew) -> None:
    crew = own_crew
    one, two = crew.both
    name = one.two_actions()
    one.teach(name, [0.5, 1.0], "x", 1.0)
    learned = one.scores(name, [0.5, 1.0])
    poll(lambda: two.scores(name, [0.5, 1.0]) == learned, "the other worker has learned it")
    pid = crew.pids()[KEEPER]
    killed(pid)
    refused = crew.clients[1].post("/select", json={"bandit": name, "context": [0.5, 1.0]})
    assert two.scores(name, [0.5, 1.0]) == learned
    if refused.status_code != 200:  # else it was started again already
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
    listed = crew.clients[2].get("/bandits")
    assert listed.status_code in (200, 503)
    ask = {"bandit": name, "context": [0.5, 1.0]}
    for client in crew.clients.values():  # each worker connects again by itself
        poll(lambda: client.post("/select", json=ask).status_code == 200, "selects")  # noqa: B023
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
