"""A proxy between a client and a real server that fails as a scene says.

`faults` is a list of `{"on": PATH, "do": FAULT, ...}`. Each is used once, in order, by the first
request to its path; other requests pass. What the faults do:

    pass          nothing: a later fault on this path is for a later request
    cut           the connection is closed, and the server sees nothing
    lose          the server gets the request, and the connection is closed instead of an answer
    answer        `status`, `headers` and `body` are answered, and the server sees nothing
    slow          the server gets the request, and its answer waits for `seconds`
    drip          the answer comes a byte at a time
    other         the answer has another decision's id
    kill          the server is killed before it sees the request, and started again
    lose-kill     the server gets the request, is killed instead of an answer, and started again
    answer-kill   the server gets the request and answers, and is killed and started again

With `items` it waits for a batch of at least so many. While the server starts again, connections
are closed.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.fixtures.servers import Server

_DRIPS = 0.02  # seconds for each byte
_KEPT = ("content-type", "authorization", "accept", "if-match", "if-none-match")
_RETURNED = ("content-type", "etag")


@dataclass(frozen=True)
class Seen:
    """A request that reached the proxy."""

    path: str
    content: bytes
    at: float


class FaultyProxy:
    """One proxy; see the module.

    Args:
        server: The server behind it.
        faults: What goes wrong.
        prefix: Where the server is below the proxy's address.

    Attributes:
        seen: Every request.
        faults: Those that have not happened yet.
    """

    def __init__(self, server: Server, faults: Sequence[dict[str, Any]], prefix: str) -> None:
        self._server = server
        self.faults = list(faults)
        self._prefix = prefix
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._restarting = threading.Lock()
        self._over = threading.Event()

    def requests(self, path: str) -> list[Seen]:
        """Return the requests to a path."""
        return [one for one in self.seen if one.path == path]

    def end(self) -> None:
        """End the faults that wait."""
        self._over.set()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Serve one request."""
        content = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        path = handler.path.removeprefix(self._prefix)
        fault = self._next(path.partition("?")[0], content)
        do = fault["do"]
        if do == "cut" or self._restarting.locked():
            handler.close_connection = True
            return
        if do == "answer":
            body = fault.get("body", "")
            sent = (body if isinstance(body, str) else json.dumps(body)).encode()
            _answer(handler, fault["status"], fault.get("headers", {}), sent)
            return
        if do == "kill":
            self._restart(handler)
            return
        answer = self._forward(handler, path, content)
        if do == "lose":
            handler.close_connection = True
        elif do == "lose-kill":
            self._restart(handler)
        elif do == "answer-kill":
            # The client has its answer, and the next request finds the server away.
            with self._restarting:
                self._pass(handler, answer)
                self._kill_and_start()
        elif do == "slow" and self._over.wait(fault["seconds"]):
            handler.close_connection = True
        elif do == "drip":
            self._drip(handler, answer)
        else:
            self._pass(handler, answer, other=do == "other")

    def _next(self, path: str, content: bytes) -> dict[str, Any]:
        with self._lock:
            self.seen.append(Seen(path, content, time.monotonic()))
            if not self._restarting.locked():
                for fault in self.faults:
                    if fault["on"] == path and _items(content) >= fault.get("items", 0):
                        self.faults.remove(fault)
                        return fault
            return {"do": "pass"}

    def _forward(self, handler: BaseHTTPRequestHandler, path: str, content: bytes) -> Any:
        headers = {name: handler.headers[name] for name in _KEPT if name in handler.headers}
        url = f"{self._server.url}{path}"
        return httpx.request(
            handler.command, url, content=content, headers=headers, timeout=60, trust_env=False,
            verify=False,
        )  # fmt: skip

    def _restart(self, handler: BaseHTTPRequestHandler) -> None:
        with self._restarting:
            handler.close_connection = True
            self._kill_and_start()

    def _kill_and_start(self) -> None:
        self._server.kill()
        self._server.start()

    def _pass(self, handler: Any, answer: httpx.Response, *, other: bool = False) -> None:
        content = answer.content
        if other:
            content = re.sub(rb'"decision_id":"[^"]*"', b'"decision_id":"of-another"', content)
        headers = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
        _answer(handler, answer.status_code, headers, content)

    def _drip(self, handler: BaseHTTPRequestHandler, answer: httpx.Response) -> None:
        handler.send_response(answer.status_code)
        handler.send_header("content-length", str(len(answer.content)))
        handler.end_headers()
        handler.close_connection = True
        for byte in answer.content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if self._over.wait(_DRIPS):
                return


def _items(content: bytes) -> int:
    """Return how many items a batch has."""
    body = json.loads(content) if content.startswith(b"{") else {}
    return len(body.get("items", ()))


def _answer(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if status != 204:
        handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
    handler.wfile.flush()


@contextmanager
def faulty(
    server: Server, faults: Sequence[dict[str, Any]], prefix: str = ""
) -> Iterator[tuple[str, FaultyProxy]]:
    """Run a proxy; yields its address and itself."""
    proxy = FaultyProxy(server, faults, prefix)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def serve(self) -> None:
            try:
                proxy.handle(self)
            except (BrokenPipeError, ConnectionResetError):  # the client gave up
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}{prefix}", proxy
        finally:
            proxy.end()
            listener.shutdown()
            thread.join()
