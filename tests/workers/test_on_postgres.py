"""Several workers whose store is a database: they follow the log in it, and decide alike."""

from __future__ import annotations

import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.postgres import cluster
from tests.fixtures.servers import servers
from tests.fixtures.waiting import poll
from tests.workers.crew import KEEPER, crew_of, killed
from tests.workers.traffic import Traffic
from tests.workers.workloads import WORKLOADS, played

pytestmark = pytest.mark.needs("postgres")


def environment_of(url: str) -> dict[str, str]:
    return {"BANDEXA_STORE": url, "BANDEXA_KEEP_ALIVE_S": "3600"}


@pytest.fixture(scope="module")
def crew(postgres, tmp_path_factory, api_of):
    folder = tmp_path_factory.mktemp("on-postgres")
    with postgres.empty() as url, servers(folder) as start:
        server = start(None, "--workers", 2, env=environment_of(url))
        with crew_of(server, 2, api_of) as crew:
            yield crew


@pytest.mark.parametrize("workload", ["disjoint", "shop"])
def test_a_workload_in_lockstep_decides_as_one_process_with_a_file(api, crew, workload) -> None:
    spec, context = WORKLOADS[workload]
    name = f"database-{workload}"
    alone = played(api, name, spec, context)
    beside = played(crew.apis[2], name, spec, context)
    assert alone == beside


def test_a_change_at_one_worker_is_served_by_the_other(crew) -> None:
    one, two = crew.both
    name = one.two_actions()
    one.teach(name, [1.0, 0.0], "x", 1.0)
    one.call(
        "PUT",
        f"/bandits/{name}",
        {
            "context": {"shape": [2]},
            "action_dim": 2,
            "policy": "greedy",
            "encoder": {"name": "bilinear"},
        },
    )
    assert two.state(name)["spec"]["encoder"]["name"] == "bilinear"
    two.teach(name, [1.0, 0.0], "y", 0.5)
    poll(
        lambda: one.scores(name, [1.0, 0.0]) == two.scores(name, [1.0, 0.0]),
        "both have learned it",
    )


def test_whichever_process_is_killed_nothing_answered_is_lost(crew) -> None:
    name = crew.apis[1].two_actions()
    traffic = Traffic(crew.server, name)
    try:
        for process in ("worker-1", KEEPER):
            traffic.goes_on()
            killed(crew.pids()[process])
        traffic.goes_on()
    finally:
        traffic.stop()
    with crew.server.client() as client:
        traffic.check(Api(client))


@pytest.mark.slow
def test_a_database_that_restarts_loses_nothing_answered(start_server, api_of) -> None:
    with cluster() as database, database.empty() as url:
        server = start_server(None, "--workers", 2, env=environment_of(url))
        with crew_of(server, 2, api_of) as crew:
            name = crew.apis[1].two_actions()
            traffic = Traffic(crew.server, name)
            try:
                traffic.goes_on()
                database.stop()
                database.start()
                traffic.goes_on()
            finally:
                traffic.stop()
            with server.client() as client:
                traffic.check(Api(client))
        assert server.stop() == 0
        checked = bandexa("verify", server.data_dir, "--quiet")
        assert checked.returncode == 0, checked.stdout
