"""What a server answers before it has recovered: health checks, and 503 to everything else.

`/healthz` answers 200 at once, so that a long start is not taken for a dead process. Runs on the
event loop while a thread recovers.
"""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from service.http.problems import refusal_of, send_refusal
from service.http.schemas.health import Health
from service.observe.counters import Metrics
from service.serving.progress import StartProgress
from service.store.errors import Unavailable

RETRY_S = 5


def asks_of_health(scope: Scope) -> bool:
    """Return whether a request is answered while the server starts."""
    return scope["type"] == "http" and scope["path"].rstrip("/") in ("/healthz", "/readyz")


class Starting:
    """The app while the server starts.

    Args:
        progress: How far the start has come.
        metrics: Counts the refusals.
    """

    def __init__(self, progress: StartProgress, metrics: Metrics) -> None:
        self._progress = progress
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"].rstrip("/")
        if path == "/healthz":
            answer = JSONResponse(Health(status="alive").model_dump())
            await answer(scope, receive, send)
        elif path == "/readyz":
            health = Health(status="not ready", detail=str(self._progress))
            await JSONResponse(health.model_dump(), 503)(scope, receive, send)
        else:
            error = Unavailable(f"the server is starting: {self._progress}", RETRY_S)
            await send_refusal(refusal_of(error, self._metrics), send)
