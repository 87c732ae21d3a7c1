"""Errors in Personalizer's shape: {"error": {"code", "message", "target"?, "details"?}}.

SDKs of Personalizer fail on any other body, so whatever refuses a request of these paths is
answered in this shape: the calls themselves, and what stands in front of them (limits, origins, the
start), by `AzureErrors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.personalizer.paths import is_personalizer
from service.http.problems import MEDIA_TYPE, URN, Refusal
from service.store.errors import ServiceError

JSON = b"application/json; charset=utf-8"
MOST_DETAILS = 20
# By the status of an answer; where a call has a code of its own for a wrong request, that.
CODES = {
    400: "BadRequest",
    401: "401",
    403: "403",
    404: "ResourceNotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    409: "Conflict",
    413: "PayloadSizeExceeded",
    415: "UnsupportedMediaType",
    429: "429",
    503: "ServiceUnavailable",
}
INTERNAL = "InternalServerError"
WRONG = (400, 409, 422)  # statuses of a request that is wrong in itself
UNPROCESSABLE = 422  # Personalizer answers 400 in its place


class NotOffered(ServiceError):
    """A call of Personalizer that this service does not have."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not offered here: docs/personalizer.md says what is")


class Refused(ServiceError):
    """A request that Personalizer refuses with a code of its own.

    Attributes:
        code: The code.
        status: The HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def body_of(
    code: str, message: str, target: str | None = None, details: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return the body of an error; `details`: field and message of each."""
    error: dict[str, Any] = {"code": code, "message": message}
    if target is not None:
        error["target"] = target
    if details:
        error["details"] = [
            {"code": code, "message": text, "target": field}
            for field, text in details[:MOST_DETAILS]
        ]
    return msgspec.json.encode({"error": error})


def shaped(refusal: Refusal, wrong: str) -> tuple[int, str, bytes]:
    """Return status, code and body of a refusal of this service as Personalizer answers.

    Args:
        refusal: What any other call would answer.
        wrong: The code of a request of this call that is wrong in itself.
    """
    problem = msgspec.json.decode(refusal.body)
    status = 400 if refusal.status == UNPROCESSABLE else refusal.status
    code = wrong if refusal.status in WRONG else CODES.get(status, INTERNAL)
    if problem.get("type") == f"{URN}http-error" and status == 400:
        code = CODES[400]
    fields = [(each["field"], each["message"]) for each in problem.get("errors") or ()]
    target = fields[0][0] if fields else None
    message = str(problem.get("detail") or problem.get("title") or "")
    return status, code, body_of(code, message, target, fields if len(fields) > 1 else ())


def headers_of(code: str, body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of an error."""
    return [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", JSON),
        (b"x-ms-error-code", code.encode("ascii", "replace")),
    ]


async def send_error(
    send: Send, status: int, code: str, body: bytes, more: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send an error as the answer of an ASGI request."""
    headers = [*headers_of(code, body), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class AzureErrors:
    """Gives what refuses requests of these paths, whatever it is, Personalizer's shape.

    Args:
        app: The app behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and is_personalizer(scope):
            await self._app(scope, receive, _Shaping(send))
        else:
            await self._app(scope, receive, send)


class _Shaping:
    """The `send` of one request: holds a problem document back until it is whole."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        """Send a message, or hold it back."""
        if message["type"] == "http.response.start" and _is_problem(message):
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        start, refusal = self._start, Refusal(self._start["status"], {}, b"".join(self._parts))
        self._start = None
        status, code, body = shaped(refusal, CODES[400])
        kept = [each for each in start["headers"] if each[0] not in _REPLACED]
        await send_error(self._send, status, code, body, kept)


_REPLACED = (b"content-length", b"content-type")


def _is_problem(message: Message) -> bool:
    types = [value for name, value in message["headers"] if name == b"content-type"]
    return MEDIA_TYPE.encode() in types
