"""Limits on requests: how many are in flight; a body's bytes, time, elements and nesting.

`InFlightLimit` stands in front of everything. `BodyReader` receives a body within its size and
time; the hot calls use it directly and `BodyLimit` gives it to all other routes. `BodyBounds`
checks what a body holds before it becomes Python objects. All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Generator
from types import CoroutineType, coroutine
from typing import Any, TypeVar

import msgpack
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.budget import FREE_BYTES, BytesInFlight
from service.http.errors import UnsupportedBody
from service.http.problems import refusal_of, send_refusal
from service.observe.counters import Metrics
from service.settings import Settings
from service.store.errors import InvalidRequest, Unavailable

_SNAPSHOT_TIMES = 10  # an import may take this many times as long as another body
_IMPORT = re.compile(r"/bandits/[^/]+/snapshot/?")
T = TypeVar("T")
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
        budget: What all bodies may take together.
        announced: The value of Content-Length; reserved at once. Without it, or for more than it
            says, the body reserves as it grows.

    Raises:
        HTTPException: 413: more than `max_bytes` are announced.
        Unavailable: The budget has no room for what is announced.
    """

    __slots__ = ("_budget", "_complete", "_due", "_expired", "_held", "_loop", "_max_bytes",
                 "_num_bytes", "_receive", "_timeout_s")  # fmt: skip

    def __init__(
        self,
        receive: Receive,
        max_bytes: int,
        timeout_s: float,
        loop: asyncio.AbstractEventLoop,
        budget: BytesInFlight,
        announced: bytes,
    ) -> None:
        self._held = FREE_BYTES
        self._budget = budget
        length = int(announced) if announced.isdigit() else 0
        if length > FREE_BYTES:
            if length > max_bytes:
                raise too_large(max_bytes)
            self._reserve(length)
        elif length > max_bytes:
            raise too_large(max_bytes)
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
        receiving = self._receive()
        if self._complete:  # the next message is the client's disconnect
            return await receiving
        if isinstance(receiving, CoroutineType):
            try:
                awaited = receiving.send(None)
            except StopIteration as received:  # a small body is mostly there already: no timer
                message: Message = received.value
            else:
                message = await self._in_time(_go_on(receiving, awaited))
        else:
            message = await self._in_time(receiving)
        self._num_bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        if self._num_bytes > self._held:
            self._reserve(self._num_bytes)
        return message

    async def _in_time(self, receiving: Awaitable[Message]) -> Message:
        """Return the message that is waited for.

        Raises:
            HTTPException: 408: it takes too long.
        """
        # A plain timer costs a third of asyncio's timeout context.
        timer = self._loop.call_at(self._due, self._expire, asyncio.current_task(self._loop))
        try:
            return await receiving
        except asyncio.CancelledError:
            if self._expired:
                raise self._too_slow() from None
            raise
        finally:
            timer.cancel()

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

    def release(self) -> None:
        """Give the body's bytes back to the budget; call it when nothing of it is needed."""
        if self._held > FREE_BYTES:
            self._budget.release(self._held)
            self._held = FREE_BYTES

    def _reserve(self, num_bytes: int) -> None:
        """Hold that many bytes: all of them, once there are more than small bodies have."""
        held = self._held if self._held > FREE_BYTES else 0
        self._budget.reserve(num_bytes - held)
        self._held = num_bytes

    def _expire(self, task: asyncio.Task[Any] | None) -> None:
        self._expired = True
        if task is not None:
            task.cancel()

    def _too_slow(self) -> HTTPException:
        detail = f"the body took longer than {self._timeout_s:g} s"
        return HTTPException(408, detail, {"Connection": "close"})


@coroutine
def _go_on(begun: CoroutineType[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Await a coroutine that has begun and awaits something, and return its result."""
    try:
        yield awaited
    except BaseException:  # most often it is cancelled
        begun.close()
        raise
    result: T = yield from begun  # type: ignore[misc]
    return result


def too_large(max_bytes: int) -> HTTPException:
    """Return the error of a body above a size."""
    return HTTPException(413, f"the body is larger than {max_bytes} bytes")


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
        budget: What all bodies may take together; imports have a budget of their own.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, metrics: Metrics, budget: BytesInFlight
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._budget = budget
        self._imports = BytesInFlight(settings.max_snapshot_bytes, "max_snapshot_bytes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, timeout_s = self._settings.max_body_bytes, self._settings.body_timeout_s
        budget = self._budget
        if scope["method"] == "PUT" and _IMPORT.fullmatch(scope["path"]):
            limit, timeout_s = self._settings.max_snapshot_bytes, _SNAPSHOT_TIMES * timeout_s
            budget = self._imports
        headers = dict(scope["headers"])
        try:
            refuse_compressed(headers.get(b"content-encoding", b""))
            announced = headers.get(b"content-length", b"")
            loop = asyncio.get_running_loop()
            reader = BodyReader(receive, limit, timeout_s, loop, budget, announced)
        except (HTTPException, UnsupportedBody, Unavailable) as error:
            await send_refusal(refusal_of(error, self._metrics), send)
            return
        try:
            await self._app(scope, reader, send)
        finally:
            reader.release()


_QUOTE = 0x22
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
# Bytes with which a list or map of msgpack can begin; the others cannot nest anything.
_NO_CONTAINER = bytes(c for c in range(256) if not (0x80 <= c <= 0x9F or 0xDC <= c <= 0xDF))


def _json_nesting(raw: bytes) -> int:
    """Return how deep the brackets of a JSON text are nested; those inside texts do not count."""
    if b"\\" in raw:  # pairs first: what is left of them escapes what follows
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    codes = np.frombuffer(raw, np.uint8)
    quotes = np.equal(codes, _QUOTE).view(np.uint8)
    in_text = np.add.accumulate(quotes, dtype=np.uint8) & 1  # wraps at an even number
    steps = _STEP[codes]
    steps *= 1 - in_text.view(np.int8)
    steps = steps[steps != 0]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


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
            depth = _json_nesting(raw)
            if depth > self._max_nesting:
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
                object_pairs_hook=depths.map_hook, ext_hook=_no_value,
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


_FLAT = _Depth(1)  # one for all lists and maps without others inside


def _no_value(code: int, data: bytes) -> None:
    """Stand for a value of an extension type: only elements are counted."""


class _Depths:
    """Replaces lists and maps by their depths while msgpack is decoded, and counts elements."""

    def __init__(self) -> None:
        self.num_elements = 0

    def list_hook(self, items: list[Any]) -> _Depth:
        """Return what stands for a list."""
        self.num_elements += len(items)
        inner = [item.depth for item in items if type(item) is _Depth]
        return _Depth(1 + max(inner)) if inner else _FLAT

    def map_hook(self, pairs: list[tuple[Any, Any]]) -> _Depth:
        """Return what stands for a map."""
        return self.list_hook([value for _, value in pairs])
