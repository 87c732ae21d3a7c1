"""Who may call which route: each route declares its scope, and is guarded before its body is read.

Every route of the app is a `GuardedRoute` made with `openapi_extra=needs(...)`; one without a
declaration fails when it is made, one of another class when the app is. Runs on the event loop.
Administrative calls and refused ones are told to the logger `bandexa.audit`, never with a key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute

from service.http.errors import Forbidden, Unauthorized
from service.http.keys import Keys
from service.observe.logs import AUDIT
from service.settings import KeySetting, Scope

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
ANONYMOUS = "(anonymous)"
DECLARED = "x-required-scope"
_SCHEME = "apiKey"

audit = logging.getLogger(AUDIT)


def needs(scope: Scope | Literal["public", "any"]) -> dict[str, Any]:
    """Return the `openapi_extra` that declares what a key must be good for to call a route.

    `public` asks for no key, `any` for a known one whatever its scopes.
    """
    return {DECLARED: scope}


class GuardedRoute(APIRoute):
    """A route that looks at the API key before anything else."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's handler.

        Raises:
            ValueError: The route does not declare its scope.
        """
        scope = (self.openapi_extra or {}).get(DECLARED)
        if scope is None:
            raise ValueError(f"{self.path}: declare openapi_extra=needs(...)")
        handler = self.decoding(super().get_route_handler())
        if scope == "public":
            return handler

        async def guarded(request: Request) -> Response:
            keys: Keys = request.app.state.keys
            name = authorize(request, keys, scope) if keys else ANONYMOUS
            if scope != "admin":
                return await handler(request)
            outcome = ""
            try:
                response = await handler(request)
                outcome = str(response.status_code)
                return response
            except BaseException as error:
                outcome = type(error).__name__
                raise
            finally:
                _tell("administrative call", request, name, outcome)

        return guarded

    def decoding(self, handler: Handler) -> Handler:
        """Return the handler that decodes bodies for another; here they are FastAPI's."""
        return handler


def authorize(request: Request, keys: Keys, scope: Scope | Literal["any"]) -> str:
    """Return the name of the key a request carries.

    Raises:
        Unauthorized: It carries none, or one that is not known.
        Forbidden: The key lacks the scope.
    """
    holder = identify(request, keys)
    if scope != "any" and scope not in holder.scopes:
        _tell("refused call", request, holder.name, f"lacks scope {scope}")
        raise Forbidden(f"the key {holder.name!r} lacks the scope {scope!r}")
    return holder.name


def identify(request: Request, keys: Keys) -> KeySetting:
    """Return what is configured for the key a request carries.

    Raises:
        Unauthorized: It carries none, or one that is not known.
    """
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        _tell("refused call", request, ANONYMOUS, "no key")
        raise Unauthorized("send an API key, as `Authorization: Bearer KEY`")
    holder = keys.holder(key.strip())
    if holder is None:
        _tell("refused call", request, ANONYMOUS, "unknown key")
        raise Unauthorized("this API key is not known here")
    return holder


def _tell(event: str, request: Request, key: str, outcome: str) -> None:
    client = request.client.host if request.client else ""
    audit.info(
        event,
        extra={
            "key": key,
            "method": request.method,
            "path": request.url.path[:200],
            "client": client,
            "outcome": outcome,
        },
    )


def include_guarded(app: FastAPI, routers: Sequence[APIRouter], keys: Keys) -> None:
    """Give the app its routes and keys; with any, its OpenAPI says so.

    Raises:
        ValueError: A route is not guarded.
    """
    app.state.routes = []  # all of them, for the reference pages; FastAPI keeps routers alone
    for router in routers:
        for route in router.routes:
            if not isinstance(route, GuardedRoute):
                raise ValueError(f"{route} is not a GuardedRoute")
            app.state.routes.append(route)
        app.include_router(router)
    app.state.keys = keys
    if not keys:
        return
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schemes = schema["components"].setdefault("securitySchemes", {})
        schemes[_SCHEME] = {"type": "http", "scheme": "bearer"}
        for methods in schema["paths"].values():
            for operation in methods.values():
                scope = operation[DECLARED]
                if scope == "public":
                    continue
                operation["security"] = [{_SCHEME: []}]
                refused = {"401": {"description": "No API key, or an unknown one"}}
                if scope != "any":
                    refused["403"] = {"description": f"The key lacks the scope {scope}"}
                operation["responses"] |= refused
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
