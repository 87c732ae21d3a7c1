"""How a start that failed is told: in one line of the log, where it was foreseen."""

from __future__ import annotations

import logging
import sqlite3
import sys

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandexa_core.errors import BandexaError

log = logging.getLogger(__name__)
FORESEEN = (BandexaError, OSError, sqlite3.Error, ValueError)


class OneLineRefusal:
    """Tells why the app does not start; a traceback is kept for what nobody foresaw.

    Args:
        app: The app behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan, or pass a request on."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            error = sys.exception()  # what is being handled where the failure is reported
            if message["type"] == "lifespan.startup.failed" and isinstance(error, FORESEEN):
                log.critical("cannot start: %s", error)
                message = {**message, "message": ""}
            await send(message)

        await self._app(scope, receive, tell)
