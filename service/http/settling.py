"""Answers administrative calls once every process of the server serves what they changed.

So whoever creates a bandit finds it at any process that answers the next call. A process that does
not follow within ten seconds follows later; its `/readyz` says so.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.keepers import from_client
from service.serving.keeping import Keeping

_READS = ("GET", "HEAD", "OPTIONS")
_FREQUENT = ("/rank", "/reward", "/activate")  # of the clients of Personalizer


class Settling:
    """The app of the keeper.

    Args:
        app: Answers.
        keeping: Knows the other processes.
    """

    def __init__(self, app: ASGIApp, keeping: Keeping) -> None:
        self._app = app
        self._keeping = keeping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope = from_client(scope)
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        if scope["path"].rstrip("/").endswith(_FREQUENT):
            await self._app(scope, receive, send)
            return

        async def settled(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                await self._keeping.everywhere()
            await send(message)

        await self._app(scope, receive, settled)
