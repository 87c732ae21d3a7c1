"""Who may call what: each call declares its scope and checks the key before it reads a body.

Every FastAPI route is a `GuardedRoute` made with `openapi_extra=needs(...)`: creating one without
a declaration fails, and so does adding a route of another class. The hot calls declare theirs in
`hot.CALLS`. Runs on the event loop. The logger `bandexa.audit` records administrative calls and
refused ones, never a key.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from service.http.errors import Forbidden, Unauthorized
from service.http.keys import Keys
from service.observe.logs import AUDIT
from service.settings import KeySetting, Scope

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
ANONYMOUS = "(anonymous)"
COUNTED = "x-bandexa-counted"  # by the server that passes a call on: its proof
DECLARED = "x-required-scope"
REACH = "x-key-reach"

audit = logging.getLogger(AUDIT)


def needs(scope: Scope | Literal["public", "any"], *, checks_reach: bool = False) -> dict[str, Any]:
    """Return the `openapi_extra` that declares the scope a key needs to call a route.

    Args:
        scope: `public` needs no key, `any` a known key with whatever scopes.
        checks_reach: Whether the route itself heeds that a key may be limited to bandits. Of others
            those with a bandit in their path are checked, and all others are refused to such keys.
    """
    return {DECLARED: scope, **({REACH: "by the call"} if checks_reach or scope == "any" else {})}


def check_reach(holder: KeySetting | None, bandit: str) -> None:
    """Check that a key may be used for a bandit; whoever has none may be, where none is needed.

    Raises:
        Forbidden: It is limited to others.
    """
    if holder is not None and not holder.reaches(bandit):
        raise Forbidden(f"the key {holder.name!r} does not reach the bandit {bandit!r}")


def _check_path(request: Request, holder: KeySetting) -> None:
    """Check that a key which is limited to bandits may make a call.

    Raises:
        Forbidden: The call is of another bandit, or of the whole server.
    """
    name = request.path_params.get("name")
    try:
        if name is None:
            raise Forbidden(
                f"the key {holder.name!r} is limited to bandits, and this call is of the whole"
                " server"
            )
        check_reach(holder, name)
    except Forbidden:
        record("refused call", request, holder.name, "out of reach")
        raise


class GuardedRoute(APIRoute):
    """A route that checks the API key before anything else."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's handler in the check.

        Raises:
            ValueError: The route does not declare its scope.
        """
        scope = (self.openapi_extra or {}).get(DECLARED)
        if scope is None:
            raise ValueError(f"{self.path}: declare openapi_extra=needs(...)")
        handler = self.decoding(super().get_route_handler())
        if scope == "public":
            return handler

        reach = (self.openapi_extra or {}).get(REACH)

        async def guarded(request: Request) -> Response:
            keys: Keys = request.app.state.keys
            holder = authorize(request, keys, scope) if keys else None
            request.state.holder = holder
            if holder is not None and holder.bandits is not None and reach is None:
                _check_path(request, holder)
            name = ANONYMOUS if holder is None else holder.name
            if scope != "admin":
                return await handler(request)
            outcome = ""
            trail = self.trail(request, name)
            try:
                response = await handler(request)
                outcome = str(response.status_code)
                await trail(response)
                return response
            except BaseException as error:
                outcome = type(error).__name__
                raise
            finally:
                record("administrative call", request, name, outcome)

        return guarded

    def trail(self, request: Request, by: str) -> Callable[[Response], Awaitable[None]]:
        """Return what notes an administrative call once it is answered; nothing does here."""

        async def nothing(response: Response) -> None:
            """Note nothing."""

        return nothing

    def decoding(self, handler: Handler) -> Handler:
        """Return the handler that decodes bodies for `handler`; FastAPI does it here."""
        return handler


def authorize(request: Request, keys: Keys, scope: Scope | Literal["any"]) -> KeySetting:
    """Return the settings of the key a request carries, and count a call of it.

    Raises:
        Unauthorized: It carries none, an unknown one, or one that has ended.
        Forbidden: The key lacks the scope.
        TooManyCalls: It has made too many calls.
    """
    holder = identify(request, keys)
    if scope != "any":
        check_scope(request, holder, scope)
    return holder


def check_scope(request: Request, holder: KeySetting, scope: Scope) -> None:
    """Check that a key may make a call.

    Raises:
        Forbidden: It lacks the scope.
    """
    if scope not in holder.scopes:
        record("refused call", request, holder.name, f"lacks scope {scope}")
        raise Forbidden(f"the key {holder.name!r} lacks the scope {scope!r}")


def identify(request: Request, keys: Keys) -> KeySetting:
    """Return the settings of the key a request carries.

    Raises:
        Unauthorized: It carries none, an unknown one, or one that has ended.
        TooManyCalls: It has made too many calls.
    """
    key = bearer_of(request)
    if key is None:
        record("refused call", request, ANONYMOUS, "no key")
        raise Unauthorized("send an API key, as `Authorization: Bearer KEY`")
    return holder_of(request, keys, key)


def bearer_of(request: Request) -> str | None:
    """Return the key that a request carries as a bearer token, or None."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if kind.lower() == "bearer" else None


def holder_of(request: Request, keys: Keys, key: str) -> KeySetting:
    """Return the settings of a key, and count a call of it.

    A call that another server has passed on was counted there.

    Raises:
        Unauthorized: It is unknown, or has ended.
        TooManyCalls: It has made too many calls.
    """
    holder = keys.holder(key)
    if holder is None:
        record("refused call", request, ANONYMOUS, "unknown key")
        raise Unauthorized("this API key is not known here")
    if holder.expires is not None and datetime.now(UTC) >= holder.expires:
        record("refused call", request, holder.name, "key has ended")
        raise Unauthorized(f"this API key ended at {holder.expires.isoformat()}")
    if not keys.rates.counted_elsewhere(request.headers.get(COUNTED)):
        keys.rates.charge(holder)
    return holder


def record(event: str, request: Request, key: str, outcome: str) -> None:
    """Log an administrative or a refused call; `key`: the name of its holder."""
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


def guarded(routers: Iterable[APIRouter]) -> list[BaseRoute]:
    """Return the routes of routers.

    Raises:
        ValueError: A route is not guarded.
    """
    routes = [route for router in routers for route in router.routes]
    for route in routes:
        if not isinstance(route, GuardedRoute):
            raise ValueError(f"{route} is not a GuardedRoute")
    return routes
