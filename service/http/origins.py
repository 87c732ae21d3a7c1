"""Refuses what a web page of another site sends through its visitor's browser.

A browser on the machine, or in the network, of a server reaches it, and runs pages of anybody. Such
a request names the page's site in `Origin`; where the site's own name leads to this server (DNS
rebinding), in `Host`; and `Sec-Fetch-Site` says that it comes from another site where it has no
`Origin`. So a server on loopback answers to names of this machine alone. One on a network address
without keys answers to IP addresses and to names that nobody can register, and with
`allowed_hosts`, any server answers to those and to addresses. Any server refuses an `Origin` that
is not its own `Host`. Requests without these headers pass: those of curl and of backends. It stands
in front of everything; on the event loop.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.errors import ForeignRequest
from service.http.problems import refusal_of, send_refusal
from service.observe.counters import Metrics

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_REMEMBERED = 64  # headers that were checked
# Top-level domains in which nobody can register a name: reserved (RFC 6762, 8375; ICANN), or never
# delegated. A name without a dot is a local one as well.
_LOCAL = (".local", ".internal", ".home.arpa", ".localdomain", ".lan", ".corp", ".home")


class OriginCheck:
    """Answers 403 to requests of web pages from elsewhere.

    Args:
        app: The app behind it.
        metrics: Counts the refusals.
        on_loopback: Whether the server listens on loopback.
        has_keys: Whether callers need a key, which a page of another site does not have.
        hosts: Names that the server has beside those of this machine, in lower case.
        origins: Origins that are good beside the server's own, in lower case.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        on_loopback: bool,
        has_keys: bool,
        hosts: Sequence[str],
        origins: Sequence[str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._on_loopback = on_loopback
        self._checks_hosts = on_loopback or bool(hosts) or not has_keys
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origin.encode() for origin in origins)
        self._good: set[tuple[bytes | None, ...]] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; a plain function, since another coroutine would cost more than it."""
        if scope["type"] == "http":
            host = origin = site = None
            for name, value in scope["headers"]:  # faster than a dictionary of them
                if name == b"host":  # several of them are none of the names that are good
                    host = value if host is None else host + b"," + value
                elif name == b"origin":
                    origin = value if origin is None else origin + b"," + value
                elif name == b"sec-fetch-site":
                    site = value
            if (host, origin, site) not in self._good:
                follows_link = site is not None and _is_followed_link(dict(scope["headers"]))
                if error := self._refused(host, origin, None if follows_link else site):
                    return send_refusal(refusal_of(error, self._metrics), send)
                if len(self._good) < _REMEMBERED and not follows_link:
                    self._good.add((host, origin, site))
        return self._app(scope, receive, send)

    def _refused(
        self, host: bytes | None, origin: bytes | None, site: bytes | None
    ) -> ForeignRequest | None:
        if self._checks_hosts and host is not None and not self._is_here(_name_of(host)):
            place = "of this machine" if self._on_loopback else "of this server"
            return ForeignRequest(
                f"Host: {host.decode('latin-1')!r} is no name {place}; see the setting"
                " `allowed_hosts`"
            )
        if origin is None:
            if site == b"cross-site":
                return ForeignRequest(
                    "Sec-Fetch-Site: a web page of another site sent this; see the setting"
                    " `allowed_origins`"
                )
            return None
        if (host is not None and _is_own(origin, host)) or origin.lower() in self._origins:
            return None
        return ForeignRequest(
            f"Origin: {origin.decode('latin-1')!r} is not this server; see the setting"
            " `allowed_origins`"
        )

    def _is_here(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            if self._on_loopback or self._hosts:
                return False
            return "." not in name or name.endswith(_LOCAL)
        return address.is_loopback or not self._on_loopback


def _is_followed_link(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a person followed a link to this server: the page with the link sees no answer."""
    return (
        headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
    )


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
