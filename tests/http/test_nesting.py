"""How deep a body may be nested is the same in JSON and msgpack, whatever its texts hold."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgpack
import pytest

MOST = 32  # the default of `max_nesting`


def nested(depth: int, kind: str, text: str = "") -> bytes:
    """Return a select whose context makes it so deep."""
    context: Any = [text]
    for _ in range(depth - 2):
        context = [context]
    body = {"bandit": "b", "context": context}
    return json.dumps(body).encode() if kind == "json" else bytes(msgpack.packb(body))


def sent(http: httpx.Client, content: bytes, kind: str) -> httpx.Response:
    headers = {"content-type": f"application/{kind}"}
    return http.post("/select", content=content, headers=headers)


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_a_body_deeper_than_the_bound_is_refused_by_name(api, problem, kind) -> None:
    name = api.two_actions()
    before = api.state(name)
    opening, inner = (b"[", b"]") if kind == "json" else (b"\x91", b"\x90")  # lists of one
    whole = [nested(MOST + 1, kind), nested(500, kind)]
    for content in (*whole, *(opening * depth + inner for depth in (500, 5000, 50_000))):
        answer = sent(api.http, content, kind)
        found = problem(answer, 422, "invalid-request", "body")
        assert "nested" in found["detail"]
    problem(sent(api.http, nested(MOST, kind), kind), 404, "unknown-bandit")
    assert api.state(name) == before


@pytest.mark.parametrize("text", ["[" * 100, "]" * 100, '"[', '\\"[{' * 20, "\\" * 7])
def test_brackets_in_texts_are_no_nesting(api, problem, text) -> None:
    """A text of closing brackets hides no nesting either."""
    problem(sent(api.http, nested(MOST, "json", text), "json"), 404, "unknown-bandit")
    found = problem(sent(api.http, nested(MOST + 1, "json", text), "json"), 422, "invalid-request")
    assert "nested more than 32 deep" in found["detail"]


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_many_lists_beside_each_other_are_not_deep(api, kind) -> None:
    name = api.two_actions()
    item = {"bandit": name, "context": [1.0, 2.0], "candidates": ["x", "y"]}
    body = {"items": [item] * 100}
    content = json.dumps(body).encode() if kind == "json" else msgpack.packb(body)
    headers = {"content-type": f"application/{kind}"}
    answer = api.http.post("/select/batch", content=content, headers=headers)
    assert [row["code"] for row in answer.json()["items"]] == [200] * 100


def test_json_is_utf8(api, problem) -> None:
    content = json.dumps({"bandit": "b", "context": [1]}).encode("utf-16")
    problem(sent(api.http, content, "json"), 422, "invalid-request", "body")
