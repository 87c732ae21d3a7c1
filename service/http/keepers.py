"""Where the keeper is, as a process that serves beside it passes requests on.

It is another process of this server, or another server that shares the database (`other_server`).
"""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
from starlette.types import Scope

from service.http.schemas.health import Health
from service.store.errors import Unavailable

CLIENT = b"x-bandexa-client"  # who has sent a request; what a client says itself is dropped
PASSED_ON = b"x-bandexa-passed-on"  # by another server that shares the database
T = TypeVar("T")


class Keeper(Protocol):
    """Where requests are passed on to.

    Attributes:
        socket: The Unix socket at which it serves HTTP; None where it has an address.
        own_paths: What a process beside it answers itself, in addition to hot calls.
    """

    socket: Path | None
    own_paths: frozenset[str]

    def health(self, failure: str | None) -> Health:
        """Return how the process beside the keeper is; `failure`: why it is not ready."""

    def refusal(self, scope: Scope) -> Unavailable | None:
        """Return why a request is not passed on, None if it is."""

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the headers that a request gets in addition to its own.

        Raises:
            TooManyCalls: Its key has made too many.
        """

    def url(self) -> httpx.URL:
        """Return the address.

        Raises:
            Unavailable: There is no keeper now.
        """

    async def answered(self, asked: Coroutine[Any, Any, T]) -> T:
        """Return what a request to the keeper returns.

        Raises:
            Unavailable: The keeper goes meanwhile.
        """

    async def followed(self) -> None:
        """Return once what the keeper has changed is served here, or is late."""


class KeeperProcess:
    """The keeper is another process of this server.

    Args:
        socket: The Unix socket at which it serves HTTP.
        worker: The number of the process beside it.
    """

    own_paths: frozenset[str] = frozenset()

    def __init__(self, socket: Path, worker: int) -> None:
        self.socket: Path | None = socket
        self._worker = worker

    def health(self, failure: str | None) -> Health:
        """Return how this process is."""
        status = "ready" if failure is None else "not ready"
        return Health(status=status, detail=failure, worker=self._worker)

    def refusal(self, scope: Scope) -> None:
        """Pass everything on: the socket leads to the keeper."""

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return who has sent a request: the keeper sees this process."""
        client = scope.get("client")
        return [(CLIENT, f"{client[0]} {client[1]}".encode())] if client else []

    def url(self) -> httpx.URL:
        """Return an address, whose host the socket makes meaningless."""
        return httpx.URL("http://keeper")

    async def answered(self, asked: Coroutine[Any, Any, T]) -> T:
        """Return what a request returns: a process that ends closes its connections."""
        return await asked

    async def followed(self) -> None:
        """Return at once: the keeper answers once the processes beside it follow."""


def from_client(scope: Scope) -> Scope:
    """Return a request that was passed on as one of the client that sent it."""
    for name, value in scope["headers"]:
        if name == CLIENT:
            host, _, port = value.decode().rpartition(" ")  # a proxy says what it likes of a host
            return {**scope, "client": (host, int(port))}
    return scope
