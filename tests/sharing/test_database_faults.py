"""Servers that share a database, while that ends, is killed, or is put back to an earlier state."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.fixtures.api import Api
from tests.fixtures.commands import bandexa
from tests.fixtures.postgres import cluster
from tests.fixtures.servers import servers
from tests.fixtures.waiting import poll
from tests.sharing.test_two_servers import environment_of, same_posterior, served_at
from tests.workers.traffic import Traffic

pytestmark = [pytest.mark.needs("postgres"), pytest.mark.slow]


@pytest.mark.parametrize("durability", ["commit", "barrier"])
def test_a_database_that_is_killed_loses_nothing_that_any_server_answered(
    tmp_path, durability
) -> None:
    """What waits for no disk is lost here: the log's writer in the database sleeps for 10 s."""
    with (
        cluster(wal_writer_delay="10s") as database,
        database.empty() as url,
        servers(tmp_path) as start,
    ):
        both = [start(env=environment_of(url), durability=durability) for _ in range(2)]
        with both[0].client() as first, both[1].client() as second:
            one, two = Api(first), Api(second)
            name = one.two_actions()
            served_at(second, name)
            traffic = [Traffic(server, name) for server in both]
            try:
                for _ in range(2):
                    for each in traffic:
                        each.goes_on()
                    database.stop(signal.SIGKILL)
                    database.start()
                for each in traffic:
                    each.goes_on()
            finally:
                for each in traffic:
                    each.stop()
            traffic[0].check(two)  # what one answered is found at the other
            traffic[1].check(one)
            answered = {key for each in traffic for key in each.rewarded}
            assert same_posterior(one, two, name) >= len(answered), "what was answered is learned"
        assert [server.stop() for server in both] == [0, 0]
        checked = bandexa("verify", both[0].data_dir, "--quiet")
        assert checked.returncode == 0, checked.stdout


def test_no_server_goes_on_with_a_model_of_rows_that_a_restore_has_removed(tmp_path) -> None:
    with cluster() as database, database.empty() as url, servers(tmp_path) as start:
        both = [start(env=environment_of(url)) for _ in range(2)]
        with both[0].client() as first, both[1].client() as second:
            one, two = Api(first), Api(second)
            name = one.two_actions()
            context = {"bandit": name, "context": [1.0, 1.0]}
            served_at(second, name)
            for number in range(10):
                one.teach(name, [float(number), 1.0], "x", 1.0)
            assert same_posterior(one, two, name) == 11
            database.stop()
            earlier = database.folder / "earlier"
            subprocess.run(["cp", "-a", database.data, earlier], check=True)
            database.start()
            poll(lambda: first.get("/readyz").is_success, "the database is back")
            poll(lambda: first.post("/select", json=context).is_success, "it takes writes")
            for _ in range(5):
                one.teach(name, [1.0, 1.0], "y", 0.0)
            assert same_posterior(one, two, name) == 16
            database.stop()
            subprocess.run(["rm", "-r", database.data], check=True)
            earlier.rename(database.data)
            database.start()

            def back() -> bool:
                answers = [http.post("/select", json=context) for http in (first, second)]
                return all(each.is_success for each in answers)

            poll(back, "both servers serve what was restored")
            assert same_posterior(one, two, name) == 11
            two.teach(name, [0.5, 1.0], "y", 1.0)
            assert same_posterior(one, two, name) == 12
        assert [server.stop() for server in both] == [0, 0]
        checked = bandexa("verify", both[0].data_dir, "--quiet")
        assert checked.returncode == 0, checked.stdout


def test_a_synchronous_standby_that_takes_over_has_all_that_was_answered(tmp_path) -> None:
    with (
        cluster(wal_writer_delay="10s") as primary,
        primary.empty() as url,
        primary.standby() as standby,
        servers(tmp_path) as start,
    ):
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = url.replace(f"127.0.0.1:{primary.port}", hosts) + "&target_session_attrs=read-write"
        both = [start(env=environment_of(url), durability="barrier") for _ in range(2)]
        with both[0].client() as first, both[1].client() as second:
            one, two = Api(first), Api(second)
            name = one.two_actions()
            served_at(second, name)
            traffic = [Traffic(server, name) for server in both]
            try:
                for each in traffic:
                    each.goes_on()
                primary.stop(signal.SIGKILL)
                standby.promote()
                for each in traffic:
                    each.goes_on()
            finally:
                for each in traffic:
                    each.stop()
            traffic[0].check(two)
            traffic[1].check(one)
            answered = {key for each in traffic for key in each.rewarded}
            assert same_posterior(one, two, name) >= len(answered), "what was answered is learned"
        assert [server.stop() for server in both] == [0, 0]
        checked = bandexa("verify", both[0].data_dir, "--quiet")
        assert checked.returncode == 0, checked.stdout
