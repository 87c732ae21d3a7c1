"""Clients of both kinds, and a server with scripted answers for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from bandexa_client import NO_RETRY, AsyncBanditClient, BanditClient
from tests.client.scripted import ECHO, Connect, Driven, Script, scripted


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted() as script:
        yield script


@pytest.fixture
def nobody() -> str:
    """Return an address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Make a client of either kind: `connect(url, **options)`; closed with the test."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def make(url: str, **options: Any) -> BanditClient:
            given: dict[str, Any] = {"timeout_s": 10.0, "retry": NO_RETRY, "trust_env": False}
            given |= options
            if request.param == "sync":
                return stack.enter_context(BanditClient(url, **given))
            client = AsyncBanditClient(url, **given)
            stack.callback(lambda: runner.run(client.close()))
            return cast(BanditClient, Driven(client, runner))

        yield make


@pytest.fixture
def client(script: Script, connect: Connect) -> BanditClient:
    """A client of either kind, of the scripted server."""
    return connect(script.url)


@pytest.fixture
def selected() -> dict[str, Any]:
    return {
        "decision_id": ECHO, "action": {"id": "a", "index": 0}, "score": 0.5, "propensity": 0.25,
        "snapshot": 1, "position": 2,
    }  # fmt: skip
