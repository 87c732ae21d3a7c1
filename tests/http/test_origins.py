"""Web pages of other sites cannot use a server through their visitor's browser."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from service.settings import SettingsError, load_settings
from tests.fixtures.servers import Server
from tests.fixtures.transport import open_client

LINEAR = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2}
CALLS = [
    ("GET", "/healthz", None), ("GET", "/bandits", None), ("GET", "/", None),
    ("PUT", "/bandits/new", LINEAR), ("DELETE", "/bandits/shop", None),
    ("POST", "/select", {"bandit": "shop", "context": [1, 1]}),
    ("POST", "/reward", {"decision_id": "d", "reward": 1}),
]  # fmt: skip


@pytest.fixture(scope="module")
def http(start_module_server, api_of) -> Iterator[httpx.Client]:
    """A client of a server on loopback with a bandit."""
    server: Server = start_module_server(
        env={
            "BANDEXA_ALLOWED_HOSTS": '["bandits.shop.example"]',
            "BANDEXA_ALLOWED_ORIGINS": '["https://admin.shop.example"]',
        }
    )
    with server.client() as client:
        api_of(client).two_actions(name="shop")
        yield client


def refused(answer: httpx.Response, what: str) -> None:
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:bandexa:foreign-request"
    assert problem["detail"].startswith(what)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "x", ""])
def test_a_page_of_another_site_changes_and_learns_nothing(
    http, method: str, path: str, body: Any, origin: str
) -> None:
    refused(http.request(method, path, json=body, headers={"Origin": origin}), "Origin:")
    assert http.get("/bandits/new").status_code == 404
    assert http.get("/bandits/shop").status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "192.0.2.7", "[2001:db8::1]"],
)
def test_a_name_that_leads_here_and_is_not_of_this_machine_is_refused(
    http, method: str, path: str, body: Any, host: str
) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    refused(http.request(method, path, json=body, headers=headers), "Host:")
    assert http.get("/bandits/shop").status_code == 200


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST", "shop.localhost:1", "127.0.0.1", "127.9.9.9:5",
     "[::1]:8080", "bandits.shop.example", "Bandits.Shop.Example:443"],
)  # fmt: skip
def test_names_of_this_machine_and_listed_ones_are_answered_also_to_their_own_pages(
    http, host: str
) -> None:
    assert http.get("/bandits", headers={"Host": host}).status_code == 200
    for scheme in ("http", "https"):
        headers = {"Host": host, "Origin": f"{scheme}://{host}"}
        assert http.get("/bandits", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [("localhost:443", "https://localhost"), ("localhost", "http://localhost:80"),
     ("localhost:9", "https://admin.shop.example"), ("localhost", "HTTPS://Admin.Shop.example")],
)  # fmt: skip
def test_default_ports_and_listed_origins_are_good(http, host: str, origin: str) -> None:
    headers = {"Host": host, "Origin": origin}
    assert http.get("/bandits", headers=headers).status_code == 200
    assert http.get("/bandits").status_code == 200


def test_elsewhere_without_keys_a_name_that_anybody_can_register_is_refused(start_server) -> None:
    server = start_server(None, "--host", "0.0.0.0", env={"BANDEXA_ALLOW_ANONYMOUS": "true"})
    with elsewhere(server) as http:
        for good in ("192.0.2.7:80", "[2001:db8::1]", "bandexa:8080", "a.b.svc.cluster.local"):
            assert http.get("/bandits", headers={"Host": good}).status_code == 200
        own = {"Host": "bandexa:8080", "Origin": "https://bandexa:8080"}
        assert http.get("/bandits", headers=own).status_code == 200
        refused(http.get("/bandits", headers=own | {"Origin": "https://evil.com"}), "Origin:")
        rebound = {"Host": "evil.com", "Origin": "http://evil.com"}
        refused(http.get("/bandits", headers=rebound), "Host:")
        refused(http.get("/bandits", headers={"Host": "evil.com"}), "Host:")


def test_elsewhere_allowed_hosts_are_all_the_names_there_are(start_server) -> None:
    key = "0123456789abcdef" * 4
    keys = [{"name": "k", "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": ["read"]}]
    env = {"BANDEXA_KEYS": json.dumps(keys)}
    hosts = {"BANDEXA_ALLOWED_HOSTS": '["Bandits.Shop.com"]'}
    for more, answered in (({}, 200), (hosts, 403)):
        server = start_server(None, "--host", "0.0.0.0", env=env | more)
        with elsewhere(server, headers={"Authorization": f"Bearer {key}"}) as http:
            for good in ("bandits.shop.com", "bandits.shop.com.:443", "192.0.2.7", "localhost"):
                assert http.get("/bandits", headers={"Host": good}).status_code == 200
            for other in ("evil.com", "bandexa"):
                assert http.get("/bandits", headers={"Host": other}).status_code == answered
        server.stop()


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_what_a_browser_sends_for_a_page_of_another_site_without_an_origin_is_refused(
    http, method: str, path: str, body: Any
) -> None:
    asked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    refused(http.request(method, path, json=body, headers=asked), "Sec-Fetch-Site:")
    frame = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    refused(http.request(method, path, json=body, headers=asked | frame), "Sec-Fetch-Site:")


def test_own_pages_followed_links_and_allowed_origins_pass(http) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document",
    }  # fmt: skip
    assert http.get("/", headers=link).status_code == 200
    asked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    refused(http.get("/bandits", headers=asked), "Sec-Fetch-Site:")  # also after that link
    for site in ("same-origin", "same-site", "none"):
        assert http.get("/bandits", headers={"Sec-Fetch-Site": site}).status_code == 200
    allowed = asked | {"Origin": "https://admin.shop.example"}
    assert http.get("/bandits", headers=allowed).status_code == 200


def elsewhere(server: Server, **options: Any) -> httpx.Client:
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    return open_client(url, **options)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        *(("allowed_hosts", text) for text in (
            "http://a.example", "a.example/x", "a.example:80", "a b", "", "*.a.example", "\u00e9",
        )),
        *(("allowed_origins", text) for text in (
            "a.example", "https://a.example/", "https://a.example/x", "https://a b", "null", "*",
            "ftp://a.example", "https://", "https://u@a.example", "https://a.example:x",
        )),
    ],
)  # fmt: skip
def test_an_entry_that_no_browser_could_send_is_refused_with_its_form(setting, wrong) -> None:
    with pytest.raises(SettingsError, match=rf"{setting}(.|\n)*such as"):
        load_settings(None, **{setting: [wrong]})


def test_entries_are_brought_into_the_form_that_browsers_send() -> None:
    settings = load_settings(
        None,
        allowed_hosts=["Shop.Example", "shop.example.", "[::1]", "10.0.0.5"],
        allowed_origins=["HTTPS://Shop.Example:443", "http://[::1]:3000", "http://a:80"],
    )
    assert settings.allowed_hosts == ("shop.example", "shop.example", "::1", "10.0.0.5")
    assert settings.allowed_origins == ("https://shop.example", "http://[::1]:3000", "http://a")


@pytest.mark.parametrize(
    ("method", "path", "body"), [("POST", "/select", CALLS[5][2]), ("GET", "/bandits", None)]
)
def test_several_accept_lines_are_one_list(http, method: str, path: str, body: Any) -> None:
    for first, second, answered in (
        ("application/json;q=0.5", "application/msgpack", "application/msgpack"),
        ("application/msgpack", "text/html", "application/msgpack"),
        ("text/html", "application/msgpack", "application/msgpack"),
        ("application/msgpack;q=0.5", "application/json", "application/json"),
    ):
        content = None if body is None else json.dumps(body).encode()
        headers = [("accept", first), ("content-type", "application/json"), ("accept", second)]
        request = httpx.Request(method, f"{http.base_url}{path}", headers=headers, content=content)
        assert http.send(request).headers["content-type"] == answered


@pytest.mark.parametrize("name", ["Host", "Origin"])
def test_several_hosts_or_origins_are_refused(http, name: str) -> None:
    netloc = http.base_url.netloc.decode()
    own = f"http://{netloc}" if name == "Origin" else "localhost"
    for values in (("evil.example", own), (own, "evil.example"), (own, own)):
        with closing(HTTPConnection(netloc, timeout=30)) as connection:
            connection.putrequest("GET", "/bandits", skip_host=name == "Host")
            for value in values:
                connection.putheader(name, value)
            connection.endheaders()
            assert connection.getresponse().status == 403
