"""A server that answers as it is told, and records what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SELECTED = {
    "decision_id": "d", "action": {"id": "a", "index": 0}, "score": 0.5, "propensity": 0.25,
    "snapshot": 1, "position": 2,
}  # fmt: skip


@dataclass
class Script:
    """Answers to come, the last of which is repeated: (status, body, headers), or None to hang up.

    Attributes:
        asked: (path, decoded body) of every request.
    """

    answers: list[tuple[int, Any, dict[str, str]] | None] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def then(self, status: int, body: Any, **headers: str) -> Script:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.answers.append((status, body, named))
        return self

    def then_hang_up(self) -> Script:
        self.answers.append(None)
        return self

    def bodies(self) -> list[Any]:
        return [body for _, body in self.asked]


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                script.asked.append((self.path, json.loads(content) if content else None))
                answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            if answer is None:
                self.close_connection = True
                return
            status, body, headers = answer
            encoded = json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        script.url = f"http://127.0.0.1:{server.server_port}"
        yield script
        server.shutdown()
        thread.join()


@pytest.fixture
def selected() -> dict[str, Any]:
    return dict(SELECTED)
