"""Runs the app on uvicorn: the listening socket, the announcement, the signals and the end.

It listens before the app has started, so that health checks are answered during a long recovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from service.cli.certificate import Certificate
from service.cli.connections import Connection, Doors, default_limit, sweeping
from service.settings import Settings

log = logging.getLogger(__name__)
TICK_S = 0.1
GIVE_UP_S = 1.0  # for a start to end in order after a signal; then the process ends as it is
# Of an answer, in the kernel, for a client that does not read. Without it, the kernel takes some
# megabytes of each, at milliseconds of the event loop.
UNSENT_BYTES = 128 << 10
LATER_S = 1  # after the grace time, requests are cancelled that do not notice a lost connection


class Served(Protocol):
    """An app that can be started and ended in steps."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""

    @property
    def failed_for_good(self) -> bool:
        """Whether the process has to end."""

    def give_up(self) -> None:
        """End a start that is under way at its next step."""

    def drain(self) -> None:
        """Report from now on that the server is not ready."""

    async def ending(self) -> None:
        """Called before the server waits for the requests under way."""


class Server(uvicorn.Server):
    """Announces itself on standard output, and ends with status 0 after a signal.

    Args:
        app: What it serves.
        settings: The times and limits of connections, and those of the end.
        crowded: The app of connections beyond the limit.
        certificate: What it speaks TLS with; None: it speaks plain HTTP.
        announced: The process to be announced; None: this one.
    """

    def __init__(
        self,
        app: Served,
        settings: Settings,
        crowded: ASGIApp,
        certificate: Certificate | None = None,
        announced: int | None = None,
    ) -> None:
        self._announced = announced or os.getpid()
        self._certificate = certificate
        self._tasks: list[asyncio.Task[None]] = []
        self._served = app
        self._drain_s, self._grace_s = settings.drain_s, settings.grace_s
        self._handshake_s = settings.head_timeout_s
        most = settings.max_connections
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            log_config=None,
            access_log=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_graceful_shutdown=math.ceil(settings.grace_s) + LATER_S,
            timeout_keep_alive=math.ceil(settings.keep_alive_s),
        )
        super().__init__(config)
        self._doors = Doors(
            self.server_state.connections,
            most=default_limit(settings.max_in_flight) if most is None else most,
            crowded=crowded,
            head_timeout_s=settings.head_timeout_s,
        )

    async def serve_and_exit(self, sockets: list[socket.socket], status: Callable[[], int]) -> None:
        """Serve, and end the process with a status once everything is closed.

        At once: what would follow is the end of the event loop and of the interpreter. That starts
        a thread and waits for others, and without memory it hangs.

        Raises:
            SystemExit: The start failed.
        """
        await self.serve(sockets)
        logging.shutdown()
        os._exit(status())

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, start the app, and announce the address."""
        assert sockets
        loop = asyncio.get_running_loop()
        sweeps = loop.create_task(sweeping(self._doors, loop.time), name="connections")
        self._tasks.append(sweeps)
        if self._certificate is not None:
            follows = loop.create_task(self._certificate.follow(), name="certificate")
            self._tasks.append(follows)
        context = None if self._certificate is None else self._certificate.context
        protocol = functools.partial(
            Connection, self._doors, config=self.config, server_state=self.server_state,
            app_state=self.lifespan.state,
        )  # fmt: skip
        # The doors see a connection once its handshake is done; that takes no longer than a head.
        handshake_s = None if context is None else self._handshake_s
        backlog = self.config.backlog
        self.servers = [
            await loop.create_unix_server(protocol, sock=one, backlog=backlog)
            if one.family == socket.AF_UNIX
            else await loop.create_server(
                protocol, sock=one, backlog=backlog, ssl=context,
                ssl_handshake_timeout=handshake_s,
            )
            for one in sockets
        ]  # fmt: skip
        url = _url(sockets[0], tls=context is not None)
        log.info("health checks are answered on %s while the server starts", url)
        await self._start()
        if self.lifespan.should_exit:
            for server in self.servers:
                server.close()
            sys.exit(STARTUP_FAILURE)
        self.started = True
        if not self.should_exit:
            print(
                json.dumps({"event": "listening", "url": url, "pid": self._announced}), flush=True
            )

    async def _start(self) -> None:
        """Start the app; after a signal the start ends early, in order or not."""
        starting = asyncio.create_task(self.lifespan.startup())
        given_up = None
        for counter in range(sys.maxsize):
            ends = await super().on_tick(counter)  # dates answers, too
            if ends and given_up is None:
                given_up = asyncio.get_running_loop().time()
                self._served.give_up()
            await asyncio.wait({starting}, timeout=TICK_S)
            if starting.done():
                break
            if given_up is not None and asyncio.get_running_loop().time() > given_up + GIVE_UP_S:
                log.warning("the start does not end in order; nothing was accepted yet")
                logging.shutdown()
                os._exit(0)
        await starting

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: drain, answer what is under way, then close everything."""
        loop = asyncio.get_running_loop()
        self._served.drain()
        await self._drain(loop.time() + self._drain_s)
        try:
            await self._served.ending()
        except Exception:  # the rest must end in order all the same
            log.exception("the end of the training failed")
        grace = loop.call_later(self._grace_s, self._doors.cut_all)
        try:
            await super().shutdown(sockets)
        finally:
            grace.cancel()
            for task in self._tasks:
                task.cancel()

    async def _drain(self, until: float) -> None:
        """Serve for some more time; a second signal, or a failed store, ends that."""
        loop = asyncio.get_running_loop()
        counter = 0
        # The second one may have come before the first one was seen to.
        while loop.time() < until and len(self._captured_signals) < 2:
            if self._served.failed_for_good:
                return
            await super().on_tick(counter)
            counter += 1
            await asyncio.sleep(min(TICK_S, max(until - loop.time(), 0)))

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server has to end."""
        return await super().on_tick(counter) or self._served.failed_for_good

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End the server on SIGINT and SIGTERM."""
        # uvicorn raises the signal once more after the shutdown. The exit status would then be that
        # of a killed process, although everything was finished and committed.
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _url(listener: socket.socket, *, tls: bool) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def listen_privately(path: Path) -> socket.socket:
    """Return a Unix socket bound to a path, for this user alone."""
    with contextlib.suppress(FileNotFoundError):  # of a process that was killed
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    return listener


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket bound to an address.

    `shared`: Other processes of this user may bind it as well; the kernel spreads connections.

    Raises:
        OSError: The address cannot be used; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux; connections have it from their listener
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error}") from error
    return listener
