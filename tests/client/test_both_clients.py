"""One declaration of every call: both clients have it, typed and documented."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, assert_type

import pytest

from bandexa_client import AsyncBanditClient, BanditClient, BanditState, Selection
from bandexa_client.sharing import Awaiting, Blocking, shared


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    names = [name for name in dir(kind) if not name.startswith("_") and name != "close"]
    return {name: getattr(kind, name) for name in names}


def test_both_clients_have_the_same_calls_with_the_same_signatures() -> None:
    sync, awaited = methods(BanditClient), methods(AsyncBanditClient)
    assert set(sync) == set(awaited)
    assert len(sync) > 12
    for name in sync:
        assert inspect.signature(sync[name]) == inspect.signature(awaited[name])
        assert inspect.getdoc(sync[name]) == inspect.getdoc(awaited[name])
        assert inspect.getdoc(sync[name])
    assert inspect.signature(BanditClient) == inspect.signature(AsyncBanditClient)


def test_only_the_calls_of_one_are_awaited() -> None:
    assert not any(inspect.iscoroutinefunction(call) for call in methods(BanditClient).values())
    assert all(inspect.iscoroutinefunction(call) for call in methods(AsyncBanditClient).values())


def test_type_checkers_see_what_a_call_returns() -> None:
    """mypy checks this function; it is not run."""

    def blocking(client: BanditClient) -> None:
        assert_type(client.get_bandit("b"), BanditState)
        assert_type(client.select("b", [1.0], k=2), Selection)
        client.select("b")  # type: ignore[call-arg]
        client.get_bandit(1)  # type: ignore[arg-type]

    async def awaiting(client: AsyncBanditClient) -> None:
        assert_type(await client.get_bandit("b"), BanditState)
        assert_type(asyncio.create_task(client.select("b", [1.0])), asyncio.Task[Selection])
        await client.select("b")  # type: ignore[call-arg]

    assert callable(blocking)
    assert callable(awaiting)


class _Doubling:
    async def _number(self) -> int:
        return 2

    @shared
    async def doubled(self, value: int) -> int:
        """Return twice a value."""
        if value < 0:
            raise ValueError("below 0")
        return await self._number() * value

    @shared
    async def waiting(self) -> None:
        """Suspend."""
        await asyncio.sleep(0)


class _Blocking(Blocking, _Doubling):
    pass


class _Awaiting(Awaiting, _Doubling):
    pass


def test_a_shared_method_returns_or_is_awaited() -> None:
    assert _Blocking().doubled(4) == 8
    assert asyncio.run(_Awaiting().doubled(4)) == 8
    with pytest.raises(ValueError, match="below 0"):
        _Blocking().doubled(-1)


def test_a_blocking_client_that_would_suspend_fails() -> None:
    with pytest.raises(AssertionError, match="waiting of a blocking client suspended"):
        _Blocking().waiting()


def test_a_blocking_client_works_within_an_event_loop() -> None:
    async def inside() -> int:
        return _Blocking().doubled(3)

    assert asyncio.run(inside()) == 6
