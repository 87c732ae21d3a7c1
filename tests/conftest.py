"""A real server as a subprocess, for every test that speaks HTTP; ended by its own pid."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest_plugins = ["tests.api"]
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


class Server:
    """One `bandexa serve` process on a free port.

    Attributes:
        url: Where it listens.
        pid: Its process id.
        data_dir: Its data directory; start another server on it after this one has ended.
        process: The `Popen`.
        log: The file its standard error goes to.
    """

    def __init__(self, data_dir: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        command = [
            sys.executable, "-m", "service.cli", "serve", "--port", "0",
            "--data-dir", str(data_dir), "--durability", "os", *arguments,
        ]  # fmt: skip
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[1],
                env=clean_environment() | (env or {}),
                start_new_session=True,
            )
        self.pid = self.process.pid
        try:
            self.url = str(self._announcement()["url"])
        except BaseException:
            self.kill()
            raise

    def _announcement(self) -> dict[str, Any]:
        """Return the JSON line the server prints once it listens."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        line = b""
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self.process.stdout], [], [], left)
            chunk = os.read(self.process.stdout.fileno(), 4096) if readable else b""
            assert chunk, f"the server does not start:\n{self.log_text()[-3000:]}"
            line += chunk
        found: dict[str, Any] = json.loads(line)
        assert found["event"] == "listening"
        assert found["pid"] == self.pid
        return found

    def log_text(self) -> str:
        """Return what the server and its trainer have written to standard error."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def client(self, **options: Any) -> httpx.Client:
        """Return a new HTTP client; the caller closes it."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def stop(self) -> int:
        """End it with SIGTERM; returns its exit status."""
        self.process.terminate()
        return self._ended()

    def kill(self) -> int:
        """End it with SIGKILL; returns its exit status."""
        self.process.kill()
        return self._ended()

    def _ended(self) -> int:
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of a server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("BANDEXA_")}


StartServer = Callable[..., Server]


@contextlib.contextmanager
def servers(root: Path) -> Iterator[StartServer]:
    """Yield a function that starts servers; those that still run are ended at the exit."""
    started: list[Server] = []

    def start(
        data_dir: Path | None = None, *arguments: str, env: dict[str, str] | None = None
    ) -> Server:
        chosen = data_dir if data_dir is not None else root / f"data{len(started)}"
        started.append(Server(chosen, *arguments, env=env))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            if server.process.poll() is None:
                server.stop()
            elif server.process.stdout is not None:
                server.process.stdout.close()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start a server: `start_server(data_dir=None, *arguments, env=None)`; ended with the test.

    `.stop()` or `.kill()` it and start another on its `.data_dir` to test a restart.
    """
    with servers(tmp_path) as start:
        yield start


@pytest.fixture(scope="session")
def start_session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start a server that lives as long as the test session; arguments as for `start_server`.

    Nothing a test does may bring such a server to log an error.
    """
    started: list[Server] = []
    with servers(tmp_path_factory.mktemp("servers")) as start:

        def start_and_watch(*arguments: Any, **options: Any) -> Server:
            started.append(start(*arguments, **options))
            return started[-1]

        yield start_and_watch
    for server in started:
        assert server.process.returncode == 0
        lines = server.log_text().splitlines()
        assert [line for line in lines if '"level": "error"' in line] == []


@pytest.fixture(scope="session")
def server(start_session_server: StartServer) -> Server:
    """One server for all tests that bring bandit names and decision ids of their own."""
    return start_session_server()


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of the session's server."""
    with server.client() as client:
        yield client
