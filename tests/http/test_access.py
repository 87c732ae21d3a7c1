"""API keys on a real server: every route with every kind of key, and what the log reports."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from bandexa_client import BanditClient, Rejected
from service.http.keys import hash_of, load_keys, refuse_exposure
from service.settings import SCOPES, SettingsError, load_settings
from tests.fixtures.commands import bandexa
from tests.fixtures.servers import Server, servers
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import WITHIN_S, poll

KEYS: dict[str, str] = {scope: f"bx_key-for-{scope}-{'x' * 20}" for scope in SCOPES}
KEYS["all"] = "bx_key-for-everything-xxxxxxxxxx"
LOCAL = open_client("")
SECURITY_PAGE = Path(__file__).parents[2] / "docs" / "security.md"
ROUTES = {
    (method, path): scope
    for method, path, scope in re.findall(
        r"^\| `([A-Z]+) (/[^`]*)` \| (\w+) \|$", SECURITY_PAGE.read_text(), re.MULTILINE
    )
}


def lines(server: Server) -> list[dict[str, str]]:
    return [json.loads(line) for line in server.log_text().splitlines()]


def table(name: str, key: str, *scopes: str) -> str:
    return f'[[keys]]\nname = "{name}"\nsha256 = "{hash_of(key)}"\nscopes = {json.dumps(scopes)}\n'


def served(folder: Path, toml: str) -> Iterator[Server]:
    config = folder / "server.toml"
    config.write_text(toml)
    with servers(folder) as start:
        yield start(None, "--config", config)


@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end() -> Iterator[None]:
    yield
    LOCAL.close()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key for each scope, one for all, half of them in a separate file."""
    folder = tmp_path_factory.mktemp("locked")
    file = folder / "keys.toml"
    file.write_text("".join(table(f"for-{scope}", KEYS[scope], scope) for scope in SCOPES))
    head = f'log_level = "error"\nkeys_file = "{file}"\n'
    yield from served(folder, head + table("for-all", KEYS["all"], *SCOPES))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that serves one request at a time, with small limits."""
    toml = "max_in_flight = 1\nbody_timeout_s = 2.0\nmax_elements = 2000\n"
    yield from served(tmp_path_factory.mktemp("limited"), toml)


def call(served: Server, route: tuple[str, str], authorization: str | None) -> httpx.Response:
    method, path = route
    path = path.format(
        name="nobody", action_id="a", decision_id="d", evaluation_id="e", challenger="c",
        asset="app.css" if "static" in path else "swagger-ui.css",
    )  # fmt: skip
    headers = {"content-type": "application/json"}
    if authorization is not None:
        headers["authorization"] = authorization
    return LOCAL.request(method, served.url + path, headers=headers, content=b"not JSON")


def test_the_table_names_every_route_and_its_scope(locked: Server) -> None:
    paths = LOCAL.get(f"{locked.url}/openapi.json").json()["paths"]
    declared = {
        (method.upper(), path): operation["x-required-scope"]
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    hidden = {
        ("GET", "/docs"): "public",
        ("GET", "/docs/{asset}"): "public",
        ("GET", "/"): "public",
        ("GET", "/dashboard/static/{asset}"): "public",
    }
    assert declared | hidden == ROUTES
    for (method, path), scope in declared.items():
        assert (paths[path][method.lower()]["security"] != []) == (scope != "public")


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_route_lets_in_those_whose_key_has_its_scope(
    locked: Server, route: tuple[str, str]
) -> None:
    scope = ROUTES[route]
    missing = (None, "", "Bearer", "Basic " + KEYS["all"], KEYS["all"])
    wrong = ("Bearer bx_unknown", f"Bearer {hash_of(KEYS['all'])}", f"Bearer {KEYS['all']}x")
    for authorization in (*missing, *wrong):
        answer = call(locked, route, authorization)
        if scope == "public":
            assert answer.status_code == 200
            continue
        assert answer.status_code == 401, authorization
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:bandexa:unauthorized"
    for held, key in KEYS.items():
        answer = call(locked, route, f"bearer {key}")
        if scope in ("public", "any", held) or held == "all":
            assert answer.status_code in (200, 404, 422), (held, answer.text)
        else:
            assert answer.status_code == 403, (held, answer.text)
            assert answer.json()["type"] == "urn:bandexa:forbidden"
            assert scope in answer.json()["detail"]


def test_a_refusal_does_not_wait_for_the_body(locked: Server) -> None:
    host, port = locked.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WITHIN_S) as connection:
        head = "POST /select HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_clients_send_their_key(locked: Server) -> None:
    with BanditClient(locked.url, trust_env=False, api_key=KEYS["all"]) as client:
        client.put_bandit("own", {"policy": "linear_ts", "context": {"shape": [1]}, "seed": 1})
        assert client.get_bandit("own").position >= 0
        client.delete_bandit("own")
    with (
        BanditClient(locked.url, trust_env=False, api_key=KEYS["select"]) as client,
        pytest.raises(Rejected, match="lacks the scope 'admin'"),
    ):
        client.put_bandit("own", {})


def test_the_log_names_administrators_and_refused_callers_but_no_secret(locked: Server) -> None:
    deleted, train = ("DELETE", "/bandits/{name}"), ("POST", "/bandits/{name}/train")
    call(locked, deleted, f"Bearer {KEYS['admin']}")
    call(locked, train, f"Bearer {KEYS['read']}")
    call(locked, train, "Bearer bx_guessed-secret")
    audited = [line for line in lines(locked) if line["logger"] == "bandexa.audit"]
    logged = [(a["event"], a["key"], a["method"], a["path"], a["outcome"]) for a in audited]
    path = "/bandits/nobody/train"
    assert logged[-3:] == [
        ("administrative call", "for-admin", "DELETE", "/bandits/nobody", "UnknownBandit"),
        ("refused call", "for-read", "POST", path, "lacks scope admin"),
        ("refused call", "(anonymous)", "POST", path, "unknown key"),
    ]
    assert all(line["client"] == "127.0.0.1" for line in audited)
    log = locked.log.read_text()
    assert not any(key in log or hash_of(key) in log for key in (*KEYS.values(), "bx_guessed"))


def check_access(config: Path) -> None:
    settings = load_settings(config)
    keys = load_keys(settings.keys, settings.keys_file)
    refuse_exposure(settings.host, keys, settings.allow_anonymous)


GOOD = table("shop", "k", "select")


@pytest.mark.parametrize(
    ("toml", "field"),
    [
        ("keys = []", "keys"),
        ('keys = "bx_secret"', "keys"),
        ('[[keys]]\nname = "a"\nsha256 = "bx_secret"\nscopes = ["read"]', "keys.0.sha256"),
        (GOOD.replace('"select"', '"root"'), "keys.0.scopes.0"),
        (GOOD.replace('"select"', ""), "keys.0.scopes"),
        (GOOD.replace('"select"', '"select", "select"'), "keys.0.scopes"),
        (GOOD.replace("shop", ""), "keys.0.name"),
        (GOOD + 'key = "bx_secret"', "keys.0.key"),
        (GOOD + table("shop", "other", "read"), "keys: name"),
        (GOOD + table("other", "k", "read"), "keys: sha256 of shop and other"),
        ('keys_file = "no-such-file"', "keys_file"),
        ("allow_anonymous = true\n" + GOOD, "allow_anonymous"),
        ('host = "0.0.0.0"', "host"),
        ('host = "::"', "host"),
    ],
)
def test_a_malformed_key_setting_refuses_to_start(tmp_path: Path, toml: str, field: str) -> None:
    config = tmp_path / "server.toml"
    config.write_text(toml)
    with pytest.raises(ValueError, match=re.escape(field)) as refused:
        check_access(config)
    assert "bx_secret" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "keys = []", GOOD + "[more]", "\xff", "[[keys]]"])
def test_a_malformed_keys_file_refuses_to_start(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="keys_file"):
        load_keys(None, file)


def test_serve_ends_with_status_2_on_malformed_keys(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(GOOD + table("shop", "other", "read"))
    ended = bandexa("serve", "--config", config, cwd=tmp_path)
    assert ended.returncode == 2
    assert "keys: name of shop and shop is the same" in ended.stderr
    assert not (tmp_path / "bandexa-data").exists()


def test_loopback_needs_no_keys_and_other_addresses_can_be_allowed(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        refuse_exposure(host, load_keys(None, None), allow_anonymous=False)
    refuse_exposure("0.0.0.0", load_keys(None, None), allow_anonymous=True)
    (tmp_path / "keys.toml").write_text(GOOD)
    refuse_exposure("0.0.0.0", load_keys(None, tmp_path / "keys.toml"), allow_anonymous=False)


def test_keygen_makes_a_key_whose_table_lets_it_in(tmp_path: Path) -> None:
    made = bandexa("keygen", "--name", "shop", "--scope", "select", "--scope", "reward")
    assert made.returncode == 0
    (tmp_path / "keys.toml").write_text(made.stdout)
    key = made.stderr.split()[-1]
    assert key.startswith("bx_")
    assert key not in made.stdout
    keys = load_keys(None, tmp_path / "keys.toml")
    holder = keys.holder(key)
    assert holder is not None
    assert (holder.name, holder.scopes) == ("shop", ("select", "reward"))
    assert keys.holder(key + "x") is None
    wrong = bandexa("keygen", "--name", "shop", "--scope", "root")
    assert wrong.returncode == 2
    assert "scopes" in wrong.stderr


def test_a_clients_key_in_the_environment_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDEXA_API_KEY", "bx_mine")
    assert load_settings(None).keys is None
    monkeypatch.setenv("BANDEXA_API_KEYS", "bx_mine")
    with pytest.raises(SettingsError, match="BANDEXA_API_KEYS"):
        load_settings(None)


def test_too_many_requests_are_shed_until_there_is_room_again(limited: Server) -> None:
    host, port = limited.url.removeprefix("http://").split(":")
    with (
        limited.client() as http,
        socket.create_connection((host, int(port)), timeout=WITHIN_S) as slow,
    ):
        head = "POST /select HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        poll(lambda: http.get("/bandits").status_code == 503, "no room for a second request")
        shed = http.get("/bandits")
        if shed.status_code == 503:  # else the slow body's time was over meanwhile
            assert int(shed.headers["retry-after"]) >= 1
            assert shed.json()["type"] == "urn:bandexa:unavailable"
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 200
        answer = slow.recv(1000)  # in time the slow one is given up, and there is room again
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"longer than 2 s" in answer + slow.recv(1000)
        poll(lambda: http.get("/bandits").status_code == 200, "room again")


def test_a_body_of_too_many_elements_is_refused_while_it_is_decoded(limited: Server) -> None:
    def send(content: bytes, kind: str) -> httpx.Response:
        headers = {"content-type": f"application/{kind}"}
        return LOCAL.post(f"{limited.url}/select", content=content, headers=headers)

    shapes: tuple[list[Any], ...] = ([0] * 3000, [[]] * 3000, [[[]] * 100] * 30, [{}] * 3000)
    for many in shapes:
        body = {"context": many}
        for content, kind in ((json.dumps(body), "json"), (msgpack.packb(body), "msgpack")):
            raw = content.encode() if isinstance(content, str) else content
            answer = send(raw, kind)
            assert answer.status_code == 413
            assert "2000 elements" in answer.json()["detail"]
    answer = send(json.dumps({"bandit": "nobody", "context": [0] * 1500}).encode(), "json")
    assert answer.status_code == 404
