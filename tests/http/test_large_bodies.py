"""A body of 100 MB is refused with 413 and not held in memory; the server answers as before."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

SIZE = 100_000_000
PIECE = b" " * 100_000
MOST_KB = 40_000


def most_memory_kb(pid: int) -> int:
    """Return the most memory that a process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.fixture(scope="module")
def watched(start_module_server, api_of) -> Iterator[tuple[int, object]]:
    """A separate server, whose memory no other test raises: its process id and calls to it."""
    server = start_module_server()
    with server.client() as client:
        yield server.pid, api_of(client)


def answer_to_all(url: str, announced: bool) -> bytes:
    """Send the whole body whether or not it is refused meanwhile; returns what was answered."""
    address = urlsplit(url)
    assert address.hostname is not None
    length = f"Content-Length: {SIZE}" if announced else "Transfer-Encoding: chunked"
    head = (
        "POST /select HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"{length}\r\n\r\n"
    )
    chunk = PIECE if announced else b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
    answer = b""
    with socket.create_connection((address.hostname, address.port or 80), timeout=20) as peer:
        try:
            peer.sendall(head.encode())
            for _ in range(SIZE // len(PIECE)):
                peer.sendall(chunk)
            peer.sendall(b"" if announced else b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before all of it had come
        try:
            while b"\r\n\r\n" not in answer and (received := peer.recv(65536)):
                answer += received
        except ConnectionResetError:
            pass
    return answer


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_of_100_mb_is_refused_and_not_held_in_memory(
    watched, problem, announced: bool
) -> None:
    pid, api = watched
    name = api.two_actions()
    api.teach(name, [1.0, 0.0], "x", 1.0)
    before, scores = most_memory_kb(pid), api.scores(name, [1.0, 0.5])
    content = b" " * SIZE if announced else (PIECE for _ in range(SIZE // len(PIECE)))
    response = api.http.post(
        "/select", content=content, headers={"content-type": "application/json"}
    )
    assert ("content-length" in response.request.headers) is announced
    problem(response, 413, "too-large")
    assert most_memory_kb(pid) - before < MOST_KB
    assert api.scores(name, [1.0, 0.5]) == scores
    api.teach(name, [0.0, 1.0], "y", 1.0)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_client_that_sends_on_after_the_refusal_takes_no_memory(watched, announced: bool) -> None:
    pid, api = watched
    name = api.two_actions()
    before = most_memory_kb(pid)
    for _ in range(2):
        answer = answer_to_all(str(api.http.base_url), announced)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")
    assert most_memory_kb(pid) - before < MOST_KB
    api.teach(name, [0.0, 1.0], "y", 1.0)
