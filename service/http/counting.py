"""Counts every request by method, route and status, and how long it took (the RED method)."""

from __future__ import annotations

import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.hot import CALLS
from service.http.personalizer.paths import is_personalizer
from service.observe.counters import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSED = 499  # nothing was answered: the client left before; the number that proxies log for it
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = CLOSED

        def counted(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in METHODS else OTHER
            self._metrics.requested(method, route_of(scope), status, seconds)


def route_of(scope: Scope) -> str:
    """Return the route that served a request, with the names of its parameters in it."""
    path: str = scope["path"].rstrip("/")
    if path in CALLS:
        return path
    if is_personalizer(scope):
        return PERSONALIZER
    route = scope.get("route")  # the router has written it
    return OTHER if route is None else str(route.path)
