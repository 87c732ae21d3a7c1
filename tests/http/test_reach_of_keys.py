"""API keys that are limited to bandits, and API keys with quotas."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bandexa_client import BanditClient, Rejected
from service.http.errors import TooManyCalls
from service.http.keys import hash_of, load_keys, new_key
from service.http.rates import Rates
from tests.fixtures.commands import bandexa
from tests.fixtures.servers import Server
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll
from tests.http.test_access import ROUTES

ALL, TEAM, SMALL = (new_key() for _ in range(3))
SCOPES = '["select", "reward", "read", "admin"]'
SPEC = {"policy": "linear_ts", "context": {"shape": [1]}, "encoder": {"name": "per_action"}}


def table(name: str, key: str, *lines: str) -> str:
    head = f'[[keys]]\nname = "{name}"\nsha256 = "{hash_of(key)}"\nscopes = {SCOPES}\n'
    return head + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def server(start_module_server, tmp_path_factory) -> Server:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        table("everywhere", ALL)
        + table("team", TEAM, 'bandits = ["team-*", "shared"]')
        + table("small", SMALL, 'bandits = ["small-*"]', "max_bandits = 2", "max_actions = 5")
    )
    found: Server = start_module_server(
        env={"BANDEXA_KEYS_FILE": str(path), "BANDEXA_PERSONALIZER__ENABLED": "true"}
    )
    for name in ("team-1", "shared", "other"):
        assert call(found, ALL, "PUT", f"/bandits/{name}", SPEC)[0] == 201
        assert call(found, ALL, "PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})[0] == 200
    return found


def call(
    server: Server, key: str, method: str, path: str, body: object = None
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}"}
    with open_client(server.url, headers=headers) as http:
        answer = http.request(method, path, json=body)
    return answer.status_code, answer.json() if "json" in answer.headers["content-type"] else {}


def select(server: Server, key: str, bandit: str) -> tuple[int, dict[str, Any]]:
    return call(server, key, "POST", "/select", {"bandit": bandit, "context": [1.0]})


def reward(server: Server, key: str, decision: str) -> tuple[int, dict[str, Any]]:
    return call(server, key, "POST", "/reward", {"decision_id": decision, "reward": 1})


OWN = {  # they heed what their bodies name, or what they would show
    "/activate", "/erase", "/bandits", "/dashboard/overview", "/dashboard/decisions/{decision_id}",
}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_limited_key_is_let_in_at_no_other_bandit_and_at_no_call_of_the_server(
    server: Server, route: tuple[str, str]
) -> None:
    method, path = route
    if ROUTES[route] in ("public", "any") or path in OWN or path.split("/")[1] in (
        "select", "reward"
    ):  # fmt: skip
        return
    parts = {"name": "other", "action_id": "a", "decision_id": "d", "evaluation_id": "e"}
    status, answer = call(server, TEAM, method, path.format(challenger="c", **parts), {})
    assert (status, answer["type"]) == (403, "urn:bandexa:forbidden")
    assert "'other'" in answer["detail"] or "whole server" in answer["detail"]


def test_a_limited_key_decides_and_rewards_at_its_bandits_alone(server: Server) -> None:
    for name in ("team-1", "shared"):
        status, made = select(server, TEAM, name)
        assert status == 200
        assert reward(server, TEAM, made["decision_id"])[0] == 200
    for name in ("other", "nowhere"):  # nor does it learn which there are
        status, answer = select(server, TEAM, name)
        assert (status, answer["detail"]) == (
            403, f"the key 'team' does not reach the bandit {name!r}",
        )  # fmt: skip
    items = [{"bandit": name, "context": [1.0]} for name in ("shared", "other", "team-1")]
    batch = call(server, TEAM, "POST", "/select/batch", {"items": items})[1]["items"]
    assert [each["code"] for each in batch] == [200, 403, 200]


@pytest.mark.parametrize("own_id", [None, "fresh"])
def test_a_first_reward_of_a_limited_key_is_refused_at_once(
    server: Server, own_id: str | None
) -> None:
    """Nothing was asked about the decision so far: its id alone says which bandit it is of."""
    body: dict[str, Any] = {"bandit": "other", "context": [1.0]}
    if own_id:
        body["decision_id"] = own_id
    made = call(server, ALL, "POST", "/select", body)[1]["decision_id"]
    assert reward(server, TEAM, made)[0] == 403
    assert reward(server, ALL, made)[1]["status"] == "applied"


@pytest.mark.parametrize("own_id", [None, "given"])
def test_no_decision_of_another_bandit_takes_a_reward_of_a_limited_key(
    server: Server, own_id: str | None
) -> None:
    body: dict[str, Any] = {"bandit": "other", "context": [1.0], "activate": False}
    if own_id:
        body["decision_id"] = own_id
    made = call(server, ALL, "POST", "/select", body)[1]["decision_id"]
    before = call(server, ALL, "GET", "/bandits/other")[1]["position"]
    assert call(server, TEAM, "POST", "/activate", {"decision_id": made})[0] == 403
    assert reward(server, TEAM, made)[0] == 403
    item = {"decision_id": made, "reward": 1}
    for path in ("/reward/batch", "/reward/check"):
        items = call(server, TEAM, "POST", path, {"items": [item]})[1]["items"]
        assert [each["code"] for each in items] == [403]
    erase = {"bandit": "other", "decision_ids": [made]}
    assert call(server, TEAM, "POST", "/erase", erase)[0] == 403
    status, answer = call(server, TEAM, "POST", "/erase", {"decision_ids": [made]})
    assert (status, "name one" in answer["detail"]) == (403, True)
    assert call(server, ALL, "GET", "/bandits/other")[1]["position"] == before
    assert call(server, ALL, "POST", "/activate", {"decision_id": made})[0] == 200
    assert reward(server, ALL, made)[1]["status"] == "applied"


def test_a_limited_key_lists_its_bandits(server: Server) -> None:
    listed = call(server, TEAM, "GET", "/bandits")[1]["bandits"]
    assert [each["name"] for each in listed] == ["shared", "team-1"]
    overview = call(server, TEAM, "GET", "/dashboard/overview")[1]
    assert [each["name"] for each in overview["bandits"]] == ["shared", "team-1"]
    assert (overview["total"], overview["found"]) == (2, 2)
    found = call(server, TEAM, "GET", "/dashboard/overview?find=team")[1]
    assert (found["total"], found["found"]) == (2, 1)
    for name, status in (("team-1", 200), ("other", 404)):
        made = select(server, ALL, name)[1]["decision_id"]
        assert call(server, TEAM, "GET", f"/dashboard/decisions/{made}")[0] == status
        assert call(server, ALL, "GET", f"/dashboard/decisions/{made}")[1]["bandit"] == name
    session = call(server, TEAM, "GET", "/dashboard/session")[1]
    assert session["bandits"] == ["team-*", "shared"]
    replay = {"to": "elsewhere", "spec": SPEC}
    assert call(server, TEAM, "POST", "/bandits/shared/replay", replay)[0] == 403


def test_a_limited_key_reaches_no_other_bandit_as_personalizers_client(server: Server) -> None:
    headers = {"Ocp-Apim-Subscription-Key": TEAM}
    path = "/personalizer/v1.0/rank"
    with open_client(server.url, headers=headers) as http:
        answer = http.post(path, json={"actions": [{"id": "a", "features": [{"x": 1}]}]})
    assert answer.status_code == 403
    assert "does not reach the bandit 'default'" in answer.text


def test_quotas_are_refused_by_name_and_change_nothing(server: Server) -> None:
    with BanditClient(server.url, api_key=SMALL, trust_env=False) as client:
        client.put_bandit("small-1", SPEC)
        client.put_bandit("small-2", SPEC)
        client.put_bandit("small-2", SPEC)  # it is there already
        with pytest.raises(Rejected, match=r"max_bandits: the key 'small' reaches 2 .* have 2"):
            client.put_bandit("small-3", SPEC)
        assert call(server, SMALL, "PUT", "/bandits/small-3?dry_run=true", SPEC)[0] == 403
        client.put_actions("small-1", ["a", "b", "c"])
        with pytest.raises(Rejected, match=r"max_actions: .* have 3 actions, 3 more are sent"):
            client.put_actions("small-2", ["a", "b", "c"])
        client.put_actions("small-1", ["c", "d", "e"])
        client.put_actions("small-1", ["a", "b", "c", "d", "e"])
        assert client.get_bandit("small-2").num_actions == 0
        client.delete_bandit("small-2")
        client.put_bandit("small-3", SPEC)
    status, answer = call(server, SMALL, "PUT", "/bandits/small-4", SPEC)
    assert (status, answer["type"]) == (403, "urn:bandexa:quota-exceeded")


def test_a_key_is_limited_while_the_server_serves(start_server, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(table("everywhere", ALL) + table("team", TEAM))
    server: Server = start_server(env={"BANDEXA_KEYS_FILE": str(path)})
    assert call(server, ALL, "PUT", "/bandits/other", SPEC)[0] == 201
    assert call(server, TEAM, "GET", "/bandits/other")[0] == 200
    path.write_text(table("everywhere", ALL) + table("team", TEAM, 'bandits = ["shop"]'))
    os.kill(server.pid, 1)
    poll(lambda: call(server, TEAM, "GET", "/bandits/other")[0] == 403, "the new limit holds")


def test_a_rate_that_is_removed_and_restored_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"

    def read(*lines: str):
        path.write_text(table("slow", ALL, *lines))
        return load_keys(None, path)

    keys = read("rate = 0.001", "burst = 1")
    rates: Rates = keys.rates

    def left() -> bool:
        holder = keys.holder(ALL)
        assert holder is not None
        try:
            rates.charge(holder)
        except TooManyCalls:
            return False
        return True

    assert (left(), left()) == (True, False)
    keys.replace(read("rate = 0.001", "burst = 1", "max_bandits = 1"))
    assert not left()  # the same rate: what is owed stays
    keys.replace(read())
    holder = keys.holder(ALL)
    assert holder is not None
    rates.charge_items(holder, 1000)  # a batch without a rate owes nothing
    keys.replace(read("rate = 0.001", "burst = 1"))
    assert (left(), left()) == (True, False)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["bandits = []"], "bandits"),
        (['bandits = ["a b"]'], "bandits"),
        (['bandits = ["[a]"]'], "bandits"),
        (["max_bandits = -1"], "max_bandits"),
        (['max_actions = "many"'], "max_actions"),
    ],
)
def test_wrong_limits_are_refused_by_name(tmp_path: Path, lines: list[str], named: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(table("x", ALL, *lines))
    with pytest.raises(ValueError, match=named):
        load_keys(None, path)


def test_a_key_file_has_the_key_alone_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "shop.key"
    made = bandexa("keygen", "--name", "x", "--scope", "read", "--key-file", path)
    assert made.returncode == 0
    key = path.read_text()
    assert hash_of(key) in made.stdout
    assert key not in made.stdout + made.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    again = bandexa("keygen", "--name", "x", "--scope", "read", "--key-file", path)
    assert (again.returncode, "File exists" in again.stderr) == (2, True)
    assert path.read_text() == key


def test_the_command_lists_what_a_server_would_read(tmp_path: Path) -> None:
    made = bandexa(
        "keygen", "--name", "shop", "--scope", "select", "--bandit", "shop-*", "--bandit", "news",
        "--rate", "50", "--max-bandits", "3", "--max-actions", "100",
    )  # fmt: skip
    path = tmp_path / "keys.toml"
    path.write_text(made.stdout + table("root", ALL))
    listed = bandexa("keys", "check", path)
    assert listed.returncode == 0
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["KEY", "SCOPES", "BANDITS", "EXPIRES", "RATE", "MAX_BANDITS", "MAX_ACTIONS"],
        ["shop", "select", "shop-*,news", "-", "50/s,", "100", "at", "once", "3", "100"],
        ["root", "select,reward,read,admin", "all", "-", "-", "-", "-"],
    ]
    only = bandexa("keys", "check", path, "--bandit", "other", "--json")
    assert [each["name"] for each in json.loads(only.stdout)["keys"]] == ["root"]
    assert "sha256" not in only.stdout
    path.write_text(table("old", ALL, "expires = 2001-01-01T00:00:00Z"))
    ended = bandexa("keys", "check", path)
    assert (ended.returncode, "the key 'old' ended at" in ended.stderr) == (1, True)
    path.write_text(table("x", ALL, "rates = 5"))
    wrong = bandexa("keys", "check", path)
    assert (wrong.returncode, "keys.0.rates" in wrong.stderr) == (2, True)
