"""Limits that hold before a body is decoded."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import response_of
from service.schemas import Problem


class BodyLimit:
    """Refuses bodies above a size with 413, announced or not.

    Args:
        app: The app behind it.
        max_bytes: Largest body of a request.
        max_snapshot_bytes: Largest body of a snapshot import.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_snapshot_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_snapshot_bytes = max_snapshot_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_bytes
        if scope["method"] == "PUT" and scope["path"].endswith("/snapshot"):
            limit = self._max_snapshot_bytes
        detail = f"the body is larger than {limit} bytes"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            problem = Problem(
                type="urn:bandexa:too-large", title="Too large", status=413, detail=detail
            )
            await response_of(problem)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, counted, send)
