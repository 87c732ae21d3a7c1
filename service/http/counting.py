"""Counts every request by method, route and status, and how long it took (the RED method).

It also notes what the request is known by, for log lines, and makes its span where spans are sent.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.hot import CALLS
from service.http.personalizer.paths import is_personalizer
from service.observe import spans
from service.observe.correlation import Correlation, current
from service.observe.counters import Metrics
from service.observe.spans import Spans

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSED = 499  # nothing was answered: the client left before; the number that proxies log for it
REQUEST_ID = b"x-request-id"
PERSONALIZER = "/personalizer"  # its paths have ids of events in them
OTHER = "other"  # paths without a route, and unknown methods: guesses must not make labels


class RequestCount:
    """Counts the requests of the app behind it; health checks and metrics are among them.

    Args:
        app: The app behind it.
        metrics: Gets the counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; a plain function, since another coroutine would cost more than it."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        asked = Correlation.of(scope["headers"])
        current.set(asked)  # in the task of this request
        if spans.active is None:
            return self._counted(asked, scope, receive, send)
        return self._traced(spans.active, asked, scope, receive, send)

    async def _traced(
        self, made: Spans, asked: Correlation, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request within a span."""
        with made.request(scope["headers"]) as span:
            asked.trace_id = made.trace_id(span)
            await self._counted(asked, scope, receive, send)
            made.served(span, method_of(scope), route_of(scope), asked.status)

    async def _counted(
        self, asked: Correlation, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request, and count it."""
        started = time.perf_counter()
        asked.status = CLOSED

        def counted(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                status = asked.status = message["status"]
                if asked.given is not None or status >= 400:
                    named = (REQUEST_ID, asked.request_id.encode("ascii"))
                    message = {**message, "headers": [*message.get("headers", ()), named]}
            return send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.requested(method_of(scope), route_of(scope), asked.status, seconds)


def method_of(scope: Scope) -> str:
    """Return the method of a request as it is counted."""
    return scope["method"] if scope["method"] in METHODS else OTHER


def route_of(scope: Scope) -> str:
    """Return the route that served a request, with the names of its parameters in it."""
    path: str = scope["path"].rstrip("/")
    if path in CALLS:
        return path
    if is_personalizer(scope):
        return PERSONALIZER
    route = scope.get("route")  # the router has written it
    return OTHER if route is None else str(route.path)
