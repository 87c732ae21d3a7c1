"""What a worker passes on to the keeper: no more than came, no longer than its client waits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.http.budget import BytesInFlight
from service.http.forwarding import Forwarding
from service.http.keepers import CLIENT, KeeperProcess, from_client
from service.observe.counters import Metrics
from service.settings import Settings

WAIT_S = 30.0
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def raw(url: str, path: str) -> bytes:
    """Return the answer to a request without any header but those that HTTP needs."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_the_keeper_gets_no_header_that_the_client_did_not_send(crew) -> None:
    head, _, body = raw(str(crew.clients[1].base_url).rstrip("/"), "/metrics").partition(
        b"\r\n\r\n"
    )
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert len(body) > 16_384  # so that it is compressed for who takes that
    assert b"content-encoding" not in names
    assert body.startswith(b"# HELP")
    assert names.count(b"date") == 1
    assert names.count(b"server") == 1


class Keeper:
    """A keeper that sends one answer without an end.

    Attributes:
        left: Set once the one that asked has left.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "http"
        self.left = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"4\r\nrow\n\r\n")
        await reader.read()
        self.left.set()
        writer.close()


@contextlib.asynccontextmanager
async def forwarding(**limits: Any) -> AsyncIterator[tuple[Keeper, Forwarding]]:
    """Yield a keeper, and a process that passes on to it."""
    settings = Settings(**limits)
    with tempfile.TemporaryDirectory() as folder:  # a short path, as sockets need it
        keeper = Keeper(Path(folder))
        server = await asyncio.start_unix_server(keeper.answer, keeper.path)
        budget = BytesInFlight(1 << 20, "max_bytes_in_flight")
        async with (
            server,
            Forwarding(
                _nothing,
                (),
                KeeperProcess(keeper.path, 1),
                lambda: None,
                Metrics(),
                settings,
                budget,
            ).running() as app,
        ):
            yield keeper, app


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("it is passed on")


def scope_of(method: str, *headers: tuple[bytes, bytes]) -> Scope:
    return {
        "type": "http", "method": method, "path": "/bandits/shop", "query_string": b"",
        "raw_path": b"/bandits/shop", "headers": [(b"host", b"bandits"), *headers],
        "client": ("127.0.0.1", 1),
    }  # fmt: skip


async def answered(app: Forwarding, scope: Scope, *messages: Message) -> list[Message]:
    """Return what is sent; the client goes silent after its messages."""
    coming, sent = list(messages), []

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    async def send(message: Message) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), WAIT_S)
    return sent


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    async def scene() -> None:
        async with forwarding(body_timeout_s=0.05) as (_, app):
            scope = scope_of("PUT", (b"content-length", b"9"))
            part = {"type": "http.request", "body": b"{", "more_body": True}
            start, _ = await answered(app, scope, part)
            assert start["status"] == 408

    asyncio.run(scene())


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_not_passed_on_beyond_the_limit(announced) -> None:
    async def scene() -> None:
        async with forwarding(max_body_bytes=1024) as (_, app):
            header = (
                (b"content-length", b"2048") if announced else (b"transfer-encoding", b"chunked")
            )
            part = {"type": "http.request", "body": b" " * 2048, "more_body": True}
            start, _ = await answered(app, scope_of("PUT", header), part)
            assert start["status"] == 413

    asyncio.run(scene())


def test_an_answer_ends_when_its_client_leaves() -> None:
    async def scene() -> None:
        async with forwarding() as (keeper, app):
            sent: list[Message] = []
            begun, left = asyncio.Event(), asyncio.Event()

            async def receive() -> Message:
                if left.is_set():
                    return {"type": "http.disconnect"}
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: Message) -> None:
                sent.append(message)
                if message.get("body"):
                    begun.set()

            serving = asyncio.create_task(app(scope_of("GET"), receive, send))
            await asyncio.wait_for(begun.wait(), WAIT_S)
            left.set()
            await asyncio.wait_for(serving, WAIT_S)
            await asyncio.wait_for(keeper.left.wait(), WAIT_S)
            assert b"".join(message.get("body", b"") for message in sent) == b"row\n"

    asyncio.run(scene())


def test_a_client_is_whoever_a_trusted_proxy_says() -> None:
    scope = scope_of("GET", (CLIENT, b"two words 0"))
    assert from_client(scope)["client"] == ("two words", 0)
