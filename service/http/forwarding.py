"""Passes on what a process that serves beside the keeper does not answer itself.

Selects, rewards, activations, scores and health checks are answered here. Everything else, such as
administration and the dashboard, is the keeper's: it goes there as it came, and its answer comes
back as it is. The keeper checks keys and what bodies hold; how many bytes a body
has and how long it takes to arrive is checked here as well, because a call is passed on only as
fast as its client sends it. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import httpx
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.auth import COUNTED
from service.http.budget import BytesInFlight
from service.http.errors import TooManyCalls
from service.http.keepers import CLIENT, Keeper
from service.http.limits import BodyLimit
from service.http.problems import refusal_of, send_refusal
from service.observe.correlation import current
from service.observe.counters import Metrics
from service.settings import Settings
from service.store.errors import Unavailable

# RFC 9110, 7.6.1: they are of one connection; and `expect` was answered here.
_OF_CONNECTIONS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"expect")
)  # fmt: skip
REQUEST_ID = b"x-request-id"  # the keeper logs the id that is answered here
_NOT_PASSED_ON = _OF_CONNECTIONS | {CLIENT, REQUEST_ID, COUNTED.encode()}
_NOT_PASSED_BACK = _NOT_PASSED_ON | {b"date", b"server"}  # each answer gets those of this process
IDLE_S = 5.0
log = logging.getLogger(__name__)
T = TypeVar("T")
AWAY = "the process that administers the server is starting again"


class Forwarding:
    """The app of a process that serves beside the keeper.

    Args:
        app: Answers what is answered here.
        here: The paths of hot calls.
        keeper: Where requests are passed on to.
        failure: Returns why this process is not ready, None while it is.
        metrics: Counts refusals.
        settings: The limits of bodies.
        budget: What the bodies of all requests may take together.
    """

    def __init__(
        self,
        app: ASGIApp,
        here: Collection[str],
        keeper: Keeper,
        failure: Callable[[], str | None],
        metrics: Metrics,
        settings: Settings,
        budget: BytesInFlight,
    ) -> None:
        self._app = app
        self._keeper = keeper
        self._here = frozenset((*here, "/activate", "/healthz", *keeper.own_paths))
        self._failure = failure
        self._metrics = metrics
        self._passed_on = BodyLimit(
            self._pass_on, settings=settings, metrics=metrics, budget=budget
        )
        idle_s = min(IDLE_S, settings.keep_alive_s / 2)  # shorter than the keeper retains it
        socket = None if keeper.socket is None else str(keeper.socket)
        limits = httpx.Limits(keepalive_expiry=idle_s)
        transport = httpx.AsyncHTTPTransport(uds=socket, limits=limits)
        self._client = httpx.AsyncClient(transport=transport, timeout=None, trust_env=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Forwarding]:
        """Close the connections to the keeper at the exit."""
        async with self._client:
            yield self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"].rstrip("/")
        if scope["type"] != "http" or path in self._here or _is_score(path):
            await self._app(scope, receive, send)
        elif path == "/readyz" and scope["method"] in ("GET", "HEAD"):
            health = self._keeper.health(self._failure())
            status = 200 if health.detail is None else 503
            await JSONResponse(health.model_dump(), status)(scope, receive, send)
        elif (refusal := self._keeper.refusal(scope)) is not None:
            await send_refusal(refusal_of(refusal, self._metrics), send)
        else:
            await self._passed_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the keeper answer a request, as long as its client waits for that."""
        body = _Body(receive)
        try:
            asked = self._asked(scope, body, self._keeper.headers(scope))
            response = await _while_waited_for(body, self._keeper.answered(asked))
        except _Left:
            return
        except (httpx.TransportError, OSError) as error:
            log.warning("the keeper does not answer: %s", error)
            await send_refusal(refusal_of(Unavailable(AWAY), self._metrics), send)
            return
        except (HTTPException, Unavailable, TooManyCalls) as error:  # or the body is too large
            await send_refusal(refusal_of(error, self._metrics), send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await self._keeper.followed()
        with suppress(_Left):
            await _while_waited_for(body, _pass_back(response, send))

    async def _asked(
        self, scope: Scope, body: _Body, further: list[tuple[bytes, bytes]]
    ) -> httpx.Response:
        """Return the keeper's answer, of which the head has arrived; `further`: more headers.

        Raises:
            _Left: The client left while it sent the body.
            HTTPException, Unavailable: The body is too large, or too slow.
            httpx.TransportError: The keeper does not answer.
        """
        headers = [pair for pair in scope["headers"] if pair[0] not in _NOT_PASSED_ON]
        headers += further
        if (correlation := current.get()) is not None:
            headers.append((REQUEST_ID, correlation.request_id.encode("ascii")))
        names = {name for name, _ in scope["headers"]}
        has_body = b"content-length" in names or b"transfer-encoding" in names
        if not has_body:
            body.ended.set()
        path = scope.get("raw_path") or scope["path"].encode()
        query = scope["query_string"]
        # Made without the client, which would add headers of its own: Accept-Encoding, for example.
        request = httpx.Request(
            scope["method"],
            self._keeper.url().copy_with(raw_path=path + (b"?" + query) * bool(query)),
            headers=headers,
            content=body.parts() if has_body else None,
        )
        return await self._client.send(request, stream=True)


class _Left(Exception):
    """The client left before it was answered."""


class _Body:
    """The body of a request, as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield its parts.

        Raises:
            _Left: The client left.
        """
        more = True
        while more:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Left
            more = message.get("more_body", False)
            if part := message.get("body", b""):
                yield part
        self.ended.set()

    async def left(self) -> None:
        """Return once the client has left, after the whole body."""
        await self.ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _is_score(path: str) -> bool:
    return path.startswith("/bandits/") and path.endswith("/score") and path.count("/") == 3


async def _while_waited_for(body: _Body, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; it is cancelled where the client leaves before.

    Raises:
        _Left: The client left.
    """
    working, left = asyncio.ensure_future(work), asyncio.ensure_future(body.left())
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _Left
        return working.result()
    finally:
        left.cancel()
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError, HTTPException, _Left):
                await working


async def _pass_back(response: httpx.Response, send: Send) -> None:
    headers = [
        (name.lower(), value)
        for name, value in response.headers.raw
        if name.lower() not in _NOT_PASSED_BACK
    ]
    try:
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        async for part in response.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await response.aclose()
