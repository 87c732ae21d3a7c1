"""Every route that can fail fails in one shape: RFC 9457 problem+json.

    {"type": "urn:bandexa:<kind>", "title", "status", "detail", "errors"?: [{"field", "message"}]}

with the media type application/problem+json, whatever encoding was sent or accepted.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from service.http.codec import SPEC_BYTES

SELECT = {"context": [1, 2]}
REWARD = {"decision_id": "nobody", "reward": 1.0}
ACTIONS = {"ids": ["a"], "features": [[1, 2]]}

# Every route, and each way it can fail before it reaches a particular bandit's configuration.
FAILURES: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/select", SELECT | {"bandit": "nobody"}, 404, "unknown-bandit"),
    ("POST", "/select", {}, 422, "invalid-request"),
    ("POST", "/select", [], 422, "invalid-request"),
    ("POST", "/select", "text", 422, "invalid-request"),
    ("POST", "/select", None, 422, "invalid-request"),
    ("POST", "/reward", REWARD, 404, "unknown-decision"),
    ("POST", "/reward", {}, 422, "invalid-request"),
    ("POST", "/select/batch", {}, 422, "invalid-request"),
    ("POST", "/reward/batch", {}, 422, "invalid-request"),
    ("PUT", "/bandits/nobody", {}, 422, "invalid-request"),
    ("PUT", "/bandits/no%20body", {}, 422, "invalid-request"),
    ("GET", "/bandits/nobody", None, 404, "unknown-bandit"),
    ("GET", "/bandits/no%20body", None, 422, "invalid-request"),
    ("DELETE", "/bandits/nobody", None, 404, "unknown-bandit"),
    ("DELETE", "/bandits/no%20body", None, 422, "invalid-request"),
    ("PUT", "/bandits/nobody/actions", ACTIONS, 404, "unknown-bandit"),
    ("PUT", "/bandits/nobody/actions", {}, 422, "invalid-request"),
    ("DELETE", "/bandits/nobody/actions/a", None, 404, "unknown-bandit"),
    ("DELETE", "/bandits/nobody/actions/a%20b", None, 422, "invalid-request"),
    ("POST", "/bandits/nobody/score", SELECT, 404, "unknown-bandit"),
    ("POST", "/bandits/nobody/score", {}, 422, "invalid-request"),
    ("POST", "/bandits/nobody/train", None, 404, "unknown-bandit"),
    ("POST", "/bandits/nobody/train?wait=perhaps", None, 422, "invalid-request"),
    ("GET", "/bandits/nobody/snapshot", None, 404, "unknown-bandit"),
    ("PUT", "/bandits/nobody/snapshot", None, 404, "unknown-bandit"),
    ("GET", "/docs/nothing", None, 404, "not-found"),
    ("GET", "/nothing/here", None, 404, "not-found"),
    ("GET", "/select", None, 405, "method-not-allowed"),
    ("DELETE", "/bandits", None, 405, "method-not-allowed"),
    ("POST", "/healthz", None, 405, "method-not-allowed"),
    ("PUT", "/readyz", None, 405, "method-not-allowed"),
    ("POST", "/metrics", None, 405, "method-not-allowed"),
    ("PATCH", "/bandits/nobody", None, 405, "method-not-allowed"),
]
WITH_BODY = sorted({(m, p) for m, p, body, _, _ in FAILURES if body == {} and "%20" not in p})


@pytest.mark.parametrize(("method", "path", "body", "status", "kind"), FAILURES)
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_every_failure_has_the_one_shape(
    api, problem, encoding: str, method: str, path: str, body: Any, status: int, kind: str
) -> None:
    headers = {"accept": f"application/{encoding}", "content-type": f"application/{encoding}"}
    if encoding == "json":
        response = api.http.request(method, path, json=body, headers=headers)
    else:
        response = api.http.request(method, path, content=msgpack.packb(body), headers=headers)
    found = problem(response, status, kind)
    if kind == "invalid-request":
        assert found["errors"]
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "json", None])
def test_a_body_of_another_kind_is_415(
    api, problem, method: str, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = api.http.request(method, path, content=b"{}", headers=headers)
    problem(response, 415, "unsupported-body")


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b'{"a": 1,}'),
        ("application/json", b"{} {}"),
        ("application/json", b"\xff\xfe\x00"),
        ("application/json", b'{"a": "\xff"}'),
        ("application/json", b'{"a": ' + b"9" * 5000 + b"}"),
        ("application/json", b"[" * 100_000),
        ("application/json", b"[" * 100_000 + b"]" * 100_000),
        ("application/json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        ("application/msgpack", b""),
        ("application/msgpack", b"\xc1"),
        ("application/msgpack", b"\x93\x01"),
        ("application/msgpack", b"\x80\x80"),
        ("application/msgpack", b"\xdd\xff\xff\xff\xff"),
        ("application/msgpack", b"\x81\x01\x02"),
        ("application/msgpack", b"\xa2\xff\xff"),
        ("application/msgpack", b"\x91" * 100_000 + b"\x90"),
    ],
    ids=range(18),
)
def test_a_body_that_cannot_be_decoded_is_422(
    api, problem, method: str, path: str, kind: str, body: bytes
) -> None:
    response = api.http.request(method, path, content=body, headers={"content-type": kind})
    if is_too_long(path, body):
        problem(response, 413, "too-large")
    else:
        problem(response, 422, "invalid-request", "body")


def is_too_long(path: str, body: bytes) -> bool:
    """Whether a body is longer than that of a configuration may be."""
    return path == "/bandits/nobody" and len(body) > SPEC_BYTES


def test_a_content_type_may_have_parameters_and_capitals(api) -> None:
    name = api.two_actions()
    body = b'{"bandit": "%s", "context": [1, 2]}' % name.encode()
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        response = api.http.post("/select", content=body, headers={"content-type": kind})
        assert response.status_code == 200


NEAREST: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("POST", "/select", {"contxt": [1, 2]}, "contxt", "context"),
    ("POST", "/select", SELECT | {"decisionid": "d"}, "decisionid", "decision_id"),
    ("POST", "/select", SELECT | {"candidates": [{"id": "a", "feature": [1]}]},
     "candidates.0.feature", "features"),
    ("POST", "/reward", REWARD | {"rewardid": "r"}, "rewardid", "reward_id"),
    ("PUT", "/bandits/new", {"policy": "linear_ts", "context": {"shap": [2]}},
     "context.shap", "shape"),
    ("PUT", "/bandits/new", {"policy": "linear_ts", "contexts": {"shape": [2]}},
     "contexts", "context"),
    ("POST", "/select/batch", {"items": [SELECT], "itms": 1}, "itms", "items"),
    ("POST", "/reward/batch", {"itmes": [REWARD]}, "itmes", "items"),
    ("PUT", "/bandits/new/actions", {"id": ["a"], "features": [[1, 2]]}, "id", "ids"),
    ("POST", "/bandits/nobody/score", SELECT | {"candidate": ["a"]}, "candidate", "candidates"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "field", "meant"), NEAREST)
def test_an_unknown_key_is_reported_with_the_nearest_known_key(
    api, problem, method: str, path: str, body: dict[str, Any], field: str, meant: str
) -> None:
    found = problem(api.http.request(method, path, json=body), 422, "invalid-request", field)
    reported = next(error["message"] for error in found["errors"] if error["field"] == field)
    assert reported == f"unknown key; did you mean {meant!r}?"


@pytest.mark.parametrize("key", ["body", "query", "path", "", "x" * 100_000, "list[str]", "0"])
@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_any_unknown_key_is_refused(api, problem, method: str, path: str, key: str) -> None:
    body = json.dumps({key: 1}).encode()
    headers = {"content-type": "application/json"}
    response = api.http.request(method, path, content=body, headers=headers)
    if is_too_long(path, body):
        problem(response, 413, "too-large")
        return
    found = problem(response, 422, "invalid-request")
    assert "unknown key" in [error["message"] for error in found["errors"]]


@pytest.mark.parametrize("key", ["body", "", "x" * 100_000])
def test_an_item_with_an_unknown_key_fails_alone(api, key: str) -> None:
    name = api.two_actions()
    good = {"bandit": name, "context": [1, 2]}
    answer = api.call("POST", "/select/batch", {"items": [good | {key: 1}, good]})
    assert [item["code"] for item in answer["items"]] == [422, 200]
    [error] = answer["items"][0]["error"]["errors"]
    assert error["message"] == "unknown key"


def test_of_several_unknown_keys_the_first_is_looked_up(api, problem) -> None:
    response = api.http.post("/select", json=SELECT | {"bandi": "x", "retriev": 1})
    found = problem(response, 422, "invalid-request")
    assert found["errors"] == [
        {"field": "bandi", "message": "unknown key; did you mean 'bandit'?"},
        {"field": "retriev", "message": "unknown key"},
    ]


def test_unknown_keys_of_items_and_without_a_near_key_are_reported_too(api) -> None:
    items = [{"contxt": [1, 2]}, SELECT | {"zebra": 1}]
    answer = api.call("POST", "/select/batch", {"items": items})
    first, second = (item["error"]["errors"] for item in answer["items"])
    assert {"field": "contxt", "message": "unknown key; did you mean 'context'?"} in first
    assert second == [{"field": "zebra", "message": "unknown key"}]


def test_an_unknown_candidate_and_encoder_are_reported_with_their_field(api, problem) -> None:
    name = api.two_actions()
    asked = {"bandit": name, "context": [1, 2], "candidates": ["x", "nothing"]}
    found = problem(api.http.post("/select", json=asked), 404, "unknown-action", "candidates")
    assert "no action 'nothing'" in found["detail"]
    found = problem(api.http.delete(f"/bandits/{name}/actions/nothing"), 404, "unknown-action")
    assert "errors" not in found
    spec = api.state(name)["spec"]
    changed = spec | {"encoder": {"name": "intercat", "params": {}}}
    found = problem(
        api.http.put(f"/bandits/{name}", json=changed), 422, "invalid-request", "encoder.name"
    )
    assert "interact" in found["detail"]
