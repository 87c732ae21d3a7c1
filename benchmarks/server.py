"""The server processes of measurements and proofs; nothing else here starts one.

A `Server` belongs to one data directory. It runs in a process of its own, writes its log beside
that directory, and can be killed and started again on it. Leaving the context ends the process.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
READY_WITHIN_S = 90.0
_STOP_WITHIN_S = 30.0
_SERVE = ("-m", "service.cli", "serve")


class ServerFailed(Exception):
    """A server did not start; the message ends with the end of its log."""


class Server:
    """A server on one data directory.

    Args:
        data_dir: Its data directory, which it may create.
        durability: `os` or `commit`.
        environment: Variables that are added to those of this process.
        checkout: The root of the checkout whose code runs.
        command: Arguments of Python that start a server; options are appended.
        cores: The CPU cores that it may use; None: all.
        device: What its trainer uses, `cpu` or `cuda`.

    Attributes:
        url: Its address; None while it is down.
        log: The file that its standard error goes to.
        ready_s: The seconds of each start, from its beginning until the server listened.
    """

    def __init__(
        self,
        data_dir: Path,
        durability: str = "os",
        *,
        environment: Mapping[str, str] | None = None,
        checkout: Path = ROOT,
        command: Sequence[str] = _SERVE,
        cores: Collection[int] | None = None,
        device: str = "cpu",
    ) -> None:
        self.data_dir = data_dir
        self.url: str | None = None
        self.log = data_dir.with_suffix(".log")
        self.ready_s: list[float] = []
        self._durability = durability
        self._device = device
        self._environment = code_of(checkout) | dict(environment or {})
        self._checkout = checkout
        self._command = command
        self._cores = cores
        self._process: subprocess.Popen[str] | None = None
        self._spawned = 0.0

    def __enter__(self) -> Self:
        self.spawn()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.ended() is None:
                self.stop()
        finally:
            self.close()

    def spawn(self) -> None:
        """Start the process; `wait_ready` waits until it listens."""
        command = [
            sys.executable, *self._command, "--host", "127.0.0.1", "--port", "0",
            "--device", self._device, "--durability", self._durability,
            "--data-dir", str(self.data_dir),
        ]  # fmt: skip
        self._spawned = time.perf_counter()
        with self.log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                env=self._environment, cwd=self._checkout,
            )  # fmt: skip
        if self._cores is not None:
            os.sched_setaffinity(self._process.pid, self._cores)  # its threads and children inherit

    def wait_ready(self) -> None:
        """Wait until it listens.

        Raises:
            ServerFailed: It ended instead, or was silent for too long.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        silent = not select.select([self._process.stdout], [], [], READY_WITHIN_S)[0]
        line = "" if silent else self._process.stdout.readline()
        if not line:
            if not silent:
                self.ended(_STOP_WITHIN_S)  # what it logs in the end is complete then
            self.close()
            raise ServerFailed(f"the server did not start: {self.log.read_text()[-2000:]}")
        self.ready_s.append(time.perf_counter() - self._spawned)
        self.url = str(json.loads(line)["url"])

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self.url = None
        self._process.kill()
        self._process.communicate()

    def stop(self) -> int:
        """End it with SIGTERM, as an operator does; returns its exit status."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=_STOP_WITHIN_S)
        return self._process.returncode

    def ended(self, within_s: float = 0.0) -> int | None:
        """Return its exit status; None if it still runs after so many seconds."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Kill it if it still runs."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self.kill()
        elif self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def address(self) -> str:
        """Its address, for as long as it runs."""
        assert self.url is not None
        return self.url

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid


@contextmanager
def temporary_server(**options: Any) -> Iterator[Server]:
    """Run a server on a data directory that is removed in the end; `options` as of `Server`."""
    with (
        tempfile.TemporaryDirectory(prefix="bandexa-benchmark-") as folder,
        Server(Path(folder) / "data", **options) as server,
    ):
        yield server


def code_of(checkout: Path) -> dict[str, str]:
    """Return the environment in which Python imports the packages of a checkout."""
    path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
