"""Runs the app on uvicorn: the listening socket, the announcement, the signals and the end."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

log = logging.getLogger(__name__)
GRACE_S = 10  # for requests in flight when the server is asked to end


class Server(uvicorn.Server):
    """Announces itself on standard output, and ends with status 0 after a signal.

    Args:
        app: What it serves.
        has_to_end: Checked ten times a second; the server ends in order once it returns true.
        ending: Called first when it ends, before it waits for the requests under way.
        keep_alive_s: After this time without a request a connection is closed.
    """

    def __init__(
        self,
        app: ASGIApp,
        has_to_end: Callable[[], bool],
        ending: Callable[[], Awaitable[None]],
        *,
        keep_alive_s: float,
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=math.ceil(keep_alive_s),
        )
        super().__init__(config)
        self._has_to_end = has_to_end
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: answer what is under way, then close everything."""
        try:
            await self._ending()
        except Exception:  # the rest must end in order all the same
            log.exception("the end of the training failed")
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server has to end."""
        return await super().on_tick(counter) or self._has_to_end()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and announce the address."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            line = {"event": "listening", "url": f"http://{shown}:{port}", "pid": os.getpid()}
            print(json.dumps(line), flush=True)

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


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        OSError: The address cannot be used; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error}") from error
    return listener
