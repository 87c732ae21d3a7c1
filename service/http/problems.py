"""Every error's status and shape: RFC 9457 problem+json, with a stable `type`."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from bandexa_core.errors import BandexaError, SnapshotError
from service.http.errors import Forbidden, Unauthorized, UnsupportedBody
from service.http.schemas import FieldProblem, Problem
from service.observe.counters import Metrics
from service.serving.errors import UnknownAction, UnknownBandit, UnknownSnapshot
from service.store.errors import (
    Conflict,
    InvalidRequest,
    ServiceError,
    StoreError,
    Unavailable,
    UnknownDecision,
)
from service.store.sqlite.disk_faults import told

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
DISK_RETRY_S = 5

KINDS: dict[type[BandexaError], tuple[int, str, str]] = {
    InvalidRequest: (422, "invalid-request", "A field of the request is wrong"),
    UnsupportedBody: (415, "unsupported-body", "The body's encoding is not supported"),
    Unauthorized: (401, "unauthorized", "An API key is needed"),
    Forbidden: (403, "forbidden", "The API key is not good for this"),
    UnknownBandit: (404, "unknown-bandit", "No such bandit"),
    UnknownDecision: (404, "unknown-decision", "No such decision"),
    UnknownAction: (404, "unknown-action", "No such action"),
    UnknownSnapshot: (404, "unknown-snapshot", "No such snapshot"),
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


def problem_of(error: BandexaError | ValidationError, model: Any = None) -> Problem:
    """Return the problem an error is told as; `model`: what did not validate."""
    if isinstance(error, ValidationError):
        found = [dict(item) for item in error.errors(include_context=False)]
        return _invalid(found, model)
    kind = next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)
    status, name, title = kind
    errors = None
    if isinstance(error, InvalidRequest | UnknownAction) and error.field is not None:
        errors = [FieldProblem(field=error.field, message=error.message)]
    return Problem(
        type=f"urn:bandexa:{name}", title=title, status=status, detail=str(error), errors=errors
    )


def _invalid(found: list[dict[str, Any]], model: Any) -> Problem:
    found = found[:20]
    _tell_unknown_keys(found, model)
    fields = [_field_problem(item) for item in found]
    status, name, title = KINDS[InvalidRequest]
    detail = "; ".join(f"{field.field}: {field.message}" for field in fields)
    return Problem(
        type=f"urn:bandexa:{name}", title=title, status=status, detail=detail, errors=fields
    )


def _tell_unknown_keys(found: list[dict[str, Any]], model: Any) -> None:
    """Say it in our words; of the first one, which key was meant: looking takes 0.3 ms."""
    unknown = [item for item in found if item["type"] in _UNKNOWN_KEY]
    for item in unknown:
        item["msg"] = "unknown key"
    if unknown and model is not None:
        meant = nearest_key(model, unknown[0]["loc"])
        if meant is not None:
            unknown[0]["msg"] += f"; did you mean {meant!r}?"


def _field_problem(item: dict[str, Any]) -> FieldProblem:
    """Return one finding; a value's own check may name the part of it that is wrong."""
    location, message = tuple(item["loc"]), item["msg"]
    if item["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        part, colon, rest = message.partition(": ")
        if colon and part.isidentifier():
            location, message = (*location, part), rest
    return FieldProblem(field=_field(location), message=message)


def _field(location: tuple[Any, ...]) -> str:
    """Name the field: the path in the body, without where pydantic tells union members apart."""
    path = [str(part) for part in location]
    path = [part for part in path if "[" not in part and part != "InlineAction"]
    return ".".join(path) or "body"


def response_of(problem: Problem, retry_after_s: int | None = None) -> JSONResponse:
    """Return the response that carries a problem."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(
        problem.model_dump(exclude_none=True), problem.status, headers, media_type=MEDIA_TYPE
    )


def foreseen(error: BandexaError, metrics: Metrics) -> JSONResponse:
    """Return the response that tells an error of ours, and count it."""
    log.debug("a request is refused: %s", error)
    retry = error.retry_after_s if isinstance(error, Unavailable) else None
    if isinstance(error, StoreError | SnapshotError):
        retry = DISK_RETRY_S
    response = _counted(metrics, problem_of(error), retry)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def damaged(path: str, error: sqlite3.Error, metrics: Metrics) -> JSONResponse:
    """Return the response that tells that the database could not be read, and log why."""
    log.error("%s: %s", path, told(error))
    return _counted(metrics, problem_of(StoreError(told(error))), DISK_RETRY_S)


def unforeseen(method: str, path: str, error: Exception, metrics: Metrics) -> JSONResponse:
    """Return the response that tells nothing but that it is in the log, and log the error."""
    log.exception("unforeseen error in %s %s", method, path, exc_info=error)
    problem = Problem(
        type="urn:bandexa:internal",
        title="Internal error",
        status=500,
        detail="an unforeseen error; it is in the server's log",
    )
    return _counted(metrics, problem)


def refused(error: HTTPException, metrics: Metrics) -> JSONResponse:
    """Return the response that tells an error of HTTP itself."""
    name = HTTP_TYPES.get(error.status_code, "http-error")
    problem = Problem(
        type=f"urn:bandexa:{name}", title=name.replace("-", " ").capitalize(),
        status=error.status_code, detail=str(error.detail),
    )  # fmt: skip
    response = _counted(metrics, problem)
    response.headers.update(error.headers or {})
    return response


def _counted(metrics: Metrics, problem: Problem, retry_after_s: int | None = None) -> JSONResponse:
    metrics.problem(problem.type)
    return response_of(problem, retry_after_s)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Have the app answer every error in the one shape, and count it."""

    @app.exception_handler(ServiceError)
    @app.exception_handler(SnapshotError)
    async def _foreseen(_: Request, error: BandexaError) -> JSONResponse:
        return foreseen(error, metrics)

    @app.exception_handler(sqlite3.Error)
    async def _damaged(request: Request, error: sqlite3.Error) -> JSONResponse:
        return damaged(request.url.path, error, metrics)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        body = getattr(request.scope.get("route"), "body_field", None)
        model = None if body is None else body.field_info.annotation
        # Of a location, the first part tells the body from the query and the path.
        found = [{**item, "loc": tuple(item["loc"])[1:]} for item in error.errors()]
        return _counted(metrics, _invalid(found, model))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return refused(error, metrics)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> JSONResponse:
        """The client left while it sent its body: nobody reads this, and nothing is wrong here."""
        return response_of(
            Problem(
                type="urn:bandexa:invalid-request",
                title="Invalid request",
                status=400,
                detail="the connection was closed inside the body",
            )
        )

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        return unforeseen(request.method, request.url.path, error, metrics)


LONGEST = 48  # characters of a key that is compared; twice what any of ours has


def nearest_key(model: Any, path: Sequence[str | int]) -> str | None:
    """Return the key that the last one of `path` resembles, among those `model` has there.

    Args:
        model: A pydantic model, a dataclass, or a union or list of them.
        path: Where the unknown key stands: keys, indexes, and pydantic's names of union members.
    """
    if not path or len(key := str(path[-1])) > LONGEST:
        return None
    members = [_fields(member) for member in _members(model)]
    for step in path[:-1]:
        inner = [fields[step] for fields in members if step in fields]
        if inner:  # else it is an index, or tells members of a union apart
            members = [_fields(member) for part in inner for member in _members(part)]
    return _nearest(key, tuple(sorted({name for fields in members for name in fields})))


@lru_cache(maxsize=1024)  # the items of a batch have the same mistake
def _nearest(key: str, known: tuple[str, ...]) -> str | None:
    found = difflib.get_close_matches(key, known, n=1)
    return found[0] if found else None


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the models that an annotation is made of."""
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
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
    hints = get_type_hints(model)
    return {field.name: hints[field.name] for field in dataclasses.fields(model)}
