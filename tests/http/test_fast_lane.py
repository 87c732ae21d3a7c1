"""Single selects and rewards take a short way through the server; the routes' way answers the same.

A body that does not announce its length goes the routes' way, any other the short way, also one in
pieces: each request is sent in all ways to one app, and status, headers and bytes are compared.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from service.http.app import create_app
from service.settings import load_settings

JSON = b"application/json"
SPEC = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 1, "seed": 1}
ACTIONS = {"ids": ["a", "b"], "features": [[0.0], [1.0]]}
GOOD = {"bandit": "b", "context": [1, 2.5], "decision_id": "d"}
DEEP = b'{"bandit": "b", "context": ' + b"[" * 5000 + b"]" * 5000 + b"}"


def body(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


REQUESTS: list[tuple[str, bytes, bytes]] = [
    ("/select", body(), JSON),
    ("/select", body(), b"Application/JSON; charset=utf-8"),
    ("/select", body(decision_id="two", k=2), JSON),
    ("/select", body(context=[3, 4]), JSON),  # the id belongs to another body
    ("/select", body(candidates=["b"], decision_id="c"), JSON),
    ("/select", body(candidates=["b", "b"]), JSON),
    ("/select", body(candidates=["unknown"]), JSON),
    ("/select", body(bandit="none"), JSON),
    ("/select", body(context=[1]), JSON),
    ("/select", body(context=[float("nan"), 1]), JSON),
    ("/select", body(k="1"), JSON),
    ("/select", body(more=1), JSON),
    ("/select", b'{"bandit": "b", "context": ' + b"1" * 5000 + b"}", JSON),
    ("/select", b'{"bandit": "\\ud800"}', JSON),
    ("/select", '\ufeff{"bandit": "b"}'.encode(), JSON),
    ("/select", body().decode().encode("utf-16"), JSON),
    ("/select", b"{", JSON),
    ("/select", b"[]", JSON),
    ("/select", b"", JSON),
    ("/select", DEEP, JSON),
    ("/select", body(), b"text/plain"),
    ("/select", body(), b""),
    ("/reward", b'{"decision_id": "d", "reward": 1}', JSON),
    ("/reward", b'{"decision_id": "d", "reward": true}', JSON),
    ("/reward", b'{"decision_id": "nobody", "reward": 1}', JSON),
    ("/reward", b'{"decision_id": "d", "reward": 1e400}', JSON),
    ("/select/batch", b'{"items": [' + body() + b", 1, " + body(bandit="none") + b"]}", JSON),
    ("/select/batch", b'{"items": []}', JSON),
    ("/reward/batch", b'{"items": [{"decision_id": "d", "reward": 1}, {"reward": 2}]}', JSON),
]


class Caller:
    """Calls an app without a server."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def call(
        self,
        method: str,
        path: str,
        content: bytes,
        *headers: tuple[bytes, bytes],
        pieces: int = 1,
        short: bool = False,
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if short:
            headers = (*headers, (b"content-length", str(len(content)).encode()))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": list(headers), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "scheme": "http",
        }  # fmt: skip
        parts = [content] if pieces == 1 else [content[:1], content[1:]]
        waiting = [
            {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return waiting.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], sorted(sent[0]["headers"]), answer


def asked(folder: Path, *, accept: bytes = b"*/*") -> list[Any]:
    """Send all requests both ways; returns pairs of answers."""

    async def session() -> list[Any]:
        app = create_app(load_settings(None, data_dir=folder, durability="os"))
        caller = Caller(app)
        async with app.router.lifespan_context(app):
            for path, value in (("/bandits/b", SPEC), ("/bandits/b/actions", ACTIONS)):
                made = json.dumps(value).encode()
                await caller.call("PUT", path, made, (b"content-type", JSON))
            found = []
            for path, content, kind in REQUESTS:
                headers = (b"content-type", kind), (b"accept", accept)
                await caller.call("POST", path, content, *headers)  # what repeats is compared
                ways = ((1, True), (2, True), (1, False), (2, False))
                found.append(
                    [
                        await caller.call("POST", path, content, *headers, pieces=n, short=short)
                        for n, short in ways
                    ]
                )
            return found

    return asyncio.run(session())


@pytest.mark.parametrize("accept", [b"*/*", b"application/msgpack"])
def test_both_ways_answer_with_the_same_bytes(tmp_path: Path, accept: bytes) -> None:
    answers = asked(tmp_path, accept=accept)
    for request, ways in zip(REQUESTS, answers, strict=True):
        assert all(way == ways[0] for way in ways), request[:2]
    statuses = {ways[0][0] for ways in answers}
    assert {200, 404, 409, 415, 422} <= statuses
    assert not any(status >= 500 for status in statuses)
