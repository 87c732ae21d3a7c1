"""The OpenAPI document: FastAPI's routes, the hot calls beside them, and what needs which key."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from service.http.auth import DECLARED
from service.http.operations import describe
from service.http.schemas.components import REFERENCE, components

LICENSE = {"name": "MIT", "identifier": "MIT"}
_SCHEME = "apiKey"
_PROBLEM = {"$ref": REFERENCE.format(name="Problem")}
_CONTENT: dict[str, Any] = {"content": {"application/problem+json": {"schema": _PROBLEM}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a route's errors."""
    return {status: dict(_CONTENT) for status in (*statuses, 503)}


def typed(request: type[msgspec.Struct], answer: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads and answers structs."""
    return reads(request) | {
        "responses": {"200": {"description": "Successful Response", "content": _content(answer)}},
    }


def reads(request: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads a struct."""
    return {"requestBody": {"required": True, "content": _content(request)}}


def _content(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REFERENCE.format(name=kind.__name__)}}}


def complete(document: dict[str, Any], calls: dict[str, Any], *, keys_needed: bool) -> None:
    """Add the hot calls, the typed bodies and the keys to FastAPI's document, in place.

    Args:
        document: FastAPI's document of its routes.
        calls: The hot calls by path, see `hot.CALLS`.
        keys_needed: Whether the server has API keys.
    """
    document["components"]["schemas"] |= components()
    hot = {}
    for path, call in calls.items():
        described = typed(call.request.kind, call.answer_kind)
        failures = {str(status): {"description": "Refused", **content}
                    for status, content in problems(*call.problems).items()}  # fmt: skip
        described["responses"] |= failures
        hot[path] = {
            "post": {
                "description": _described(call.answer),
                DECLARED: call.scope,
                **described,
            }
        }
    document["paths"] = hot | document["paths"]
    document["info"]["license"] = LICENSE
    document["servers"] = [{"url": "/", "description": "The server that answered this"}]
    describe(document)
    foreign = {"403": _CONTENT | {"description": "Sent by a web page of another site"}}
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"] |= foreign
    if keys_needed:
        _add_keys(document)
    else:
        document["security"] = []


def _described(function: Any) -> str:
    """Return the part of a docstring for callers: all before its sections."""
    text = inspect.getdoc(function) or ""
    return text.partition("\n\nArgs:")[0]


def _add_keys(document: dict[str, Any]) -> None:
    schemes = document["components"].setdefault("securitySchemes", {})
    schemes[_SCHEME] = {"type": "http", "scheme": "bearer"}
    for methods in document["paths"].values():
        for operation in methods.values():
            scope = operation[DECLARED]
            if scope == "public":
                operation["security"] = []
                continue
            operation["security"] = [{_SCHEME: []}]
            refused = {
                "401": _CONTENT | {"description": "No API key, an unknown one, or one that ended"},
                "429": _CONTENT | {"description": "The key made more calls than it may"},
            }
            if scope != "any":
                described = f"The key lacks the scope {scope}, or a page of another site sent it"
                refused["403"] = _CONTENT | {"description": described}
            operation["responses"] |= refused
