"""Limits that hold before a body is decoded: its size, how long it may take, how many at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem_of, response_of
from service.http.schemas import Problem
from service.observe.counters import Metrics
from service.store.errors import InvalidRequest, Unavailable

_SNAPSHOT_TIMES = 10  # an import may take so many times as long as another body
_ALWAYS = frozenset({"/healthz", "/readyz", "/learnz", "/metrics"})


class InFlightLimit:
    """Answers 503 at once while too many requests are under way; health and metrics pass.

    Args:
        app: The app behind it.
        max_in_flight: Requests under way at once, at most.
        metrics: Told how many there are.
    """

    def __init__(self, app: ASGIApp, *, max_in_flight: int, metrics: Metrics) -> None:
        self._app = app
        self._most = max_in_flight
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        metrics = self._metrics
        if metrics.in_flight >= self._most:
            busy = Unavailable("too many requests are under way")
            metrics.problem("unavailable")
            await response_of(problem_of(busy), busy.retry_after_s)(scope, receive, send)
            return
        metrics.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            metrics.in_flight -= 1


class BodyLimit:
    """Refuses bodies above a size with 413, announced or not, and those too slow with 408.

    Args:
        app: The app behind it.
        max_bytes: Largest body of a request.
        max_snapshot_bytes: Largest body of a snapshot import.
        timeout_s: Time a body may take from the request's start; an import ten times as long.
        metrics: Told of what is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_snapshot_bytes: int,
        timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._max_snapshot_bytes = max_snapshot_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, timeout_s = self._max_bytes, self._timeout_s
        if scope["method"] == "PUT" and scope["path"].endswith("/snapshot"):
            limit, timeout_s = self._max_snapshot_bytes, _SNAPSHOT_TIMES * timeout_s
        detail = f"the body is larger than {limit} bytes"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            problem = Problem(
                type="urn:bandexa:too-large", title="Too large", status=413, detail=detail
            )
            self._metrics.problem(problem.type)
            await response_of(problem)(scope, receive, send)
            return
        seen, complete = 0, False
        due = asyncio.get_running_loop().time() + timeout_s

        async def limited() -> Message:
            nonlocal seen, complete
            if complete:  # what comes now is the client's leaving
                return await receive()
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError as error:
                raise too_slow(timeout_s) from error
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > limit:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, limited, send)


def too_slow(timeout_s: float) -> HTTPException:
    """Return the error of a body that took too long."""
    detail = f"the body took longer than {timeout_s:g} s"
    return HTTPException(408, detail, {"Connection": "close"})


# Without an ending quote a text reaches to the end, so that no body is searched twice.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKET = bytes(code for code in range(256) if code not in b"[]{}")
_OPENS, _CLOSES = b"[{", b"]}"
_STEP = np.zeros(256, np.int8)
_STEP[list(_OPENS)], _STEP[list(_CLOSES)] = 1, -1
_HOLDERS = frozenset({list, dict})


class Bounds:
    """Judges one body.

    Args:
        max_elements: Numbers, texts, lists and maps, together.
        max_nesting: Lists and maps around each other.
    """

    def __init__(self, max_elements: int, max_nesting: int) -> None:
        self._max_elements = max_elements
        self._max_nesting = max_nesting
        self._elements = 0
        self._containers = 0

    def judge_json(self, raw: bytes) -> None:
        """Judge a JSON text, well formed or not.

        Raises:
            HTTPException: 413: it has too many elements.
            InvalidRequest: It is nested too deeply.
        """
        if len(raw) > self._max_elements:  # an element takes a byte or more
            self._add(sum(raw.count(mark) for mark in (b",", b"[", b"{")))
        if raw.count(b"[") + raw.count(b"{") > self._max_nesting:
            brackets = _TEXT.sub(b"", raw).translate(None, _NO_BRACKET)
            steps = _STEP[np.frombuffer(brackets, np.uint8)]
            if steps.size and int(np.cumsum(steps, dtype=np.int64).max()) > self._max_nesting:
                raise self._too_deep()

    def count(self, value: Any) -> Any:
        """Count a list or map that the msgpack decoder made; returns it."""
        self._containers += 1
        self._add(len(value))
        return value

    def judge_decoded(self, value: Any) -> None:
        """Judge how deep a value is whose lists and maps were counted.

        Raises:
            InvalidRequest: It is nested too deeply.
        """
        if self._containers <= self._max_nesting:
            return
        level, left = [value], self._containers - 1
        for _ in range(self._max_nesting - 1):
            level = [part for found in level for part in _parts(found) if type(part) in _HOLDERS]
            left -= len(level)
            if not left:  # all were seen: what is left to look through are numbers and texts
                return
        raise self._too_deep()

    def _add(self, number: int) -> None:
        self._elements += number
        if self._elements > self._max_elements:
            raise HTTPException(413, f"the body has more than {self._max_elements} elements")

    def _too_deep(self) -> InvalidRequest:
        return InvalidRequest("body", f"is nested more than {self._max_nesting} deep")


def _parts(value: list[Any] | dict[Any, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
