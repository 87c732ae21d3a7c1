"""Servers that share a database are started anew one after the other, while requests go on."""

from __future__ import annotations

import pytest

from tests.fixtures.api import Api
from tests.fixtures.servers import servers
from tests.fixtures.waiting import poll
from tests.sharing.balanced import Balanced
from tests.sharing.test_two_servers import environment_of, same_posterior

pytestmark = pytest.mark.needs("postgres")


def test_no_request_fails_twice_while_one_server_after_the_other_starts_anew(
    postgres, tmp_path
) -> None:
    with postgres.empty() as url, servers(tmp_path) as start:
        keeper, other = (start(env=environment_of(url)) for _ in range(2))
        with keeper.client() as client, other.client() as another:
            name = Api(client).two_actions()
            body = {"bandit": name, "context": [1.0, 0.0]}
            poll(lambda: another.post("/select", json=body).is_success, "both serve it")
        traffic = Balanced((keeper, other), name)
        try:
            for server in (other, keeper):  # the second one leaves its role to the first
                traffic.goes_on()
                assert server.stop() == 0
                traffic.goes_on()
                server.start()
            traffic.goes_on()
        finally:
            traffic.stop()
        assert traffic.repeated, "servers were away"
        with keeper.client() as client, other.client() as another:
            assert client.get("/readyz").json()["role"] == "replica"
            assert another.get("/readyz").json()["role"] == "keeper"
            position = same_posterior(Api(client), Api(another), name)
            assert position >= len(traffic.rewarded), "what was answered is learned"
