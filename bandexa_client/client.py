"""The two clients: how calls are sent, one after the other or awaited, and when again.

`BanditClient` waits in the caller's thread and may be shared by threads (`num_requests` is then
approximate). `AsyncBanditClient` serves one event loop. A call that may be repeated is repeated
when the service does not answer or asks to retry later: ids make that safe. Every failure is one
of `errors`.

A connection belongs to one process: a client that was made before a fork connects anew in the
child. An answer that does not follow the contract, such as one to another request, leaves its
connection in doubt, and all connections are made anew.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from abc import abstractmethod
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from bandexa_client.call import Call
from bandexa_client.calls import Calls
from bandexa_client.deadlines import limited, obey_limits
from bandexa_client.errors import ContractBroken, ServiceUnavailable, unanswered
from bandexa_client.retrying import Retry
from bandexa_client.sharing import Awaiting, Blocking

T = TypeVar("T")

# Servers commonly close a connection after 5 idle seconds. The client gives it up before, so that
# no request is sent into a closing one.
_KEEPALIVE_S = 2.0
_RETRY = Retry()


class _Client(Calls):
    """Connection and attempts, written once for both clients."""

    _http: Any

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        train_timeout_s: float = 600.0,
        retry: Retry = _RETRY,
        trust_env: bool = True,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.num_requests = 0
        self._timeout_s = timeout_s
        self._train_timeout_s = train_timeout_s
        self._retry = retry
        address = _address(url)
        self._options = {
            "base_url": address,
            # Reading the authorities takes 30 ms of CPU, and plain HTTP has no certificates.
            "verify": address.scheme == "https",
            "timeout": timeout_s,
            "trust_env": trust_env,
            "headers": {} if api_key is None else {"Authorization": f"Bearer {_key(api_key)}"},
            "limits": httpx.Limits(keepalive_expiry=_KEEPALIVE_S),
        }
        self._connect_anew()

    def _connect_anew(self) -> None:
        """Make a pool of connections; one that there was is forgotten, not closed."""
        self._pid = os.getpid()
        try:
            self._connect(**self._options)
        except (ImportError, ValueError) as error:  # such as a proxy with the scheme socks5
            text = f"the proxies of the environment cannot be used ({error})"
            raise ValueError(f"{text}; trust_env=False ignores them") from error

    async def _do(self, call: Call[T], within_s: float | None = None) -> T:
        deadline = math.inf if within_s is None else time.monotonic() + within_s
        limit_s = self._train_timeout_s if call.slow else self._timeout_s
        content = call.content()
        if os.getpid() != self._pid:
            self._connect_anew()
        attempt = 0
        while True:
            attempt += 1
            timeout_s = min(limit_s, max(deadline - time.monotonic(), 0.001))
            try:
                return call.outcome(await self._response(call, content, timeout_s))
            except ContractBroken:
                doubtful = self._http
                self._connect_anew()
                await self._disconnect(doubtful)
                raise
            except ServiceUnavailable as error:
                wait_s = self._retry.wait_s(attempt, error, deadline - time.monotonic())
                if wait_s is None or not call.repeatable:
                    raise
            await self._pause(wait_s)

    async def _response(
        self, call: Call[T], content: bytes | None, timeout_s: float
    ) -> httpx.Response:
        self.num_requests += 1
        try:
            return await self._exchange(
                call.method, call.path, timeout_s, content=content, headers=call.headers()
            )
        except httpx.RequestError as error:
            raise unanswered(_shown(self.url), call.method, call.path, timeout_s, error) from error

    @abstractmethod
    def _connect(self, **options: Any) -> None:
        """Make httpx's client."""

    @abstractmethod
    async def _exchange(
        self, method: str, path: str, timeout_s: float, **request: Any
    ) -> httpx.Response:
        """Send one request and return its response; `timeout_s` is the limit of both together.

        Raises:
            httpx.RequestError: There is no answer, or not all of it in time.
        """

    @abstractmethod
    async def _disconnect(self, http: Any) -> None:
        """Close httpx's client."""

    @abstractmethod
    async def _pause(self, seconds: float) -> None:
        """Wait between two attempts."""


class BanditClient(Blocking, _Client):
    """The service at `url`. Close it, or use it as a context manager.

    Args:
        url: Where the service listens, such as `http://127.0.0.1:8080`.
        timeout_s: Limit for connecting and for each answer.
        train_timeout_s: Limit for `train(wait=True)` and for moving snapshots.
        retry: What happens when the service does not answer; `NO_RETRY`: an error at once.
        trust_env: Use the proxy settings of the environment.
        api_key: Sent with every request, to a server that has keys.

    Raises:
        ValueError: `url` is not an http or https address, `api_key` cannot be sent, or the
            proxies of the environment cannot be used.
    """

    _http: httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        self._http.close()

    def _connect(self, **options: Any) -> None:
        self._http = httpx.Client(**options)
        obey_limits(self._http)

    async def _disconnect(self, http: httpx.Client) -> None:
        http.close()

    async def _exchange(
        self, method: str, path: str, timeout_s: float, **request: Any
    ) -> httpx.Response:
        with limited(timeout_s):
            return self._http.request(method, path, timeout=timeout_s, **request)

    async def _pause(self, seconds: float) -> None:
        time.sleep(seconds)


class AsyncBanditClient(Awaiting, _Client):
    """`BanditClient` with awaits, for one event loop.

    Cancelling a call ends it at once; what it sent may still take effect, and its ids allow to
    repeat it.
    """

    _http: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        await self._http.aclose()

    def _connect(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def _disconnect(self, http: httpx.AsyncClient) -> None:
        await http.aclose()

    async def _exchange(
        self, method: str, path: str, timeout_s: float, **request: Any
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._http.request(method, path, timeout=timeout_s, **request)
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer took too long") from error

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _key(text: str) -> str:
    """Return an API key that can be sent in a header; an error does not contain it."""
    if not text or not all("!" <= character <= "~" for character in text):
        raise ValueError("api_key: must be visible ASCII characters, without spaces or line ends")
    return text


def _shown(url: str) -> str:
    """Return an address without its password, for texts that are logged."""
    return str(httpx.URL(url).copy_with(username="", password=""))


def _address(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ValueError(f"not an address: {url!r} ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"not an http or https address: {url!r}")
    return parsed
