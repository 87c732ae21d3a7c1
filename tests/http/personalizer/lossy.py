"""A proxy that passes each request on, and drops the answer to the first try of each.

It closes the connection, or answers 504, as gateways do: SDKs try a POST again after that alone.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SKIPPED = ("transfer-encoding", "connection", "content-length", "date", "server")


class Lossy:
    """What passed through it.

    Args:
        upstream: Where requests are passed on to.
        status: What it answers in place of what it drops; None: it closes the connection.

    Attributes:
        url: Where it listens.
        tries: How often each request was sent, by method, path and body.
    """

    def __init__(self, upstream: str, status: int | None = None) -> None:
        self.tries: Counter[tuple[str, str, bytes]] = Counter()
        proxy, host = self, upstream.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                sent = {k: v for k, v in self.headers.items() if k.lower() not in _SKIPPED}
                connection = http.client.HTTPConnection(host)
                connection.request(self.command, self.path, body or None, sent)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                key = self.command, self.path, body
                proxy.tries[key] += 1
                if proxy.tries[key] == 1:
                    self._lose()
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _SKIPPED:
                        self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("content-length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(content)

            def _lose(self) -> None:
                self.close_connection = True
                if status is not None:
                    self.send_response(status)
                    self.send_header("content-length", "0")
                    self.send_header("connection", "close")
                    self.end_headers()

            do_GET = do_POST = do_PUT = do_DELETE = _pass

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Lossy]:
        """Serve until the exit."""
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
