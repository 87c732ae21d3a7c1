"""`bandexa serve --workers N`: N processes answer, and one more writes the store for them.

This process starts them, starts those anew that end, and serves nothing itself. The *keeper* has
the store open, and does what must happen once: training, windows, retention, administration. The
workers listen on one port; the kernel spreads connections over them. While the keeper is away, the
workers answer scores, and writes get 503; a worker that is away takes its connections along.

The processes are forked, so that they begin with the imports done. Each ends in order when this
process ends, however that ends: it holds the other end of a pipe. Each has a process group of its
own: Ctrl-C reaches this process alone, so that workers end before the keeper, which they need.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.cli import restarts
from service.cli.certificate import Certificate
from service.cli.listening import listen, listen_privately
from service.cli.process import STORE_FAILED_STATUS, serve_process
from service.observe import logs
from service.serving.lifecycle import KeeperPlace, Place
from service.settings import Settings

log = logging.getLogger(__name__)
KEEPER = 0
ENDS_WITHIN_S = 10.0  # beyond the times of the settings; then it is killed
MAX_FOLDER = 90  # characters: those of a Unix socket's path are 107 at most
BEAT_S = 1.0  # a process that serves says so often that its event loop turns, or more often:
BEATS = 5  # in the time after which one that does not is killed
_CHUNK = 1 << 16


@dataclass(slots=True)
class _Child:
    """One process.

    Attributes:
        number: 0 for the keeper; else that of a worker.
        pid: Its id; 0 while it does not run.
        said: What it has written to its standard output, and not ended by a line feed.
        pipe: That output.
        url: Where it listens; None until it serves.
        started: When it was started.
        backoff_s: How long the next start waits.
        due: When it is started; None while it runs.
        failures: How many starts have failed, one after the other.
        beaten: When its event loop turned last, as far as is known here.
    """

    number: int
    pid: int = 0
    said: bytearray = field(default_factory=bytearray)
    pipe: int = -1
    url: str | None = None
    started: float = 0.0
    backoff_s: float = restarts.FIRST_S
    due: float | None = None
    failures: int = 0
    beaten: float = 0.0

    @property
    def name(self) -> str:
        """Its name in the log."""
        return "keeper" if self.number == KEEPER else f"worker-{self.number}"


class Workers:
    """The processes of a server.

    Args:
        settings: The server's settings, with more than one worker.
        listener: The address, bound by this process alone; the workers bind it anew.
        certificate: What the workers speak TLS with.

    Raises:
        ValueError: The platform cannot do it.
    """

    def __init__(
        self, settings: Settings, listener: socket.socket, certificate: Certificate | None
    ) -> None:
        if not hasattr(socket, "SO_REUSEPORT") or not hasattr(os, "fork"):
            raise ValueError("workers: more than one needs SO_REUSEPORT and fork: Linux, or a BSD")
        host, port = settings.host, listener.getsockname()[1]
        listener.close()  # nobody else had it
        self._reserved = listen(host, port, shared=True)  # and so it stays: it never listens
        self._settings = settings.model_copy(update={"port": port})
        self._certificate = certificate
        self._folder = Path(tempfile.mkdtemp(prefix="bandexa-"))
        if len(str(self._folder)) > MAX_FOLDER:
            self._folder.rmdir()
            raise ValueError(
                f"workers: {tempfile.gettempdir()} is too long a path for Unix sockets: set TMPDIR"
            )
        self._alive, self._lifeline = os.pipe()
        self._children = [_Child(number) for number in range(settings.workers + 1)]
        self._selector = selectors.DefaultSelector()
        self._ending = False
        self._is_urgent = False
        self._announced = False
        self._status: int | None = None
        self._looked = time.monotonic()
        self._beat_s = min(BEAT_S, settings.process_timeout_s / BEATS)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status."""
        gc.collect()
        gc.freeze()  # what the processes share stays shared
        try:
            with self._signals():
                self._start(self._children[KEEPER])
                while self._status is None:
                    self._step()
                return self._status
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Wake the loop at signals: ends of children, SIGTERM, SIGINT, SIGHUP."""
        woken, waker = os.pipe()
        for end in (woken, waker):
            os.set_blocking(end, False)
        before = signal.set_wakeup_fd(waker)
        handlers = {
            number: signal.signal(number, self._caught)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
        }
        self._selector.register(woken, selectors.EVENT_READ)
        self._woken = woken
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _caught(self, number: int, _: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._ending:  # they need not drain any longer
                self._is_urgent = True
                for child in self._children[1:]:
                    if child.pid:
                        _signal(child.pid, signal.SIGTERM)
            self._ending = True
        elif number == signal.SIGHUP:
            if self._settings.keys_file is None:
                self._ending = True
            else:
                self._signal_all(signal.SIGHUP)

    def _step(self) -> None:
        """Wait for something to happen, and see to it."""
        if self._ending:
            self._end()
            return
        due = [child.due for child in self._children if child.due is not None]
        wait_s = max(0.0, min([*(when - time.monotonic() for when in due), self._beat_s]))
        for key, _ in self._selector.select(wait_s):
            if key.fd == self._woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, _CHUNK)
            else:
                self._read(key.data)
        self._reap()
        now = time.monotonic()
        for child in self._children:
            if child.due is not None and child.due <= now and self._status is None:
                self._start(child)
        self._kill_the_hung(now)

    def _kill_the_hung(self, now: float) -> None:
        """Kill the processes whose event loop does not turn: they are started again."""
        hung_s = self._settings.process_timeout_s
        if now - self._looked > hung_s / 2:  # this process stood still itself, and they with it
            for child in self._children:
                child.beaten = now
        self._looked = now
        for child in self._children:
            if child.pid and child.url is not None and now - child.beaten > hung_s:
                log.error(
                    "%s (process %d) has not moved for %.0f s: it is killed", child.name, child.pid,
                    now - child.beaten,
                )  # fmt: skip
                child.beaten = now
                _signal(child.pid, signal.SIGKILL)

    # -- starting -----------------------------------------------------------------------------

    def _start(self, child: _Child) -> None:
        output, theirs = os.pipe()
        with warnings.catch_warnings():
            # The other thread writes log lines. The child begins with a log of its own.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._become(child, theirs)
        os.close(theirs)
        child.pid, child.pipe, child.url, child.due = pid, output, None, None
        child.started = time.monotonic()
        child.said.clear()
        os.set_blocking(output, False)
        self._selector.register(output, selectors.EVENT_READ, child)

    def _become(self, child: _Child, output: int) -> None:
        """Be a process of the server; never returns."""
        status = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            os.close(self._lifeline)
            os.dup2(output, 1)
            os.close(output)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            with contextlib.suppress(OSError):  # as `ps` and `top` show it, on Linux
                Path("/proc/self/comm").write_text(f"bx-{child.name}")
            settings = self._settings
            logs.configure(settings.log_format, settings.log_level, child.name)
            hub, keeper, rates = (self._folder / name for name in ("store", "http", "rates"))
            if child.number == KEEPER:
                self._reserved.close()
                # It ends behind the workers, which have drained then.
                settings = settings.model_copy(update={"drain_s": 0.0})
                status = serve_process(
                    settings, listen_privately(keeper), place=KeeperPlace(hub, rates),
                    beside=_beside(self._alive, self._beat_s),
                )  # fmt: skip
            else:
                listener = listen(settings.host, settings.port, shared=True)
                self._reserved.close()
                status = serve_process(
                    settings, listener, self._certificate, Place(child.number, hub, keeper, rates),
                    beside=_beside(self._alive, self._beat_s),
                )  # fmt: skip
        except Exception:  # the top of a process
            log.exception("the process %s fails", child.name)
        finally:
            logging.shutdown()
            os._exit(status)

    def _read(self, child: _Child) -> None:
        """Read what a process says: one line once it serves, and a byte with each beat."""
        try:
            said = os.read(child.pipe, _CHUNK)
        except (BlockingIOError, OSError):
            return
        if not said:
            self._selector.unregister(child.pipe)
            os.close(child.pipe)
            child.pipe = -1
            return
        child.beaten = time.monotonic()
        if child.url is not None:
            return
        child.said += said
        lines = [line for line in child.said.split(b"\n")[:-1] if line]
        if not lines:
            return
        child.url = json.loads(lines[0])["url"]
        child.failures = 0
        if child.number == KEEPER:
            for other in self._children:
                if not other.pid and other.due is None:
                    self._start(other)
        elif not self._announced and all(one.url for one in self._children):
            self._announced = True
            line = {
                "event": "listening", "url": child.url, "pid": os.getpid(),
                "workers": self._settings.workers,
            }  # fmt: skip
            print(json.dumps(line), flush=True)

    # -- ends ---------------------------------------------------------------------------------

    def _reap(self) -> None:
        """See to the processes that have ended.

        In a container this is the first process, and gets those of others: the trainer's of a
        keeper that was killed.
        """
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, state = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for child in self._children:
                    if child.pid == pid:
                        self._look_after(child, state)

    def _look_after(self, child: _Child, state: int) -> None:
        """Start a process again that has ended with a state."""
        pid = child.pid
        while child.pipe >= 0:  # the rest of what it said
            before = child.pipe
            self._read(child)
            if child.pipe == before:
                self._selector.unregister(child.pipe)
                os.close(child.pipe)
                child.pipe = -1
        child.pid = 0
        if self._ending:
            return
        status = os.waitstatus_to_exitcode(state)
        if not self._announced and child.url is None and status != STORE_FAILED_STATUS:
            # It has said in the log why it cannot start, and the others could not, either.
            self._ending = True
            self._status = status if status > 0 else 1
            self._stop_all()
            return
        lived_s = time.monotonic() - child.started
        child.backoff_s = restarts.backoff_s(child.backoff_s, lived_s)
        child.due = time.monotonic() + child.backoff_s
        how = f"signal {-status}" if status < 0 else f"status {status}"
        log.error(
            "%s (process %d) ended with %s after %.1f s: it is started again", child.name, pid,
            how, lived_s,
        )  # fmt: skip

    def _end(self) -> None:
        """End in order: first the workers, then the keeper, which has to store what they send."""
        self._stop_all()
        self._status = 0

    def _stop_all(self) -> None:
        settings = self._settings
        most_s = settings.drain_s + settings.grace_s + ENDS_WITHIN_S
        for group in (self._children[1:], self._children[:1]):
            running = [child for child in group if child.pid]
            for child in running:
                _signal(child.pid, signal.SIGTERM)
            until = time.monotonic() + most_s
            for child in running:
                self._wait(child, until)

    def _wait(self, child: _Child, until: float) -> None:
        """Wait for the end of a process, and kill it when that takes too long."""
        while time.monotonic() < until:
            pid, _ = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                child.pid = 0
                return
            if self._is_urgent:  # again: two that come together are one to a process
                _signal(child.pid, signal.SIGTERM)
            for key, _ in self._selector.select(0.05):
                if key.fd == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, _CHUNK)
                else:
                    self._read(key.data)
        log.error("%s does not end: it is killed", child.name)
        _signal(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        child.pid = 0

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.pid:
                _signal(child.pid, number)


async def _beside(alive: int, beat_s: float) -> None:
    """Say to the parent that this event loop turns, and end in order once the parent has ended.

    Args:
        alive: A pipe whose other end is closed by the parent's end.
        beat_s: How often it says so.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(alive, ended.set)
    os.set_blocking(1, False)  # a parent that reads nothing must not stop this loop
    while not ended.is_set():
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(1, b"\n")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), beat_s)
    loop.remove_reader(alive)
    os.kill(os.getpid(), signal.SIGTERM)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
