"""A server for the duration of a campaign: a subprocess on a free port with a temporary folder.

The simulator's main thread owns it; a daemon thread drains its stdout. The service is not imported:
the contract is its command line and the first line on stdout, a JSON object with event, url and
pid. The end of the context ends the process (SIGTERM, then SIGKILL after a grace period) and
removes the folder, also when a signal ends the simulator: see `interruptible`.
"""

from __future__ import annotations

import atexit
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Self

from bandexa_client import NO_RETRY, BanditClient, ServiceUnavailable

# Starts the server that is installed beside this package. The current folder may contain another
# `service` package: -P removes that folder from the import path.
_START = """
import sys
root = sys.argv[1]
sys.argv[:2] = ["bandexa"]
if root not in sys.path:
    sys.path.insert(0, root)
from service.cli import main
main()
"""
_SERVE = (sys.executable, "-P", "-c", _START, str(Path(__file__).parents[1]), "serve")
_LOG_LINES = 20
_POLL_S = 0.05
_DEATH_GRACE_S = 1.0


class ServerFailedError(Exception):
    """The private server did not start or ended by itself; the message ends with its log."""


class Interrupted(BaseException):
    """The simulator received SIGINT or SIGTERM; no Exception, so that no handler catches it."""


class PrivateServer:
    """A server subprocess as a context manager; `url` is set inside the context.

    Args:
        device: `auto`, `cpu` or `cuda` for the trainer; None: the server's default.
        durability: `os` or `commit`.
        replay_dir: folder of the replay; None: inside the data directory.
        command: starts the server; options are appended.
        start_timeout_s: most time until the server is ready.
        stop_timeout_s: grace period between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        durability: str = "os",
        replay_dir: Path | None = None,
        command: Sequence[str] = _SERVE,
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = 20.0,
    ) -> None:
        self.url = ""
        self._options = ["--port", "0", "--host", "127.0.0.1", "--durability", durability]
        if device is not None:
            self._options += ["--device", device]
        if replay_dir is not None:
            self._options += ["--replay-dir", str(replay_dir.absolute())]
        self._command = list(command)
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it is ready.

        Raises:
            ServerFailedError: the server ended, or was not ready in time.
        """
        deadline = time.monotonic() + self._start_timeout_s
        atexit.register(self.close)  # for a signal at the start or the end of the context
        try:
            # A signal between fork and assignment would leave a process without an owner.
            with _signals_deferred():
                self._launch()
            self.url = self._listening_url(deadline)
            self._wait_ready(deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the server and remove its folder; a second call does nothing."""
        try:
            if self._process is not None:
                _end(self._process, self._stop_timeout_s)
                self._process = None
        finally:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None
        atexit.unregister(self.close)

    def failure(self) -> str | None:
        """Return how the server ended and the tail of its log; None while it runs.

        A connection breaks before the process has ended, so this waits briefly for the end.
        """
        if self._process is None:
            return None
        try:
            status = self._process.wait(_DEATH_GRACE_S)
        except subprocess.TimeoutExpired:
            return None
        return f"the private server ended by itself (exit status {status}){self._log_tail()}"

    def _launch(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bandexa-simulate-")
        folder = Path(self._folder.name)
        command = [*self._command, *self._options, "--data-dir", str(folder / "data")]
        with (folder / "server.log").open("w", encoding="utf-8") as log:
            # A new session: Ctrl-C in a terminal reaches the simulator alone; it ends the server.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def _listening_url(self, deadline: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        first_line: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(
            target=_drain, args=(self._process.stdout, first_line), daemon=True
        ).start()
        try:
            line = first_line.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise self._not_ready() from None
        try:
            announcement = json.loads(line)
            return str(announcement["url"])
        except (ValueError, KeyError, TypeError):
            reason = self.failure() or f"the private server announced itself as {line!r}"
            raise ServerFailedError(reason) from None

    def _wait_ready(self, deadline: float) -> None:
        with BanditClient(self.url, timeout_s=5.0, retry=NO_RETRY, trust_env=False) as client:
            while True:
                try:
                    if client.ready():
                        return
                except ServiceUnavailable:
                    failure = self.failure()
                    if failure is not None:
                        raise ServerFailedError(failure) from None
                if time.monotonic() > deadline:
                    raise self._not_ready()
                time.sleep(_POLL_S)

    def _not_ready(self) -> ServerFailedError:
        return ServerFailedError(
            f"the private server was not ready after {self._start_timeout_s:g} s{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        assert self._folder is not None
        log = Path(self._folder.name) / "server.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return "\n  ".join(["; its log ends with:", *lines]) if lines else ""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread on SIGINT and SIGTERM, so that contexts end."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    with _handling(interrupt):
        yield


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defer SIGINT and SIGTERM to the end of the block. The child does not inherit this."""
    arrived: list[int] = []
    try:
        with _handling(lambda number, frame: arrived.append(number)):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def _handling(handler: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _drain(stdout: IO[str], first_line: queue.SimpleQueue[str]) -> None:
    """Pass on the first line, then read the rest so that the pipe does not fill up."""
    with stdout:
        first_line.put(stdout.readline())
        for _ in stdout:
            pass


def _end(process: subprocess.Popen[str], timeout_s: float) -> None:
    try:
        process.terminate()
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # A second Ctrl-C during the wait gets here, too.
        if process.poll() is None:
            process.kill()
            process.wait()
