"""Connections without requests are closed after the time that the settings say, not before."""

from __future__ import annotations

import select
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from tests.fixtures.waiting import poll


def connected(url: str) -> HTTPConnection:
    """Return a connection that has had one answer."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.auto_open = 0  # a second request must not open another one
    connection.connect()
    assert asked(connection) == 200
    return connection


def asked(connection: HTTPConnection) -> int:
    connection.request("GET", "/healthz")
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


def is_closed(connection: HTTPConnection) -> bool:
    readable, _, _ = select.select([connection.sock], [], [], 0.05)
    return bool(readable) and connection.sock.recv(1) == b""


def test_a_connection_is_closed_after_its_time_and_usable_until_then(start_server, server) -> None:
    short = start_server(env={"BANDEXA_KEEP_ALIVE_S": "1"})
    with closing(connected(server.url)) as lasting, closing(connected(short.url)) as brief:
        poll(lambda: is_closed(brief), "the end of the idle connection")
        assert not is_closed(lasting)
        assert asked(lasting) == 200
