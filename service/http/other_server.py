"""The server that is the keeper, as another one that shares its database passes requests on.

A call counts at the server that its caller has called, here, and not at the keeper once more: it
goes there with a proof of that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
from starlette.requests import Request
from starlette.types import Scope

from service.http import auth
from service.http.keepers import PASSED_ON
from service.http.keys import Keys
from service.http.schemas.health import Health
from service.serving.replica import Replica
from service.store.errors import StoreError, Unavailable
from service.store.sharing import Member

T = TypeVar("T")
log = logging.getLogger(__name__)
LOOKED_S = 0.2  # whether the keeper is still the same one
FOLLOWS_WITHIN_S = 2.0  # what a change at the keeper has led to; otherwise it comes later


class OtherServer:
    """The keeper is another server, and changes.

    Args:
        member: This server among those that share the database.
        replica: Follows the keeper.
        keys: Whose rates hold.
        key_headers: Where a caller's key may be, beside a bearer token.
    """

    socket: Path | None = None
    own_paths = frozenset(("/metrics",))

    def __init__(
        self, member: Member, replica: Replica, keys: Keys, key_headers: Collection[str]
    ) -> None:
        self._member = member
        self._replica = replica
        self._keys = keys
        self._key_headers = key_headers

    def health(self, failure: str | None) -> Health:
        """Return how this server is."""
        status = "ready" if failure is None else "not ready"
        return Health(status=status, detail=failure, server=self._member.number + 1, role="replica")

    def refusal(self, scope: Scope) -> Unavailable | None:
        """Refuse what another server has passed on: it would go round."""
        if any(name == PASSED_ON for name, _ in scope["headers"]):
            return Unavailable("the keeper has changed, or `server_url` leads to this server")
        return None

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Count a call of a key that has a rate; returns the headers that prove it to the keeper.

        What the keeper refuses without counting it, such as an unknown key, is left to it.

        Raises:
            TooManyCalls: The key has made too many.
        """
        passed_on = (PASSED_ON, b"1")
        request = Request(scope)
        found = (request.headers.get(name, "").strip() for name in self._key_headers)
        key = next(filter(None, found), None) or auth.bearer_of(request)
        holder = None if key is None else self._keys.holder(key)
        if holder is None or holder.rate is None:
            return [passed_on]
        self._keys.rates.charge(holder)
        return [passed_on, (auth.COUNTED.encode(), self._keys.rates.secret.encode())]

    def url(self) -> httpx.URL:
        """Return its address.

        Raises:
            Unavailable: No server is the keeper now.
        """
        url = self._member.keeper_url
        if url is None:
            raise Unavailable("no server administers the others now: one takes that over")
        return httpx.URL(url)

    async def answered(self, asked: Coroutine[Any, Any, T]) -> T:
        """Return what a request to the keeper returns; one that is away may never answer.

        Raises:
            Unavailable: Another server is the keeper now, or none.
        """
        keeper = self._member.keeper_url
        asking = asyncio.ensure_future(asked)
        try:
            while not asking.done():
                if self._member.keeper_url != keeper:
                    raise Unavailable("the server that administers the others went away: repeat it")
                await asyncio.wait({asking}, timeout=LOOKED_S)
            return asking.result()
        finally:
            if not asking.done():
                asking.cancel()
                with suppress(asyncio.CancelledError, httpx.HTTPError):
                    await asking

    async def followed(self) -> None:
        """Return once this server serves what the keeper has just changed.

        So a client that asks here for what it changed here finds it.
        """
        try:
            async with asyncio.timeout(FOLLOWS_WITHIN_S):
                await self._replica.caught_up()
        except (TimeoutError, StoreError) as error:  # the change is made, and is followed later
            log.warning("what the keeper has changed is not served here yet: %s", error or "slow")
