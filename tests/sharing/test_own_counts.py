"""What servers that share a database count: rates of keys together, and metrics each its own."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.http.auth import COUNTED
from service.http.keys import hash_of, new_key
from tests.fixtures.commands import bandexa
from tests.fixtures.servers import servers
from tests.fixtures.waiting import poll
from tests.observe.test_metrics import documented

pytestmark = pytest.mark.needs("postgres")
DOCUMENTED = Path(__file__).parents[2] / "docs" / "metrics.md"
BURST = 8
FREE, SLOW, SELECTS = (new_key() for _ in range(3))
SCORE = ("POST", "/bandits/none/score", {"context": [1.0]})  # is answered at each server
LIST = ("GET", "/bandits", None)  # is passed on to the keeper


@dataclass
class Pair:
    """The keeper and the other server, with keys."""

    keeper: httpx.Client
    other: httpx.Client
    data_dir: Path
    url: str


def as_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def table(name: str, key: str, *lines: str) -> str:
    return "\n".join((f'[[keys]]\nname = "{name}"', f'sha256 = "{hash_of(key)}"', *lines, ""))


def metrics(client: httpx.Client) -> dict[tuple[str, str], float]:
    """Return the values of a server by their names and routes, summed over other labels."""
    found: dict[tuple[str, str], float] = {}
    text = client.get("/metrics", headers=as_key(FREE)).raise_for_status().text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            of = sample.name, sample.labels.get("route", "")
            found[of] = found.get(of, 0.0) + sample.value
    return found


def becomes(client: httpx.Client, name: str, value: float) -> None:
    poll(lambda: metrics(client)[name, ""] == value, f"{name} is {value}")


def families(client: httpx.Client) -> dict[str, set[str]]:
    """Return the metrics of a server with their labels."""
    text = client.get("/metrics", headers=as_key(FREE)).raise_for_status().text
    return {
        f"{each.name}_total" if each.type == "counter" else each.name: {
            label for sample in each.samples for label in sample.labels
        }
        for each in text_string_to_metric_families(text)
    }


@pytest.fixture(scope="module")
def pair(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    path = folder / "keys.toml"
    scopes = 'scopes = ["select", "reward", "read", "admin"]'
    path.write_text(
        table("free", FREE, scopes)
        + table("slow", SLOW, scopes, "rate = 0.001", f"burst = {BURST}")
        + table("selects", SELECTS, 'scopes = ["select"]')
    )
    with postgres.empty() as url, servers(folder) as start, ExitStack() as stack:
        env = {
            "BANDEXA_STORE": url, "BANDEXA_SERVERS": "4", "BANDEXA_LEASE_S": "2",
            "BANDEXA_SNAPSHOT_STORE": "postgresql", "BANDEXA_KEYS_FILE": str(path),
        }  # fmt: skip
        both = [start(env=env) for _ in range(2)]
        keeper, other = (stack.enter_context(each.client()) for each in both)
        for client in (keeper, other):
            becomes(client, "bandexa_servers", 2)
        yield Pair(keeper, other, both[0].data_dir, url)


def test_a_key_makes_no_more_calls_at_both_than_it_may(pair: Pair) -> None:
    def status(client: httpx.Client, number: int, **headers: str) -> int:
        method, where, body = (SCORE, LIST)[number % 2]
        answer = client.request(method, where, json=body, headers=as_key(SLOW) | headers)
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) > 1000, "its part of a thousandth a second"
        return answer.status_code

    method, where, body = SCORE

    def is_missing() -> bool:  # a server looks for an unknown bandit before it says 404
        return pair.other.request(method, where, json=body, headers=as_key(FREE)).status_code == 404

    poll(is_missing, "it has looked for the bandit")
    forged = {COUNTED: "a" * 128}
    for client in (pair.other, pair.keeper):  # what is passed on takes nothing of the keeper's part
        found = [status(client, number) for number in range(BURST // 2)]
        assert found == [404, 200] * (BURST // 4)
        assert [status(client, number, **forged) for number in range(2)] == [429, 429]


def test_each_server_shows_what_it_does_and_the_keeper_what_bandits_do(pair: Pair) -> None:
    free = as_key(FREE)
    spec = {"policy": "linear_ts", "context": {"shape": [1]}, "encoder": {"name": "per_action"}}
    pair.other.put("/bandits/shown", json=spec, headers=free).raise_for_status()
    ids = {"ids": ["a", "b"]}
    pair.other.put("/bandits/shown/actions", json=ids, headers=free).raise_for_status()
    before = metrics(pair.keeper), metrics(pair.other)
    for _ in range(3):
        body = {"bandit": "shown", "context": [1.0]}
        pair.other.post("/select", json=body, headers=free).raise_for_status()
    of_keeper, of_other = metrics(pair.keeper), metrics(pair.other)
    selects = "bandexa_http_requests_total", "/select"
    assert of_other[selects] - before[1].get(selects, 0.0) == 3
    assert of_keeper.get(selects, 0.0) == before[0].get(selects, 0.0)
    assert [found["bandexa_keeper", ""] for found in (of_keeper, of_other)] == [1.0, 0.0]
    assert of_other["process_start_time_seconds", ""] != of_keeper["process_start_time_seconds", ""]
    for client in (pair.keeper, pair.other):
        becomes(client, "bandexa_follow_lag_rows", 0)
    assert not any("bandit" in labels for labels in families(pair.other).values())
    assert "bandit" in families(pair.keeper)["bandexa_selects_total"]


def test_what_is_listed_for_such_servers_is_what_they_show(pair: Pair) -> None:
    part = DOCUMENTED.read_text().split("With [servers that share a database]")[1]
    listed = set(re.findall(r"^- `([a-z_]+)`", part.split("\n\n")[1], re.MULTILINE))
    assert families(pair.keeper).keys() - documented().keys() == listed
    shown = families(pair.other).keys()
    assert shown - documented().keys() == listed
    assert {"bandexa_commit_seconds", "bandexa_select_seconds", "bandexa_ready"} <= shown


def test_metrics_of_a_server_need_the_scope_that_those_of_the_keeper_need(pair: Pair) -> None:
    for client in (pair.keeper, pair.other):
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=as_key(SELECTS)).status_code == 403


def test_a_server_says_which_it_is(pair: Pair) -> None:
    found = [client.get("/readyz").json() for client in (pair.keeper, pair.other)]
    assert [(each["server"], each["role"]) for each in found] == [(1, "keeper"), (2, "replica")]
    assert [each["worker"] for each in found] == [None, None]


def test_the_doctor_names_the_servers_and_the_keeper(pair: Pair) -> None:
    env = {"BANDEXA_STORE": pair.url}
    found = json.loads(bandexa("doctor", "--json", "--data-dir", pair.data_dir, env=env).stdout)
    [told] = [each["told"] for each in found if each["name"] == "servers"]
    first, second = told.split("; ")
    assert first.startswith("1 (keeper): ")
    assert first.endswith(f" at {str(pair.keeper.base_url).rstrip('/')}")
    assert second.startswith("2: ")
    assert second.endswith(f" at {str(pair.other.base_url).rstrip('/')}")
