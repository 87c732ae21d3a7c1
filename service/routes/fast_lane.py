"""The short way of single selects and rewards, past FastAPI's routing and dependency injection.

An ASGI middleware behind the limits, on the event loop. It decodes, validates, calls and serialises
with the routes' own functions and models, so a request gets the same bytes either way; FastAPI's
own share, which it saves, is 50 us of each. Whatever is out of the ordinary (a body in pieces or
one that is refused, an answer in msgpack) goes the routes' way from the start.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandexa_core.errors import SnapshotError
from service import keys
from service.auth import authorize
from service.bounds import Bounds
from service.engine import Engine
from service.errors import damaged, foreseen, refused
from service.exceptions import Forbidden, ServiceError, Unauthorized
from service.routes.decide import answer_reward, answer_select
from service.schemas import RewardRequest, SelectRequest
from service.wire import MSGPACK, bounds_of, decode


@dataclass(frozen=True, slots=True)
class _Call:
    scope: keys.Scope
    request: type[BaseModel]
    answer: Callable[[Engine, Any, float], Awaitable[BaseModel]]


async def _reward(engine: Engine, body: RewardRequest, _: float) -> BaseModel:
    return await answer_reward(engine, body)


_CALLS = {
    "/select": _Call("select", SelectRequest, answer_select),
    "/reward": _Call("reward", RewardRequest, _reward),
}
_MSGPACK = MSGPACK.encode()
_REFUSED = (ServiceError, SnapshotError)


class FastLane:
    """Answers plain single selects and rewards; everything else goes to `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        call = _CALLS.get(scope["path"]) if scope["type"] == "http" else None
        if call is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        kind, plain = b"", True
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value
            elif name == b"accept" and _MSGPACK in value:
                plain = False
        state = scope["app"].state
        metrics = state.engine.metrics
        try:
            if plain and state.keys:
                authorize(Request(scope), state.keys, call.scope)
        except (Unauthorized, Forbidden) as error:
            await foreseen(error, metrics)(scope, receive, send)
            return
        try:
            first = await receive() if plain else None
        except HTTPException as error:  # too large, or too slow
            await refused(error, metrics)(scope, receive, send)
            return
        arrived = time.perf_counter()
        body = None if first is None else _body(first, kind, call, bounds_of(state.settings))
        if body is None:
            await self._app(scope, receive if first is None else _again(first, receive), send)
            return
        try:
            answer = await call.answer(state.engine, body, arrived)
        except _REFUSED as error:
            await foreseen(error, metrics)(scope, receive, send)
            return
        except sqlite3.Error as error:
            await damaged(scope["path"], error, metrics)(scope, receive, send)
            return
        content = answer.__pydantic_serializer__.to_json(answer)
        headers = [
            (b"content-length", str(len(content)).encode()),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _body(message: Message, kind: bytes, call: _Call, bounds: Bounds) -> BaseModel | None:
    """Return the decoded request; None where the routes should tell what is wrong."""
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    media_type = kind.partition(b";")[0].strip().lower().decode("latin-1")
    try:
        value = decode(media_type, message.get("body", b""), bounds)
        return call.request.model_validate(value)
    except (ServiceError, ValidationError, HTTPException):
        return None


def _again(first: Message, receive: Receive) -> Receive:
    """Return a `receive` that begins with a message that was taken already."""
    waiting = [first]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
