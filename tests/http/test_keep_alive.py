"""Connections without requests are closed after the time that the settings say, not before."""

from __future__ import annotations

import select
import socket
from urllib.parse import urlsplit

from tests.fixtures.waiting import poll

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connected(url: str) -> socket.socket:
    """Return a connection that has had one answer."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port or 80), 60)
    assert asked(connection).startswith(b"HTTP/1.1 200")
    return connection


def asked(connection: socket.socket) -> bytes:
    connection.sendall(REQUEST)
    return connection.recv(65536)


def is_closed(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0.05)
    return bool(readable) and connection.recv(1) == b""


def test_a_connection_is_closed_after_its_time_and_usable_until_then(start_server, server) -> None:
    short = start_server(env={"BANDEXA_KEEP_ALIVE_S": "1"})
    with connected(server.url) as lasting, connected(short.url) as brief:
        poll(lambda: is_closed(brief), "the end of the idle connection")
        assert not is_closed(lasting)
        assert asked(lasting).startswith(b"HTTP/1.1 200")
