"""A server for the length of a run: a subprocess on a free port with a temporary folder.

The simulator's main thread owns it; a daemon thread drains its stdout. It is never imported: the
command line and the first line on stdout (a JSON object with event, url and pid) are the contract.
Leaving the context ends the process (SIGTERM, then SIGKILL after a grace period) and removes the
folder, also when the simulator itself is told to end: see `interruptible`.
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
from types import FrameType, TracebackType
from typing import IO, Self

from bandexa_client import NO_RETRY, BanditClient, ServiceUnavailable

# Runs the server of the folder that this package lies in. A folder where the simulator is started
# may have a `service` package of its own: -P leaves it out of the import path.
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
    """The private server did not start, or ended on its own; the message ends with its log."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM reached the simulator; no Exception, so that nothing swallows it."""


class PrivateServer:
    """A server subprocess; use it as a context manager, `url` is set inside.

    Args:
        device: `auto`, `cpu` or `cuda` for its trainer; None: the server's own default.
        durability: `os` or `commit`.
        replay_dir: folder of its replay; None: inside its data folder.
        command: what starts the server, options being appended.
        start_timeout_s: limit until it takes requests.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id; to be asked while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it takes requests.

        Raises:
            ServerFailedError: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + self._start_timeout_s
        atexit.register(self.close)  # should a signal arrive while the context is entered or left
        try:
            # A signal between fork and assignment would leave a process that nobody knows.
            with _signals_deferred():
                self._launch()
            self.url = self._listening_url(deadline)
            self._wait_ready(deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server and remove its folder; closing twice is harmless."""
        try:
            if self._process is not None:
                _end(self._process, self._stop_timeout_s)
                self._process = None
        finally:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None
        atexit.unregister(self.close)

    def obituary(self) -> str | None:
        """Return how the server ended with the tail of its log, None while it runs.

        A lost connection is noticed before the process is gone, so this waits a moment for the end.
        """
        if self._process is None:
            return None
        try:
            status = self._process.wait(_DEATH_GRACE_S)
        except subprocess.TimeoutExpired:
            return None
        return f"the private server ended on its own (exit status {status}){self._log_tail()}"

    def _launch(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bandexa-simulate-")
        folder = Path(self._folder.name)
        command = [*self._command, *self._options, "--data-dir", str(folder / "data")]
        with (folder / "server.log").open("w", encoding="utf-8") as log:
            # Its own session: Ctrl-C in a terminal is for the simulator, which ends the server.
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
            reason = self.obituary() or f"the private server announced itself as {line!r}"
            raise ServerFailedError(reason) from None

    def _wait_ready(self, deadline: float) -> None:
        with BanditClient(self.url, timeout_s=5.0, retry=NO_RETRY, trust_env=False) as client:
            while True:
                try:
                    if client.ready():
                        return
                except ServiceUnavailable:
                    obituary = self.obituary()
                    if obituary is not None:
                        raise ServerFailedError(obituary) from None
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
    """Turn SIGINT and SIGTERM into `Interrupted` in the main thread, so that contexts are left."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    with _handling(interrupt):
        yield


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block is left. The child does not inherit this."""
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
        yield  # signals are delivered to the main thread alone
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _drain(stdout: IO[str], first_line: queue.SimpleQueue[str]) -> None:
    """Hand over the first line, then keep the pipe from filling up."""
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
        # Also reached by a second Ctrl-C during the wait.
        if process.poll() is None:
            process.kill()
            process.wait()
