"""Clients that send or read slowly, or not at all, take no place from others for long."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.servers import Server, StartServer
from tests.fixtures.waiting import poll

LIMIT = 20
HEAD = b"POST /select HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"400\r\n" + b" " * 1024 + b"\r\n"


class Peers:
    """Connections to a server that are used byte by byte."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._stack = contextlib.ExitStack()

    def connect(self, sent: bytes = b"", receives: int | None = None) -> socket.socket:
        """Open a connection and send something; `receives`: the size of its receive buffer."""
        url = urlsplit(self.server.url)
        peer = self._stack.enter_context(socket.socket())
        peer.settimeout(20)
        if receives is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        peer.connect((url.hostname or "", url.port or 0))
        peer.sendall(sent)
        return peer

    def close(self) -> None:
        self._stack.close()

    def num_queued(self, peer: socket.socket) -> int:
        """Return how many bytes the kernel holds for a peer that has not received them."""
        ports = [f":{address[1]:04X}" for address in (peer.getpeername(), peer.getsockname())]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(ports[0]) and columns[2].endswith(ports[1]):
                return int(columns[4].partition(":")[0], 16)
        return 0

    def num_files(self) -> int:
        """Return how many descriptors the server has."""
        return len(os.listdir(f"/proc/{self.server.pid}/fd"))


@pytest.fixture(scope="module")
def strict(start_module_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with little patience; only this module's tests use it."""
    data: Path = tmp_path_factory.mktemp("strict") / "data"
    limits = {"HEAD_TIMEOUT_S": "1", "MAX_CONNECTIONS": LIMIT, "MAX_BODY_BYTES": "4096"}
    env = {f"BANDEXA_{name}": str(value) for name, value in limits.items()}
    return start_module_server(data, env=env)


@pytest.fixture
def peers(strict: Server) -> Iterator[Peers]:
    peers = Peers(strict)
    yield peers
    peers.close()


def is_closed(peer: socket.socket) -> bool:
    """Whether the other end closed it; what it sent before is dropped."""
    peer.setblocking(False)
    try:
        while peer.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def goes_on(peer: socket.socket) -> bool:
    """Send one more chunk; whether the server still takes it."""
    peer.setblocking(False)
    try:
        peer.send(CHUNK)
    except BlockingIOError:
        pass
    except ConnectionError:
        return False
    return True


def answered(peer: socket.socket) -> bytes:
    """Return an answer, or what came of it before the connection was closed."""
    received: bytes = peer.recv(65536)
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", received)
    while length and len(received.partition(b"\r\n\r\n")[2]) < int(length[1]):
        more = peer.recv(65536)
        if not more:
            break
        received += more
    return received


def test_heads_that_do_not_end_in_time_are_closed(peers: Peers) -> None:
    silent, half = peers.connect(), peers.connect(HEAD + b"X-Slow: ")
    used = peers.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answered(used).startswith(b"HTTP/1.1 200 ")
    used.sendall(HEAD)  # half of the next one
    blank = peers.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answered(blank).startswith(b"HTTP/1.1 200 ")
    blank.sendall(b"\r\n")  # no request begins with it, and it is no idle connection either
    slow = peers.connect(HEAD)

    def drips() -> bool:
        with contextlib.suppress(ConnectionError, BlockingIOError):
            slow.send(b"X: y\r\n")
        return is_closed(slow)

    poll(drips, "the end of a head that goes on and on")
    for peer in (silent, half, used, blank):
        poll(lambda peer=peer: is_closed(peer), "the end of a half request")  # type: ignore[misc]


def test_an_endless_body_is_cut_after_its_answer(peers: Peers) -> None:
    large = peers.connect(CHUNKED)  # 413 after 4096 bytes
    unread = peers.connect(b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert answered(unread).startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 403 "))
    open_ones = {large, unread}

    def cut() -> bool:
        open_ones.difference_update([peer for peer in open_ones if not goes_on(peer)])
        return not open_ones

    poll(cut, "the end of both bodies")


def test_the_kernel_takes_little_of_an_answer_that_nobody_reads(peers: Peers) -> None:
    """It took more than a megabyte of each: the copy held the event loop, and memory."""
    peer = peers.connect(receives=4096)
    peer.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
    queued: list[int] = []

    def is_full() -> bool:
        queued.append(peers.num_queued(peer))
        return queued[-1] > 0 and queued[-3:] == queued[-1:] * 3

    poll(is_full, "an answer that waits")
    assert queued[-1] < 512 << 10


def test_a_crowd_of_half_requests_does_not_lock_others_out(peers: Peers, strict: Server) -> None:
    before = peers.num_files()
    crowd = []
    for number in range(5 * LIMIT):
        crowd.append(peers.connect((HEAD, CHUNKED, b"")[number % 3]))
        if number % 10 == 0:
            with strict.client() as client:
                assert client.get("/readyz").status_code == 200
    assert peers.num_files() < before + 2 * LIMIT
    poll(lambda: sum(is_closed(peer) for peer in crowd) >= 4 * LIMIT, "room made for new ones")
    peers.close()
    poll(lambda: peers.num_files() <= before, "as many descriptors as before")
    poll(lambda: "connections closed: " in strict.log_text(), "a line of the log")


def test_slow_bodies_make_room_before_a_connection_that_was_just_used(peers: Peers) -> None:
    request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    used = peers.connect(request)
    assert answered(used).startswith(b"HTTP/1.1 200")
    since = time.monotonic()
    slow = [peers.connect(CHUNKED + b"1\r\n{\r\n") for _ in range(LIMIT - 1)]
    poll(lambda: time.monotonic() > since + 1.5, "a connection that was used a while ago")
    for _ in range(5):
        assert answered(peers.connect(request)).startswith(b"HTTP/1.1 200")
    used.sendall(request)
    assert answered(used).startswith(b"HTTP/1.1 200")
    assert any(is_closed(peer) for peer in slow)


def test_a_request_whose_body_is_on_its_way_does_not_make_room(peers: Peers) -> None:
    request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(LIMIT - 1):  # all of them have just been used
        assert answered(peers.connect(request)).startswith(b"HTTP/1.1 200")
    under_way = peers.connect(HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert answered(under_way).startswith(b"HTTP/1.1 100 ")
    for _ in range(3):
        assert answered(peers.connect(request)).startswith(b"HTTP/1.1 200")
    under_way.sendall(b"{}")
    assert answered(under_way).startswith(b"HTTP/1.1 4")


def test_when_all_connections_are_under_way_health_checks_pass(
    start_server: StartServer, api_of
) -> None:
    doorway = {"BANDEXA_PERSONALIZER__ENABLED": "true"}
    server: Server = start_server(env={"BANDEXA_MAX_CONNECTIONS": "3"} | doorway)
    api = api_of(server.http)
    name = api.two_actions(
        policy="neural_linear_ts", encoder={"name": "mlp"},
        training={"mode": "lockstep", "optimizer_steps": 100_000},
    )  # fmt: skip
    for number in range(8):
        api.teach(name, [number, 1.0], "x", number / 8)
    peers = Peers(server)
    request = f"POST /bandits/{name}/train?wait=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with contextlib.closing(peers):
        waiting = [peers.connect(request) for _ in range(3)]

        def refused() -> bool:
            with server.client() as client:
                assert client.get("/healthz").status_code == 200
                answer = client.get("/bandits")
                assert answer.status_code in (200, 503)
                return answer.status_code == 503 and check(answer)

        poll(refused, "the limit")
        with server.client() as client:
            told = client.post("/personalizer/v1.0/rank", json={})
        assert told.status_code == 503
        assert told.json()["error"]["message"] == "too many connections are open"
        with server.client() as client:
            metrics = client.get("/metrics").text
        labels = 'method="POST",route="/personalizer",status="503"'
        assert f"bandexa_http_requests_total{{{labels}}} 1.0" in metrics
        assert not any(is_closed(peer) for peer in waiting)


def check(answer: httpx.Response) -> bool:
    assert answer.json()["detail"] == "too many connections are open"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["connection"] == "close"
    return True


@pytest.mark.parametrize("part", ["a value", "headers", "the address"])
def test_a_head_that_is_too_large_is_refused(peers: Peers, part: str) -> None:
    peer = peers.connect(b"GET /" if part == "the address" else HEAD)
    more = b"x: y\r\n" * 10_000 if part == "headers" else b"x" * 60_000
    if part == "a value":
        peer.sendall(b"x: ")
    with contextlib.suppress(ConnectionError):  # it may be closed while this is on its way
        for _ in range(20):
            peer.sendall(more)
    with contextlib.suppress(ConnectionResetError):
        assert peer.recv(1000).startswith(b"HTTP/1.1 431 ")
        assert peer.recv(1000) == b""


def test_trailers_without_end_are_cut(peers: Peers) -> None:
    peer = peers.connect(CHUNKED + b"0\r\n")
    with pytest.raises(ConnectionError):
        peer.sendall(b"x: y\r\n" * 10_000_000)


def test_a_body_in_small_chunks_is_no_head(peers: Peers) -> None:
    body = b"".join(b"1\r\n \r\n" for _ in range(4000))
    peer = peers.connect(CHUNKED)
    peer.sendall(body)
    peer.sendall(b"0\r\n\r\n")
    assert peer.recv(1000).startswith(b"HTTP/1.1 4")
