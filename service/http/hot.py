"""The short way of selects and rewards, past FastAPI: its middleware, routing and dependencies.

In front of the app, on the event loop. It holds the same limits, decodes, validates, calls and
serialises with the routes' own functions and models, so a request gets the same bytes either way.
Whatever is out of the ordinary (an answer in msgpack, a body without a length, too large or
refused, a server that is busy) goes the routes' way, which tell what is wrong.
"""

from __future__ import annotations

import asyncio
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
from service.http.auth import authorize
from service.http.codec import MSGPACK, bounds_of, decode
from service.http.errors import Forbidden, Unauthorized
from service.http.keys import Keys
from service.http.limits import Bounds, too_slow
from service.http.problems import damaged, foreseen, refused, unforeseen
from service.http.routes.decide import (
    answer_reward,
    answer_reward_batch,
    answer_select,
    answer_select_batch,
)
from service.http.schemas import RewardBatch, RewardRequest, SelectBatch, SelectRequest
from service.serving.engine import Engine
from service.settings import Scope as KeyScope
from service.settings import Settings
from service.store.errors import ServiceError


@dataclass(frozen=True, slots=True)
class _Call:
    scope: KeyScope
    request: type[BaseModel]
    answer: Callable[[Engine, Any, float], Awaitable[BaseModel]]


_CALLS = {
    "/select": _Call("select", SelectRequest, answer_select),
    "/reward": _Call("reward", RewardRequest, answer_reward),
    "/select/batch": _Call("select", SelectBatch, answer_select_batch),
    "/reward/batch": _Call("reward", RewardBatch, answer_reward_batch),
}
_MSGPACK = MSGPACK.encode()
_REFUSED = (ServiceError, SnapshotError, HTTPException)


class FastLane:
    """Answers plain selects and rewards; everything else goes to `app`.

    Args:
        app: The app behind it.
        engine: Decides and learns.
        settings: Limits.
        known: API keys; empty: everybody may call.
    """

    def __init__(self, app: ASGIApp, engine: Engine, settings: Settings, known: Keys) -> None:
        self._app = app
        self._engine = engine
        self._metrics = engine.metrics
        self._settings = settings
        self._keys = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        call = _CALLS.get(scope.get("path", ""))
        if call is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        kind, length, plain = b"", b"", True
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name == b"content-type":
                plain = plain and not kind
                kind = value
            elif name == b"accept" and _MSGPACK in value:
                plain = False
        plain = plain and length.isdigit() and 0 < int(length) <= self._settings.max_body_bytes
        metrics = self._metrics
        if not plain or metrics.in_flight >= self._settings.max_in_flight:
            await self._app(scope, receive, send)
            return
        metrics.in_flight += 1
        try:
            whole = await self._answered(call, kind, scope, receive, send)
        finally:
            metrics.in_flight -= 1
        if whole is not None:
            await self._app(scope, _again(whole, receive), send)

    async def _answered(
        self, call: _Call, kind: bytes, scope: Scope, receive: Receive, send: Send
    ) -> Message | None:
        """Answer a request; where the routes should tell what is wrong, return its body."""
        metrics, engine = self._metrics, self._engine
        try:
            if self._keys:
                authorize(Request(scope), self._keys, call.scope)
            whole = await self._body(receive)
            arrived = time.perf_counter()
            body = _decoded(whole, kind, call, bounds_of(self._settings))
            if body is None:
                return whole
            answer = await call.answer(engine, body, arrived)
        except (Unauthorized, Forbidden, *_REFUSED) as error:
            told = refused if isinstance(error, HTTPException) else foreseen
            await told(error, metrics)(scope, receive, send)  # type: ignore[arg-type]
            return None
        except sqlite3.Error as error:
            await damaged(scope["path"], error, metrics)(scope, receive, send)
            return None
        except Exception as error:  # the top of a request
            await unforeseen("POST", scope["path"], error, metrics)(scope, receive, send)
            return None
        content = answer.__pydantic_serializer__.to_json(answer)
        headers = [
            (b"content-length", b"%d" % len(content)),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return None

    async def _body(self, receive: Receive) -> Message:
        """Return the whole body in one message, or what came instead: the client's leaving.

        Raises:
            HTTPException: It took too long. A timer of our own costs a third of asyncio's.
        """
        loop = self._engine.loop
        timer = _Timer(asyncio.current_task(loop))
        handle = loop.call_later(self._settings.body_timeout_s, timer)
        try:
            message = await receive()
            if message.get("more_body", False):  # no longer than announced: the server sees to it
                parts = [message.get("body", b"")]
                while message.get("more_body", False):
                    message = await receive()
                    parts.append(message.get("body", b""))
                if message["type"] == "http.request":
                    message = {**message, "body": b"".join(parts)}
        except asyncio.CancelledError:
            if timer.expired:
                raise too_slow(self._settings.body_timeout_s) from None
            raise
        finally:
            handle.cancel()
        return message


class _Timer:
    """Cancels a task; by `expired` the task knows why."""

    __slots__ = ("_task", "expired")

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self._task = task
        self.expired = False

    def __call__(self) -> None:
        self.expired = True
        if self._task is not None:
            self._task.cancel()


def _decoded(message: Message, kind: bytes, call: _Call, bounds: Bounds) -> BaseModel | None:
    """Return the decoded request; None where the routes should tell what is wrong."""
    if message["type"] != "http.request":
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
