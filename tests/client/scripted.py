"""A server with scripted answers, and an asynchronous client that is called like the other."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bandexa_client import AsyncBanditClient, BanditClient

Connect = Callable[..., BanditClient]


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
