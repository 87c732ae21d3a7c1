"""Servers whose database goes back to an earlier state under them, with their connections alive."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

import httpx
import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.postgres import Cluster
from tests.fixtures.servers import Server, servers
from tests.fixtures.waiting import poll
from tests.sharing.test_two_servers import environment_of, same_posterior, served_at

pytestmark = pytest.mark.needs("postgres")


class Tables:
    """All rows of a schema as they are now, to be put back."""

    def __init__(self, cluster: Cluster, schema: str) -> None:
        self._cluster, self._schema = cluster, schema
        query = f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'"
        self._names = cluster.sql(query).split()
        copies = [
            f"CREATE TABLE {schema}_kept.{name} AS TABLE {schema}.{name}" for name in self._names
        ]
        cluster.sql(f"CREATE SCHEMA {schema}_kept; BEGIN; {'; '.join(copies)}; COMMIT")

    def put_back(self) -> None:
        schema = self._schema
        tables = ", ".join(f"{schema}.{name}" for name in self._names)
        copies = [
            f"INSERT INTO {schema}.{name} OVERRIDING SYSTEM VALUE TABLE {schema}_kept.{name}"
            for name in self._names
        ]
        self._cluster.sql(f"BEGIN; TRUNCATE {tables}; {'; '.join(copies)}; COMMIT")


class Selects:
    """Selects of a bandit at a server, one after the other, until the exit."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, name
        self._stop = threading.Event()
        self.answered = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Selects:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def goes_on(self) -> None:
        enough = self.answered + 20
        poll(lambda: self.answered >= enough, "selects are answered")

    def _run(self) -> None:
        body = {"bandit": self._name, "context": [0.5, 1.0]}
        while not self._stop.is_set():
            with suppress(httpx.TransportError), self._server.client() as client:
                while not self._stop.is_set():
                    self.answered += client.post("/select", json=body).status_code == 200


def diverged(http: httpx.Client) -> float:
    """Return how often a server says that it has built its models anew; -1: it is away."""
    with suppress(httpx.TransportError):
        answer = http.get("/metrics")
        for line in answer.text.splitlines() if answer.is_success else ():
            if line.startswith("bandexa_diverged_total"):
                return float(line.split()[-1])
    return -1.0


def has_diverged(http: httpx.Client) -> bool:
    return diverged(http) >= 1.0


def test_no_decision_is_stored_that_a_model_of_lost_rows_has_made(
    postgres: Cluster, tmp_path
) -> None:
    with postgres.empty() as url, servers(tmp_path) as start:
        schema = url.rpartition("=")[2]
        both = [start(env=environment_of(url)) for _ in range(2)]
        with both[0].client() as first, both[1].client() as second:
            one, two = Api(first), Api(second)
            name = one.two_actions()
            served_at(second, name)
            for number in range(10):
                one.teach(name, [float(number), 1.0], "x", 1.0)
            assert same_posterior(one, two, name) == 11
            earlier = Tables(postgres, schema)
            for _ in range(5):
                two.teach(name, [1.0, 1.0], "y", 0.0)
            assert same_posterior(one, two, name) == 16
            assert [diverged(http) for http in (first, second)] == [0.0, 0.0]
            with Selects(both[0], name) as at_one, Selects(both[1], name) as at_two:
                for load in (at_one, at_two):
                    load.goes_on()
                earlier.put_back()
                for http in (first, second):
                    poll(partial(has_diverged, http), "it builds its models anew")
                for load in (at_one, at_two):
                    load.goes_on()
            assert same_posterior(one, two, name) == 11
            newest = postgres.sql(f"SELECT max(position) FROM {schema}.decisions")
            assert newest == "11", "a model of lost rows has decided"
            two.teach(name, [0.5, 1.0], "y", 1.0)
            assert same_posterior(one, two, name) == 12
        assert [server.stop() for server in both] == [0, 0]
        checked = bandexa("verify", both[0].data_dir, "--quiet")
        assert checked.returncode == 0, checked.stdout


def test_a_server_that_decides_nothing_builds_models_of_lost_rows_anew(
    postgres: Cluster, tmp_path
) -> None:
    """Its scores and explanations would be of rows that nobody else has."""
    with postgres.empty() as url, servers(tmp_path) as start:
        both = [start(env=environment_of(url)) for _ in range(2)]
        with both[0].client() as first, both[1].client() as second:
            one, two = Api(first), Api(second)
            name = one.two_actions()
            served_at(second, name)
            one.teach(name, [1.0, 0.0], "x", 1.0)
            assert same_posterior(one, two, name) == 2
            earlier = Tables(postgres, url.rpartition("=")[2])
            one.teach(name, [1.0, 1.0], "y", 0.0)
            assert same_posterior(one, two, name) == 3
            earlier.put_back()
            for http in (first, second):
                poll(partial(has_diverged, http), "it builds its models anew")

                def has_two_rows(http: httpx.Client = http) -> bool:
                    """Whether its new process serves: the one that ends answers meanwhile."""
                    with suppress(httpx.TransportError):
                        answer = http.post(f"/bandits/{name}/score", json={"context": [1.0, 0.0]})
                        return answer.is_success and answer.json()["position"] == 2
                    return False

                poll(has_two_rows, "it serves what is left")
            assert same_posterior(one, two, name) == 2
        assert [server.stop() for server in both] == [0, 0]


def test_workers_of_one_server_build_models_of_lost_rows_anew(postgres: Cluster, tmp_path) -> None:
    """A worker that went on with one would have its keeper end again and again."""
    with postgres.empty() as url, servers(tmp_path) as start:
        schema = url.rpartition("=")[2]
        server = start(tmp_path / "data", "--workers", 2, env={"BANDEXA_STORE": url})
        with server.client() as http:
            api = Api(http)
            name = api.two_actions()
            for number in range(3):
                api.teach(name, [float(number), 1.0], "x", 1.0)
            earlier = Tables(postgres, schema)
            for _ in range(2):
                api.teach(name, [1.0, 1.0], "y", 0.0)
        body = {"bandit": name, "context": [0.5, 1.0]}
        in_turn = 0

        def decided() -> bool:
            """Whether many selects in turn are answered, each at either of the processes."""
            nonlocal in_turn
            with suppress(httpx.TransportError), server.client() as fresh:
                is_answered = fresh.post("/select", json=body).is_success
                in_turn = in_turn + 1 if is_answered else 0
                return in_turn == 40
            in_turn = 0
            return False

        poll(decided, "both decide")
        in_turn = 0
        earlier.put_back()
        poll(decided, "both decide by what was put back")
        newest = postgres.sql(f"SELECT max(position) FROM {schema}.decisions")
        assert newest == "4", "a model of lost rows has decided"
        assert server.stop() == 0
