"""Passes on what a process that serves beside the keeper does not answer itself.

Selects, rewards, activations, scores and health checks are answered here. Everything else, such as
administration and the dashboard, is the keeper's: it goes there over a Unix socket as it came, and
its answer comes back as it is. The keeper checks keys, limits and bodies. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import refusal_of, send_refusal
from service.http.schemas.health import Health
from service.observe.correlation import current
from service.observe.counters import Metrics
from service.store.errors import Unavailable

# RFC 9110, 7.6.1: they are of one connection; and `expect` was answered here.
_OF_CONNECTIONS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"expect")
)  # fmt: skip
CLIENT = b"x-bandexa-client"  # who has sent a request; what a client says itself is dropped
REQUEST_ID = b"x-request-id"  # the keeper logs the id that is answered here
_NOT_PASSED_ON = _OF_CONNECTIONS | {CLIENT, REQUEST_ID}
IDLE_S = 5.0  # shorter than the keeper retains a connection
AWAY = "the process that administers the server is starting again"


class Forwarding:
    """The app of a process that serves beside the keeper.

    Args:
        app: Answers what is answered here.
        here: The paths of hot calls.
        own: The number of this process.
        keeper: The socket at which the keeper serves HTTP.
        failure: Returns why this process is not ready, None while it is.
        metrics: Counts refusals.
    """

    def __init__(
        self,
        app: ASGIApp,
        here: Collection[str],
        own: int,
        keeper: Path,
        failure: Callable[[], str | None],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._own = own
        self._here = frozenset((*here, "/activate", "/healthz"))
        self._failure = failure
        self._metrics = metrics
        transport = httpx.AsyncHTTPTransport(
            uds=str(keeper), limits=httpx.Limits(keepalive_expiry=IDLE_S)
        )
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
            failure = self._failure()
            status = "ready" if failure is None else "not ready"
            health = Health(status=status, detail=failure, worker=self._own)
            answer = JSONResponse(health.model_dump(), 200 if failure is None else 503)
            await answer(scope, receive, send)
        else:
            try:
                response = await self._asked(scope, receive)
            except (httpx.TransportError, OSError):
                error = Unavailable(AWAY)
                await send_refusal(refusal_of(error, self._metrics), send)
                return
            if response is not None:
                await _pass_back(response, send)

    async def _asked(self, scope: Scope, receive: Receive) -> httpx.Response | None:
        """Return the keeper's answer; None where the client left before."""
        headers = [pair for pair in scope["headers"] if pair[0] not in _NOT_PASSED_ON]
        if (correlation := current.get()) is not None:
            headers.append((REQUEST_ID, correlation.request_id.encode("ascii")))
        if client := scope.get("client"):
            headers.append((CLIENT, f"{client[0]} {client[1]}".encode()))
        names = {name for name, _ in scope["headers"]}
        has_body = b"content-length" in names or b"transfer-encoding" in names
        body = _Body(receive)
        path = scope.get("raw_path") or scope["path"].encode()
        query = scope["query_string"]
        request = self._client.build_request(
            scope["method"],
            httpx.URL(scheme="http", host="keeper", raw_path=path + (b"?" + query) * bool(query)),
            headers=headers,
            content=body.parts() if has_body else None,
        )
        if not has_body:
            body.ended.set()
        asked = asyncio.ensure_future(self._client.send(request, stream=True))
        left = asyncio.ensure_future(body.left())
        try:
            await asyncio.wait({asked, left}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            return None
        except _Left:
            return None
        finally:
            left.cancel()
            if not asked.done():
                asked.cancel()
                with suppress(asyncio.CancelledError, httpx.HTTPError, _Left):
                    await asked


def from_client(scope: Scope) -> Scope:
    """Return a request that was passed on as one of the client that sent it."""
    for name, value in scope["headers"]:
        if name == CLIENT:
            host, _, port = value.decode().partition(" ")
            return {**scope, "client": (host, int(port))}
    return scope


class _Left(Exception):
    """The client left while it sent a body."""


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


async def _pass_back(response: httpx.Response, send: Send) -> None:
    headers = [
        (name.lower(), value)
        for name, value in response.headers.raw
        if name.lower() not in _NOT_PASSED_ON
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
