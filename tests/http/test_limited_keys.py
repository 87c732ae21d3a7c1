"""API keys that end, and API keys with a rate."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from bandexa_client import BanditClient, Retry
from service.http.keys import hash_of, load_keys, new_key
from service.http.rates import Bucket
from tests.fixtures.servers import Server
from tests.fixtures.transport import open_client

SLOW, ENDED, ENDING, FREE, ONCE = (new_key() for _ in range(5))
SCOPES = '["select", "reward", "read", "admin"]'


def table(name: str, key: str, *lines: str) -> str:
    head = f'[[keys]]\nname = "{name}"\nsha256 = "{hash_of(key)}"\nscopes = {SCOPES}\n'
    return head + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def server(start_module_server, tmp_path_factory) -> Server:
    now = datetime.now(UTC).replace(microsecond=0)
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        table("slow", SLOW, "rate = 0.001", "burst = 3")
        + table("ended", ENDED, f"expires = {(now - timedelta(seconds=1)).isoformat()}")
        + table("ending", ENDING, f"expires = {(now + timedelta(days=3)).isoformat()}")
        + table("free", FREE)
        + table("once", ONCE, "rate = 0.001", "burst = 1")
    )
    found: Server = start_module_server(env={"BANDEXA_KEYS_FILE": str(path)})
    return found


def call(server: Server, key: str, method: str, path: str, body: object = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    with open_client(server.url, headers=headers) as http:
        return http.request(method, path, json=body)


def test_a_key_is_refused_from_its_end_on(server: Server) -> None:
    assert call(server, ENDING, "GET", "/bandits").status_code == 200
    refused = call(server, ENDED, "GET", "/bandits")
    assert refused.status_code == 401
    assert "this API key ended at 20" in refused.json()["detail"]
    assert "the key 'ended' ended at 20" in server.log_text()
    assert "the key 'ending' ends at 20" in server.log_text()
    assert "'free'" not in server.log_text()


def test_a_key_with_a_rate_gets_429_and_when_to_come_back(server: Server) -> None:
    """The three calls at once are a create, a catalogue, and a batch, which owes its items."""
    spec = {"policy": "linear_ts", "context": {"shape": [1]}, "encoder": {"name": "per_action"}}
    assert call(server, SLOW, "PUT", "/bandits/limited", spec).status_code == 201
    ids = {"ids": ["a", "b"]}
    assert call(server, SLOW, "PUT", "/bandits/limited/actions", ids).status_code == 200
    item = {"bandit": "limited", "context": [1.0]}
    batch = call(server, SLOW, "POST", "/select/batch", {"items": [item] * 5})
    assert [each["code"] for each in batch.json()["items"]] == [200] * 5
    refused = call(server, SLOW, "POST", "/select", item)
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:bandexa:too-many-calls"
    # Four items are owed, and one call is needed, at a thousandth a second.
    assert 4990 <= int(refused.headers["retry-after"]) <= 5000
    assert call(server, SLOW, "GET", "/bandits").status_code == 429
    for _ in range(5):
        assert call(server, FREE, "POST", "/select", item).status_code == 200


def test_servers_that_share_a_database_divide_a_rate_and_notice_who_comes_and_goes() -> None:
    at, num = 0.0, 1
    first = Bucket(4.0, 8.0, lambda: at, lambda: num)
    assert first.take() == 0.0
    num = 2
    second = Bucket(4.0, 8.0, lambda: at, lambda: num)
    let_in = [[bucket.take() == 0.0 for _ in range(5)] for bucket in (first, second)]
    assert let_in == [[True] * 4 + [False]] * 2, "8 at once, of both together"
    assert first.take() == 0.5, "two calls a second are this server's part"
    num, at = 1, 1.0
    assert [first.take() == 0.0 for _ in range(5)] == [True] * 4 + [False]


def test_a_burst_below_the_number_of_servers_lets_one_call_in_at_each() -> None:
    at = 0.0
    bucket = Bucket(1.0, 2.0, lambda: at, lambda: 4)
    assert (bucket.take(), bucket.take()) == (0.0, 4.0)
    at = 3.9
    assert bucket.take() > 0.0
    at = 4.0
    assert bucket.take() == 0.0


def test_a_call_that_asks_who_one_is_counts_once(server: Server) -> None:
    asked = [call(server, ONCE, "GET", "/dashboard/session") for _ in range(2)]
    assert [each.status_code for each in asked] == [200, 429]
    assert asked[0].json()["name"] == "once"


def test_a_client_waits_as_long_as_it_is_asked_to(start_server, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(table("slow", SLOW, "rate = 0.25", "burst = 1") + table("free", FREE))
    server: Server = start_server(env={"BANDEXA_KEYS_FILE": str(path)})
    retry = Retry(attempts=20)
    with BanditClient(server.url, api_key=SLOW, retry=retry) as client:
        for number in range(2):  # the second finds the bucket empty, for four seconds
            client.put_bandit(f"b{number}", {"policy": "linear_ts", "context": {"shape": [1]}})
    assert 'status="429"' in call(server, FREE, "GET", "/metrics").text


def test_a_bucket_gains_its_rate_and_never_more_than_its_burst() -> None:
    """In closed form: n calls by time t are let in where n <= burst + rate * t."""
    at = 0.0
    bucket = Bucket(4.0, 2.0, lambda: at)
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.25]
    at = 0.25
    assert [bucket.take() for _ in range(2)] == [0.0, 0.25]
    at = 100.0
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.25]
    bucket.owe(7)
    assert bucket.take() == 2.0
    at = 102.0
    assert bucket.take() == 0.0


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["expires = 2030-01-01"], "expires"),
        (["expires = 'soon'"], "expires"),
        (["rate = 0"], "rate"),
        (["rate = inf"], "rate"),
        (["rate = 5e-324"], "rate"),  # after which no time is left to wait for
        (["rate = 1.0", f"burst = 1{'0' * 400}"], "burst"),
        (["rate = 1.0", "burst = 0"], "burst"),
        (["burst = 5"], "burst: belongs to a rate"),
    ],
)
def test_wrong_limits_are_refused_by_name(tmp_path: Path, lines: list[str], named: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(table("x", FREE, *lines))
    with pytest.raises(ValueError, match=named):
        load_keys(None, path)


def keygen(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", "keygen", "--name", "x", "--scope", "read"]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def test_keygen_writes_a_table_that_the_server_reads(tmp_path: Path) -> None:
    made = keygen("--expires", "90d", "--rate", "2.5", "--burst", "40")
    path = tmp_path / "keys.toml"
    path.write_text(made.stdout)
    key = made.stderr.split()[-1]
    found = load_keys(None, path).holder(key)
    assert found is not None
    assert (found.rate, found.burst) == (2.5, 40)
    assert found.expires is not None
    assert abs(found.expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)
    as_json = json.loads(keygen("--expires", "2999-01-01", "--json").stdout)
    assert as_json["expires"] == "2999-01-01T00:00:00Z"
    for wrong in ("yesterday", "2001-01-01", "d"):
        refused = keygen("--expires", wrong)
        assert refused.returncode == 2
        assert "expires: " in refused.stderr
