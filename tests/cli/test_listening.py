"""The server's end: in order, whatever happens first."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from service.cli.listening import Server, listen


@pytest.mark.parametrize("fails", [False, True])
def test_the_lifespan_ends_in_order_even_if_the_end_of_training_fails(caplog, fails: bool) -> None:
    events: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        for event in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{event}"
            events.append(event)
            await send({"type": f"lifespan.{event}.complete"})

    async def ending() -> None:
        events.append("ending")
        if fails:
            raise RuntimeError("the trainer is lost")

    server = Server(app, lambda: True, ending, keep_alive_s=1.0)
    with caplog.at_level(logging.ERROR):
        asyncio.run(server.serve([listen("127.0.0.1", 0)]))
    assert events == ["startup", "ending", "shutdown"]
    assert ("the trainer is lost" in caplog.text) is fails
