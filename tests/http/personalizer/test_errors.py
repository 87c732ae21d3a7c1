"""Whatever refuses a request of these paths answers in Personalizer's error shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.http.keys import hash_of
from tests.fixtures.commands import bandexa
from tests.fixtures.servers import Server, servers
from tests.http.personalizer.conftest import ACTIONS, Personalizer, error_of

RANK = {"actions": ACTIONS}
KEYS = {"caller": ["select", "reward"], "owner": ["select", "reward", "read", "admin"]}


def table(name: str, scopes: list[str]) -> str:
    head = f'[[keys]]\nname = "{name}"\nsha256 = "{hash_of(name)}"\n'
    return f"{head}scopes = {json.dumps(scopes)}\n"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys and small limits; the key of `owner` has a bandit of its own."""
    folder: Path = tmp_path_factory.mktemp("locked")
    config = folder / "bandexa.toml"
    config.write_text(
        "max_body_bytes = 2048\n"
        + "".join(table(name, scopes) for name, scopes in KEYS.items())
        + '[personalizer]\nenabled = true\ncreate = true\nkeys = { owner = "own" }\n'
    )
    with servers(folder) as start:
        yield start(None, "--config", config)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/v1.0/nothing", RANK, {}, 404, "ResourceNotFound"),
        ("POST", "/v1.0", RANK, {}, 404, "ResourceNotFound"),
        ("POST", "", RANK, {}, 400, "BadRequest"),
        ("POST", "/v2.0/rank", RANK, {}, 404, "ResourceNotFound"),
        ("POST", "/v1.0/multislot/rank", RANK, {}, 404, "ResourceNotFound"),
        ("GET", "/v1.0/rank", None, {}, 405, "MethodNotAllowed"),
        ("POST", "/v1.0/rank", b"{}", {"content-type": "text/plain"}, 415, "UnsupportedMediaType"),
        ("POST", "/v1.0/rank", b"{}", {"content-encoding": "gzip"}, 415, "UnsupportedMediaType"),
        ("POST", "/v1.0/rank", RANK, {"origin": "http://other.example"}, 403, "403"),
        ("POST", "/v1.0/rank", RANK, {"host": "other.example"}, 403, "403"),
        ("POST", "/v1.0/events/%FF/reward", {"value": 1}, {}, 400, "BadRequest"),
        ("POST", "/v1.0/evaluations", {}, {}, 403, "OperationNotAllowed"),
    ],
)
def test_errors_have_one_shape(
    personalizer, method: str, path: str, body: Any, headers: Any, status: int, code: str
) -> None:
    refused = personalizer.send(method, f"/personalizer{path}", body, headers)
    assert refused.status_code == status, refused.text
    assert error_of(refused)["code"] == code


def test_keys_are_asked_for_as_personalizer_does(locked: Server) -> None:
    key = "ocp-apim-subscription-key"
    with locked.client() as http:
        calls = Personalizer(http)
        for headers in ({}, {key: "unknown"}, {"authorization": "Bearer unknown"}):
            refused = calls.send("POST", "/personalizer/v1.0/rank", RANK, headers)
            assert refused.status_code == 401
            assert error_of(refused)["code"] == "401"
        refused = calls.send("GET", "/personalizer/v1.0/model", None, {key: "caller"})
        assert refused.status_code == 403
        assert error_of(refused)["code"] == "403"


def test_a_key_has_its_bandit_and_creates_it_where_it_may(locked: Server) -> None:
    key = "Ocp-Apim-Subscription-Key"
    with locked.client() as http:
        calls = Personalizer(http)

        def rank(body: Any, **headers: str) -> Any:
            return calls.send("POST", "/personalizer/v1.0/rank", body, headers)

        refused = rank(RANK, **{key: "caller"})  # it may not create "default"
        assert refused.status_code == 404
        error = error_of(refused)
        assert error["code"] == "ResourceNotFound"
        assert "let the first Rank do so" in error["message"]
        assert rank({"actions": []}, **{key: "owner"}).status_code == 400
        admin = {"authorization": "Bearer owner"}
        assert http.get("/bandits/own", headers=admin).status_code == 404  # nothing was changed
        assert rank(RANK, **{key: "owner"}).status_code == 201
        assert rank(RANK, **admin).status_code == 201
        assert http.get("/bandits/own", headers=admin).status_code == 200
        assert calls.send("DELETE", "/personalizer/v1.0/model", None, admin).status_code == 204
        lines = [line for line in locked.log_text().splitlines() if "administrative" in line]
        audited = map(json.loads, lines)
        called = [(line["method"], line["path"], line["outcome"]) for line in audited]
        assert ("POST", "/personalizer/v1.0/rank", "201") in called
        assert ("DELETE", "/personalizer/v1.0/model", "204") in called
        assert http.get("/bandits/default", headers=admin).status_code == 404
        too_large = rank({"actions": ACTIONS, "contextFeatures": [{"x": "y" * 3000}]}, **admin)
        assert too_large.status_code == 413
        assert error_of(too_large)["code"] == "PayloadSizeExceeded"


@pytest.mark.parametrize("wrong", ['{ ownr = "own" }', '{ owner = "own one" }'])
def test_a_bandit_for_no_key_stops_the_start(tmp_path: Path, wrong: str) -> None:
    config = tmp_path / "bandexa.toml"
    doorway = f"[personalizer]\nenabled = true\nkeys = {wrong}\n"
    config.write_text("port = 0\n" + table("owner", KEYS["owner"]) + doorway)
    ended = bandexa("serve", "--config", config, cwd=tmp_path)
    assert ended.returncode == 2
    assert "personalizer.keys" in ended.stderr


def test_slots_count_as_calls_of_a_key(tmp_path: Path) -> None:
    config = tmp_path / "bandexa.toml"
    slow = table("slow", KEYS["owner"]) + "rate = 0.001\nburst = 1\n"
    config.write_text(f"{slow}[personalizer]\nenabled = true\ncreate = true\n")
    slots = [{"id": each, "baselineAction": each} for each in ("soup", "toast", "salad")]
    with servers(tmp_path) as start, start(None, "--config", config).client() as http:
        calls, key = Personalizer(http), {"ocp-apim-subscription-key": "slow"}
        path = "/personalizer/v1.1-preview.3/multislot/rank"
        assert calls.send("POST", path, RANK | {"slots": slots}, key).status_code == 201
        refused = calls.send("POST", path, RANK | {"slots": slots}, key)
        assert refused.status_code == 429
        assert error_of(refused)["code"] == "429"
        assert 2990 <= int(refused.headers["retry-after"]) <= 3000  # of three, two are owed


def test_without_the_setting_the_error_says_how_to_switch_it_on(http, problem) -> None:
    refused = http.post("/personalizer/v1.0/rank", json=RANK)
    assert refused.status_code == 404
    error = error_of(refused)
    assert error["code"] == "ResourceNotFound"
    assert "personalizer.enabled" in error["message"]
    problem(http.get("/personalizers"), 404, "not-found")


def test_a_bandit_of_numbers_is_refused(locked: Server) -> None:
    admin = {"authorization": "Bearer owner"}
    with locked.client() as http:
        spec = {"context": {"shape": [2]}}
        assert http.put("/bandits/default", json=spec, headers=admin).status_code == 201
        calls = Personalizer(http)
        caller = {"ocp-apim-subscription-key": "caller"}
        refused = calls.send("POST", "/personalizer/v1.0/rank", RANK, caller)
        assert refused.status_code == 400
        assert "named features" in error_of(refused)["message"]
        assert http.delete("/bandits/default", headers=admin).status_code == 204
