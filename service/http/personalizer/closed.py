"""What stands in the doorway's place where it is switched off: it says how it is switched on.

SDKs of Personalizer fail on an error of any other shape, and would hide the reason.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.personalizer.errors import CODES, body_of, send_error
from service.http.personalizer.paths import is_personalizer

MESSAGE = "Personalizer's calls are switched off: set personalizer.enabled in the server's settings"


class ClosedDoorway:
    """Answers Personalizer's calls with 404; every other request goes to `app`.

    Args:
        app: The app behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and is_personalizer(scope):
            await send_error(send, 404, CODES[404], body_of(CODES[404], MESSAGE))
        else:
            await self._app(scope, receive, send)
