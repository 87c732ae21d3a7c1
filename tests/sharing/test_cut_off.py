"""A server that the network cuts off from the database that it shares."""

from __future__ import annotations

import time
from functools import partial

import httpx
import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.postgres import Cluster
from tests.fixtures.relay import relay
from tests.fixtures.servers import servers
from tests.fixtures.waiting import poll
from tests.sharing.test_two_servers import environment_of, same_posterior, served_at
from tests.workers.traffic import Traffic

pytestmark = [pytest.mark.needs("postgres"), pytest.mark.slow]
NOTICED_WITHIN_S, BACK_WITHIN_S = 5.0, 3.0
CUT_S = 8.0  # longer than the lease of these servers


def is_ready(http: httpx.Client) -> bool:
    return http.get("/readyz").is_success


@pytest.mark.parametrize("first_is_cut", [False, True], ids=["replica", "keeper"])
def test_a_server_that_is_cut_off_holds_nobody_back_and_comes_back(
    postgres: Cluster, tmp_path, first_is_cut: bool
) -> None:
    with postgres.empty() as url, relay(postgres.port) as way, servers(tmp_path) as start:
        relayed = url.replace(f":{postgres.port}/", f":{way.port}/")
        assert relayed != url
        ways = (relayed, url) if first_is_cut else (url, relayed)
        both = [start(env=environment_of(each)) for each in ways]
        name = Api(both[0].http).two_actions()
        for server in both:
            served_at(server.http, name)
        cut, other = both if first_is_cut else reversed(both)
        traffic = [Traffic(server, name) for server in (cut, other)]
        try:
            for each in traffic:
                each.goes_on()
            began = time.monotonic()
            way.cut()
            poll(lambda: not is_ready(cut.http), "it is not ready", NOTICED_WITHIN_S)
            while time.monotonic() < began + CUT_S:
                traffic[1].goes_on()
            way.mend()
            if not first_is_cut:  # the keeper of before starts anew
                poll(partial(is_ready, cut.http), "it is ready again", BACK_WITHIN_S)
            for each in traffic:
                each.goes_on()
        finally:
            way.mend()
            for each in traffic:
                each.stop()
        assert traffic[1].refused == 0
        position = same_posterior(Api(both[0].http), Api(both[1].http), name)
        rewarded = {key for each in traffic for key in each.rewarded}
        assert position == 1 + len(rewarded)
        assert [server.stop() for server in both] == [0, 0]
        checked = bandexa("verify", other.data_dir, "--quiet")
        assert checked.returncode == 0, checked.stdout
