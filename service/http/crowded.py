"""What is answered on a connection beyond the limit, when all others have requests under way.

Health checks and metrics are served, so that a busy server is not taken for a dead one. Everything
else gets 503, and the connection is closed.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.counting import RequestCount
from service.http.limits import ALWAYS_SERVED
from service.http.problems import refusal_of, send_refusal
from service.observe.counters import Metrics
from service.store.errors import Unavailable


class Crowded:
    """The app of such a connection.

    Args:
        app: Serves health checks and metrics.
        metrics: Counts the refusals.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._refuses = RequestCount(self._refuse, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_SERVED:
            await self._app(scope, receive, send)
            return
        await self._refuses(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = refusal_of(Unavailable("too many connections are open"), self._metrics)
        refusal.headers["Connection"] = "close"
        await send_refusal(refusal, send)
