"""Serves in this process: the whole server, or one of several that share a store."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from service.cli.certificate import Certificate
from service.cli.listening import Server
from service.cli.options import USAGE
from service.http.app import create_app
from service.http.crowded import Crowded
from service.http.personalizer.errors import AzureErrors
from service.serving.lifecycle import ServerPlace
from service.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from service.serving.lifecycle import KeeperPlace, Place

STORE_FAILED_STATUS = 4  # the disk failed to sync; a new start recovers from what it holds


def serve_process(
    settings: Settings,
    listener: socket.socket,
    certificate: Certificate | None = None,
    place: KeeperPlace | Place | ServerPlace | None = None,
    beside: Coroutine[None, None, None] | None = None,
    announced: int | None = None,
) -> int:
    """Serve until a signal, and end the process; returns its status where the start failed.

    Args:
        settings: The server's settings.
        listener: Where it listens.
        certificate: What it speaks TLS with; None: it speaks plain HTTP.
        place: Which of several processes it is; None: it is the only one.
        beside: Runs on the event loop meanwhile.
        announced: The process that is announced as the server; None: this one.

    Raises:
        ValueError: A setting is wrong; names it.
    """
    asgi = create_app(settings, place)

    def status() -> int:
        if isinstance(place, ServerPlace):
            place.member.end()
        return STORE_FAILED_STATUS if asgi.failed_for_good else 0

    crowded: ASGIApp = Crowded(asgi, asgi.metrics)
    if settings.personalizer.enabled:
        crowded = AzureErrors(crowded)
    server = Server(asgi, settings, crowded, certificate, announced)

    async def serve() -> None:
        task = None if beside is None else asyncio.create_task(beside)
        try:
            # It ends the process: after a failed store, closing the database would write.
            await server.serve_and_exit([listener], status)
        finally:
            if task is not None:
                task.cancel()

    with contextlib.suppress(SystemExit):  # of a start that failed, with uvicorn's own status
        loops = server.config.get_loop_factory()
        with asyncio.Runner(loop_factory=loops) as runner:
            runner.run(serve())
    return USAGE if asgi.state.refused else 1
