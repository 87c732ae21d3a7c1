"""The server's end: in order, whatever happens first."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from service.cli.listening import Server, listen
from service.settings import Settings


@pytest.mark.parametrize("fails", [False, True])
def test_the_lifespan_ends_in_order_even_if_the_end_of_training_fails(caplog, fails: bool) -> None:
    events: list[str] = []

    class App:
        """An app of which every step is recorded."""

        failed_for_good = True

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "lifespan"
            for event in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{event}"
                events.append(event)
                await send({"type": f"lifespan.{event}.complete"})

        def give_up(self) -> None:
            events.append("give up")

        def drain(self) -> None:
            events.append("drain")

        async def ending(self) -> None:
            events.append("ending")
            if fails:
                raise RuntimeError("the trainer is lost")

    server = Server(App(), Settings(), App())
    with caplog.at_level(logging.ERROR):
        asyncio.run(server.serve([listen("127.0.0.1", 0)]))
    assert events == ["startup", "drain", "ending", "shutdown"]
    assert ("the trainer is lost" in caplog.text) is fails
