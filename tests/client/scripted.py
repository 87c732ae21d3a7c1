"""A server with scripted answers, and an asynchronous client that is called like the other."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bandexa_client import AsyncBanditClient, BanditClient

Connect = Callable[..., BanditClient]
ECHO = "<as it was sent>"  # as decision id of an answer


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    content: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    status: int
    content: bytes
    headers: dict[str, str]


@dataclass
class Script:
    """Answers to come, the last of which is repeated; None closes the connection instead.

    Attributes:
        requests: Every request so far.
        go_on: While it is cleared, requests wait for their answers.
    """

    url: str = ""
    answers: list[Answer | None] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def then(self, status: int, body: object = None, **headers: str) -> Script:
        """Add an answer: bytes as they are, everything else as JSON, None empty."""
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.answers.append(Answer(status, body, named))
        return self

    def then_hang_up(self) -> Script:
        self.answers.append(None)
        return self

    def always(self, body: object, status: int = 200, **headers: str) -> None:
        """Answer this from here on."""
        self.answers.clear()
        self.then(status, body, **headers)

    def bodies(self) -> list[Any]:
        """Return the decoded bodies of all requests."""
        return [json.loads(one.content) if one.content else None for one in self.requests]

    def sent(self) -> Any:
        """Return the decoded body of the last request."""
        return self.bodies()[-1]

    def asked(self) -> tuple[str, str]:
        """Return method and path of the last request."""
        return self.requests[-1].method, self.requests[-1].path


def _id(content: bytes) -> bytes:
    """Return the decision id of a select, or of the first one of a batch."""
    body = json.loads(content)
    return str(body.get("items", [body])[0].get("decision_id", "made-by-the-server")).encode()


@contextmanager
def scripted() -> Iterator[Script]:
    """Run a server that answers as its script says."""
    script = Script()
    script.go_on.set()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                request = Request(self.command, self.path, content, dict(self.headers))
                script.requests.append(request)
                answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            script.go_on.wait(10)
            if answer is None:
                self.close_connection = True
                return
            if ECHO.encode() in answer.content:
                answer = replace(
                    answer, content=answer.content.replace(ECHO.encode(), _id(content))
                )
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        script.url = f"http://127.0.0.1:{server.server_port}"
        yield script
        script.go_on.set()
        server.shutdown()
        thread.join()


@contextmanager
def dripping(part: str) -> Iterator[str]:
    """Run a server that sends its headers, or its body, a byte at a time; yields its URL."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nX: "
            quick, slow = (
                (head, b"x" * 5000) if part == "headers" else (head + b"x\r\n\r\n", b" " * 5000)
            )
            self.wfile.write(quick)
            for byte in slow:
                if over.wait(0.05):
                    return
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:
                    return

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        over.set()
        server.shutdown()
        thread.join()


class Driven:
    """An asynchronous client whose calls return their results, on an event loop of its own."""

    def __init__(self, client: AsyncBanditClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return partial(self._run, value) if inspect.iscoroutinefunction(value) else value

    def _run(self, method: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return self._runner.run(method(*args, **named))
