"""Refuses what a web page of another site sends through its visitor's browser.

A browser on the machine, or in the network, of a server reaches it, and runs pages of anybody. Such
a request names the page's site in `Origin`; and where the site's own name leads to this server (DNS
rebinding), in `Host`. So a server on loopback answers to names of this machine alone, and any
server refuses an `Origin` that is not its own `Host`. Requests without an `Origin` pass: those of
curl and of backends. A page can send some as well, but only such that change nothing here, and it
cannot read their answers. It stands in front of everything; on the event loop.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.errors import ForeignRequest
from service.http.problems import refusal_of, send_refusal
from service.observe.counters import Metrics

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_REMEMBERED = 64  # pairs of Host and Origin that were checked


class OriginCheck:
    """Answers 403 to requests of web pages from elsewhere.

    Args:
        app: The app behind it.
        metrics: Counts the refusals.
        on_loopback: Whether the server listens on loopback: then its `Host` is checked.
        hosts: Names that the server has beside those of this machine.
        origins: Origins that are good beside the server's own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        on_loopback: bool,
        hosts: Sequence[str],
        origins: Sequence[str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._on_loopback = on_loopback
        self._hosts = frozenset(name.lower() for name in hosts)
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._good: set[tuple[bytes | None, bytes | None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            host = origin = None
            for name, value in scope["headers"]:
                if name == b"host":
                    host = value
                elif name == b"origin":
                    origin = value
            if (host, origin) not in self._good:
                if error := self._refused(host, origin):
                    await send_refusal(refusal_of(error, self._metrics), send)
                    return
                if len(self._good) < _REMEMBERED:
                    self._good.add((host, origin))
        await self._app(scope, receive, send)

    def _refused(self, host: bytes | None, origin: bytes | None) -> ForeignRequest | None:
        if self._on_loopback and host is not None and not self._is_here(_name_of(host)):
            return ForeignRequest(
                f"Host: {host.decode('latin-1')!r} is no name of this machine; see the setting"
                " `allowed_hosts`"
            )
        if origin is None or (host is not None and _is_own(origin, host)):
            return None
        if origin.lower() in self._origins:
            return None
        return ForeignRequest(
            f"Origin: {origin.decode('latin-1')!r} is not this server; see the setting"
            " `allowed_origins`"
        )

    def _is_here(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _name_of(host: bytes) -> str:
    """Return the name in a `Host` header, in lower case, without the port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


def _is_own(origin: bytes, host: bytes) -> bool:
    """Whether an origin is the server that `Host` names; a proxy may add TLS."""
    try:
        parts = urlsplit(origin.decode("latin-1").lower())
    except ValueError:
        return False
    own = host.decode("latin-1").lower()
    port = _DEFAULT_PORTS.get(parts.scheme)
    if port is None or not parts.netloc:
        return False
    return parts.netloc.removesuffix(port) == own.removesuffix(port)
