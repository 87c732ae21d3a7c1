"""Limits on requests: how many are in flight; a body's bytes, time, elements and nesting.

`InFlightLimit` stands in front of everything. `BodyReader` receives a body within its size and
time; the hot calls use it directly and `BodyLimit` gives it to all other routes. `BodyBounds`
checks what a body holds before it becomes Python objects. All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgpack
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.errors import UnsupportedBody
from service.http.problems import refusal_of, send_refusal
from service.observe.counters import Metrics
from service.settings import Settings
from service.store.errors import InvalidRequest, Unavailable

_SNAPSHOT_TIMES = 10  # an import may take this many times as long as another body
_IMPORT = re.compile(r"/bandits/[^/]+/snapshot/?")
ALWAYS_SERVED = frozenset({"/healthz", "/readyz", "/learnz", "/metrics"})


class InFlightLimit:
    """Answers 503 at once when too many requests are in flight; health and metrics pass.

    Args:
        app: The app behind it.
        max_in_flight: The most requests in flight.
        metrics: Counts them.
    """

    def __init__(self, app: ASGIApp, *, max_in_flight: int, metrics: Metrics) -> None:
        self._app = app
        self._most = max_in_flight
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_SERVED:
            await self._app(scope, receive, send)
            return
        metrics = self._metrics
        if metrics.in_flight >= self._most:
            busy = Unavailable("too many requests are under way")
            await send_refusal(refusal_of(busy, metrics), send)
            return
        metrics.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            metrics.in_flight -= 1


class BodyReader:
    """Receives the body of one request: the ASGI `receive` of a request, with two limits.

    Args:
        receive: The server's `receive`.
        max_bytes: Largest body.
        timeout_s: Time the whole body may take from now on.
        loop: The running event loop; asking asyncio for it costs a system call.
    """

    __slots__ = ("_complete", "_due", "_expired", "_loop", "_max_bytes", "_num_bytes", "_receive",
                 "_timeout_s")  # fmt: skip

    def __init__(
        self,
        receive: Receive,
        max_bytes: int,
        timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._loop = loop
        self._due = loop.time() + timeout_s
        self._num_bytes = 0
        self._complete = False
        self._expired = False

    async def __call__(self) -> Message:
        """Return the next message.

        Raises:
            HTTPException: 413: the body is too large; 408: it takes too long.
        """
        if self._complete:  # the next message is the client's disconnect
            return await self._receive()
        # A plain timer costs a third of asyncio's timeout context.
        timer = self._loop.call_at(self._due, self._expire, asyncio.current_task(self._loop))
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._expired:
                raise self._too_slow() from None
            raise
        finally:
            timer.cancel()
        self._num_bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        return message

    async def whole(self) -> bytes:
        """Return the whole body.

        Raises:
            HTTPException: See `__call__`.
            ClientDisconnect: The client left before it was complete.
        """
        parts: list[bytes] = []
        while True:
            message = await self()
            if message["type"] != "http.request":
                raise ClientDisconnect
            body: bytes = message.get("body", b"")
            if self._complete and not parts:
                return body
            parts.append(body)
            if self._complete:
                return b"".join(parts)

    def _expire(self, task: asyncio.Task[Any] | None) -> None:
        self._expired = True
        if task is not None:
            task.cancel()

    def _too_slow(self) -> HTTPException:
        detail = f"the body took longer than {self._timeout_s:g} s"
        return HTTPException(408, detail, {"Connection": "close"})


def too_large(max_bytes: int) -> HTTPException:
    """Return the error of a body above a size."""
    return HTTPException(413, f"the body is larger than {max_bytes} bytes")


def refuse_announced(length: bytes, max_bytes: int) -> None:
    """Refuse a body by the value of its Content-Length header.

    Raises:
        HTTPException: 413: it announces more than `max_bytes`.
    """
    if length.isdigit() and int(length) > max_bytes:
        raise too_large(max_bytes)


def refuse_compressed(encoding: bytes) -> None:
    """Refuse a body by the value of its Content-Encoding header.

    Raises:
        UnsupportedBody: It says that the body is compressed.
    """
    if encoding.strip().lower() not in (b"", b"identity"):
        name = encoding.decode("latin-1")
        raise UnsupportedBody(f"send the body as it is, without Content-Encoding {name!r}")


class BodyLimit:
    """Limits the bodies of FastAPI's routes; snapshot imports have a limit of their own.

    Args:
        app: The app behind it.
        settings: `max_body_bytes`, `max_snapshot_bytes`, `body_timeout_s`.
        metrics: Counts refusals.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, timeout_s = self._settings.max_body_bytes, self._settings.body_timeout_s
        if scope["method"] == "PUT" and _IMPORT.fullmatch(scope["path"]):
            limit, timeout_s = self._settings.max_snapshot_bytes, _SNAPSHOT_TIMES * timeout_s
        headers = dict(scope["headers"])
        try:
            refuse_announced(headers.get(b"content-length", b""), limit)
            refuse_compressed(headers.get(b"content-encoding", b""))
        except (HTTPException, UnsupportedBody) as error:
            await send_refusal(refusal_of(error, self._metrics), send)
            return
        loop = asyncio.get_running_loop()
        await self._app(scope, BodyReader(receive, limit, timeout_s, loop), send)


# Without an ending quote a text reaches to the end, so that no body is searched twice.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKET = bytes(code for code in range(256) if code not in b"[]{}")
_OPENS, _CLOSES = b"[{", b"]}"
_STEP = np.zeros(256, np.int8)
_STEP[list(_OPENS)], _STEP[list(_CLOSES)] = 1, -1
# Bytes with which a list or map of msgpack can begin; the others cannot nest anything.
_NO_CONTAINER = bytes(c for c in range(256) if not (0x80 <= c <= 0x9F or 0xDC <= c <= 0xDF))


class BodyBounds:
    """Bounds on what one body holds.

    Args:
        max_elements: The most numbers, texts, lists and maps, together.
        max_nesting: The most lists and maps around each other.
    """

    def __init__(self, max_elements: int, max_nesting: int) -> None:
        self._max_elements = max_elements
        self._max_nesting = max_nesting

    def check_json(self, raw: bytes) -> None:
        """Check a JSON text, well formed or not, by its brackets.

        Raises:
            HTTPException: 413: it has too many elements.
            InvalidRequest: It is nested too deeply.
        """
        if len(raw) > self._max_elements:  # an element takes a byte or more
            self._refuse_many(sum(raw.count(mark) for mark in (b",", b"[", b"{")))
        if raw.count(b"[") + raw.count(b"{") > self._max_nesting:
            brackets = _TEXT.sub(b"", raw).translate(None, _NO_BRACKET)
            steps = _STEP[np.frombuffer(brackets, np.uint8)]
            if steps.size and int(np.cumsum(steps, dtype=np.int64).max()) > self._max_nesting:
                raise self._too_deep()

    def check_msgpack(self, raw: bytes) -> None:
        """Check msgpack; it is decoded for that only where it may exceed a bound.

        Raises:
            HTTPException: 413: it has too many elements.
            InvalidRequest: It is nested too deeply, or no msgpack.
        """
        may_nest = len(raw.translate(None, _NO_CONTAINER)) > self._max_nesting
        if not may_nest and len(raw) <= self._max_elements:
            return
        depths = _Depths()
        try:
            unpacker = msgpack.Unpacker(
                max_buffer_size=len(raw), strict_map_key=False, list_hook=depths.list_hook,
                object_pairs_hook=depths.map_hook,
            )  # fmt: skip
            unpacker.feed(raw)
            value = unpacker.unpack()
        except (msgpack.StackError, RecursionError) as error:
            raise self._too_deep() from error
        except (ValueError, msgpack.UnpackException) as error:
            raise InvalidRequest("body", f"is not application/msgpack: {error}") from error
        self._refuse_many(depths.num_elements)
        if isinstance(value, _Depth) and value.depth > self._max_nesting:
            raise self._too_deep()

    def _refuse_many(self, number: int) -> None:
        if number > self._max_elements:
            raise HTTPException(413, f"the body has more than {self._max_elements} elements")

    def _too_deep(self) -> InvalidRequest:
        return InvalidRequest("body", f"is nested more than {self._max_nesting} deep")


class _Depth:
    """The depth of a decoded list or map, in its place."""

    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth


class _Depths:
    """Replaces lists and maps by their depths while msgpack is decoded, and counts elements."""

    def __init__(self) -> None:
        self.num_elements = 0

    def list_hook(self, items: list[Any]) -> _Depth:
        """Return what stands for a list."""
        self.num_elements += len(items)
        return _Depth(1 + max((i.depth for i in items if type(i) is _Depth), default=0))

    def map_hook(self, pairs: list[tuple[Any, Any]]) -> _Depth:
        """Return what stands for a map."""
        return self.list_hook([value for _, value in pairs])
