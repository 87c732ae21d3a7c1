"""Every error's status and shape: RFC 9457 problem+json, with a stable `type`.

`refusal_of` is the one way from an exception to an answer. The hot calls send it themselves,
FastAPI's exception handlers wrap it.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Send

from bandexa_core.errors import BandexaError, SnapshotError
from service.http.errors import (
    Forbidden,
    ForeignRequest,
    InvalidBody,
    QuotaExceeded,
    TooManyCalls,
    Unauthorized,
    UnknownEvaluation,
    UnsupportedBody,
)
from service.http.schemas.decide import FieldProblem, Problem
from service.http.wording import merged, worded
from service.observe.counters import Metrics
from service.serving.errors import (
    BanditExists,
    ConfigurationChanged,
    UnknownAction,
    UnknownBandit,
    UnknownChallenger,
    UnknownSnapshot,
)
from service.store.errors import (
    Conflict,
    Erased,
    InvalidRequest,
    ServiceError,
    StoreError,
    StoreUnreadable,
    Unavailable,
    UnknownDecision,
)

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
DISK_RETRY_S = 5
URN = "urn:bandexa:"
MAX_NAMED = 20  # fields that one refusal names
MAX_MEANT = 3  # unknown keys for which it names the key that was meant

KINDS: dict[type[BandexaError], tuple[int, str, str]] = {
    InvalidRequest: (422, "invalid-request", "A field of the request is wrong"),
    InvalidBody: (422, "invalid-request", "A field of the request is wrong"),
    UnsupportedBody: (415, "unsupported-body", "The body's encoding is not supported"),
    Unauthorized: (401, "unauthorized", "An API key is needed"),
    Forbidden: (403, "forbidden", "The API key is not good for this"),
    QuotaExceeded: (403, "quota-exceeded", "The API key may not create more"),
    TooManyCalls: (429, "too-many-calls", "The API key has made too many calls"),
    ForeignRequest: (403, "foreign-request", "Not from a web page of another site"),
    UnknownBandit: (404, "unknown-bandit", "No such bandit"),
    UnknownDecision: (404, "unknown-decision", "No such decision"),
    Erased: (410, "erased", "The decision was erased"),
    UnknownAction: (404, "unknown-action", "No such action"),
    UnknownSnapshot: (404, "unknown-snapshot", "No such snapshot"),
    UnknownEvaluation: (404, "unknown-evaluation", "No such evaluation"),
    UnknownChallenger: (404, "unknown-challenger", "No such challenger"),
    ConfigurationChanged: (412, "configuration-changed", "Somebody else has changed it meanwhile"),
    BanditExists: (412, "bandit-exists", "There is a bandit of this name already"),
    Conflict: (409, "conflict", "The request contradicts what is there"),
    Unavailable: (503, "unavailable", "Not possible at present"),
    StoreError: (503, "store-failed", "The store cannot be used"),
    SnapshotError: (503, "snapshot-failed", "A snapshot cannot be written or read"),
}
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
HTTP_TYPES = {
    400: "invalid-request",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "too-large",
}


class Refusal(NamedTuple):
    """An answer that reports a problem: status, headers beside the media type, body."""

    status: int
    headers: dict[str, str]
    body: bytes


# -- from an error to its problem ---------------------------------------------------------------


def problem_of(error: BandexaError) -> Problem:
    """Return the problem that reports an error of the service."""
    status, name, title = next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)
    errors = None
    if isinstance(error, InvalidBody):
        errors = [FieldProblem(field, message) for field, message in error.errors]
    elif isinstance(error, InvalidRequest | UnknownAction) and error.field is not None:
        errors = [FieldProblem(error.field, error.message)]
    return Problem(URN + name, title, status, str(error), errors)


def invalid_problem(error: ValidationError | RequestValidationError, model: Any) -> Problem:
    """Return the problem that reports what pydantic found; `model`: what did not validate."""
    skipped = 0 if isinstance(error, ValidationError) else 1  # FastAPI begins with "body", ...
    found = [dict(item) for item in error.errors()[:MAX_NAMED]]
    for item in found:
        item["loc"] = tuple(item["loc"])[skipped:]
    _name_unknown_keys(found, model)
    return problem_of(InvalidBody(merged(found, _field_error)))


def refusal_of(error: Exception, metrics: Metrics, call: str = "") -> Refusal:
    """Return the answer that reports an error, and count it.

    Args:
        error: Anything that ended a request.
        metrics: Counts the problem by its type.
        call: Method and path; named in the log where the error is unforeseen.
    """
    headers: dict[str, str] = {}
    if isinstance(error, ServiceError | SnapshotError):
        level = logging.ERROR if isinstance(error, StoreUnreadable) else logging.DEBUG
        quotes = isinstance(error, InvalidRequest) and error.quotes
        shown = "an object does not suit the bandit" if quotes else error
        log.log(level, "%s is refused: %s", call or "a request", shown)
        problem = problem_of(error)
        if isinstance(error, StoreError | SnapshotError):
            headers["Retry-After"] = str(DISK_RETRY_S)
        elif isinstance(error, Unavailable | TooManyCalls):
            headers["Retry-After"] = str(error.retry_after_s)
        elif isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        elif isinstance(error, ConfigurationChanged | BanditExists) and error.current is not None:
            headers["ETag"] = f'"{error.current}"'
    elif isinstance(error, HTTPException):
        name = HTTP_TYPES.get(error.status_code, "http-error")
        title = name.replace("-", " ").capitalize()
        problem = Problem(URN + name, title, error.status_code, str(error.detail))
        headers |= error.headers or {}
    else:
        log.error("unexpected error in %s", call, exc_info=error)
        detail = "an unforeseen error; it is in the server's log"
        problem = Problem(URN + "internal", "Internal error", 500, detail)
    return _counted(problem, headers, metrics)


def _counted(problem: Problem, headers: dict[str, str], metrics: Metrics) -> Refusal:
    metrics.problem(problem.type)
    fields = msgspec.structs.asdict(problem)
    if problem.errors is None:
        del fields["errors"]
    return Refusal(problem.status, headers, msgspec.json.encode(fields))


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Send a refusal as the answer of an ASGI request."""
    headers = [
        (b"content-length", b"%d" % len(refusal.body)),
        (b"content-type", MEDIA_TYPE.encode()),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})


def install(app: FastAPI, metrics: Metrics) -> None:
    """Make FastAPI answer every error in the one shape, and count it."""

    def response_of(refusal: Refusal) -> Response:
        return Response(refusal.body, refusal.status, refusal.headers, MEDIA_TYPE)

    async def _refused(request: Request, error: Exception) -> Response:
        return response_of(refusal_of(error, metrics, f"{request.method} {request.url.path}"))

    for kind in (ServiceError, SnapshotError, HTTPException, Exception):
        app.exception_handler(kind)(_refused)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        body = getattr(request.scope.get("route"), "body_field", None)
        model = None if body is None else body.field_info.annotation
        return response_of(_counted(invalid_problem(error, model), {}, metrics))

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> Response:
        """The client left while it sent its body: nobody reads this, and nothing is wrong here."""
        return Response(status_code=400)


# -- what pydantic found ------------------------------------------------------------------------


def _name_unknown_keys(found: list[dict[str, Any]], model: Any) -> None:
    """Reword unknown keys; the first ones name the key that was probably meant (0.3 ms each)."""
    unknown = [item for item in found if item["type"] in _UNKNOWN_KEY]
    for item in unknown:
        item["msg"] = "unknown key"
    for item in unknown[:MAX_MEANT]:
        meant = None if model is None else nearest_key(model, item["loc"])
        if meant is not None:
            item["msg"] += f"; did you mean {meant!r}?"


def _field_error(item: dict[str, Any]) -> tuple[str, str]:
    """Return (field, message); a value's own check may name the part of it that is wrong."""
    location, message = tuple(item["loc"]), item["msg"]
    if item["type"] not in _UNKNOWN_KEY and item["type"] != "value_error":
        message = worded(item)
    elif item["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        part, colon, rest = message.partition(": ")
        if colon and (part.isidentifier() or part.startswith("features.")):
            location, message = (*location, part), rest
    # pydantic names members of unions in brackets; they are no part of the body's path.
    path = [str(part) for part in location]
    return ".".join(part for part in path if "[" not in part) or "body", message


# -- which key was meant ------------------------------------------------------------------------

LONGEST = 48  # characters of a key that is compared; twice the longest known key


def nearest_key(model: Any, path: Sequence[str | int]) -> str | None:
    """Return the key that the last one of `path` resembles, among those `model` has there.

    Args:
        model: A struct, a pydantic model, a dataclass, or a union or list of them.
        path: Where the unknown key stands: keys, indexes, and pydantic's names of union members.
    """
    if not path or len(key := str(path[-1])) > LONGEST:
        return None
    members = [_fields(member) for member in _members(model)]
    for step in path[:-1]:
        inner = [fields[step] for fields in members if step in fields]
        if inner:  # else it is an index, or the name of a member of a union
            members = [_fields(member) for part in inner for member in _members(part)]
    return _nearest(key, tuple(sorted({name for fields in members for name in fields})))


@lru_cache(maxsize=1024)  # the items of a batch have the same mistake
def _nearest(key: str, known: tuple[str, ...]) -> str | None:
    found = difflib.get_close_matches(key, known, n=1)
    return found[0] if found else None


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the models that an annotation is made of."""
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel | msgspec.Struct) or dataclasses.is_dataclass(annotation)
    ):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _members(part)


@lru_cache(maxsize=256)
def _fields(model: Any) -> dict[str | int, Any]:
    """Return the annotations of a model's fields by name."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    if issubclass(model, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(model)}
    hints = get_type_hints(model)
    return {field.name: hints[field.name] for field in dataclasses.fields(model)}
