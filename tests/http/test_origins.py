"""Web pages of other sites cannot use a server through their visitor's browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fixtures.servers import Server

LINEAR = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2}
CALLS = [
    ("GET", "/healthz", None), ("GET", "/bandits", None), ("GET", "/", None),
    ("PUT", "/bandits/new", LINEAR), ("DELETE", "/bandits/shop", None),
    ("POST", "/select", {"bandit": "shop", "context": [1, 1]}),
    ("POST", "/reward", {"decision_id": "d", "reward": 1}),
]  # fmt: skip


@pytest.fixture(scope="module")
def http(start_session_server, api_of) -> Iterator[httpx.Client]:
    """A client of a server on loopback with a bandit."""
    server: Server = start_session_server(
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


def test_elsewhere_any_host_is_answered_and_a_foreign_origin_is_not(start_server) -> None:
    server = start_server(None, "--host", "0.0.0.0", env={"BANDEXA_ALLOW_ANONYMOUS": "true"})
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/bandits", headers={"Host": "bandits.example"}).status_code == 200
        own = {"Host": "bandits.example", "Origin": "https://bandits.example"}
        assert http.get("/bandits", headers=own).status_code == 200
        refused(http.get("/bandits", headers=own | {"Origin": "https://evil.example"}), "Origin:")
