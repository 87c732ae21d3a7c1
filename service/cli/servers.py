"""`bandexa serve` of a server that shares its database with others.

This process has the port and a name, and serves nothing itself: a child does, in the role that the
server has. A child ends when the role changes, or when it was away so long that another server has
its leases; the next one takes up the role that the server has then. Connections that come meanwhile
wait in the backlog of the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings

from service.cli import restarts
from service.cli.certificate import Certificate
from service.cli.process import STORE_FAILED_STATUS, serve_process
from service.observe import logs
from service.observe.counters import SharedCount
from service.serving.lifecycle import ServerPlace
from service.settings import Settings
from service.store.address import PostgresUrl
from service.store.errors import StoreError
from service.store.opening import join
from service.store.placing import store_of

log = logging.getLogger(__name__)
NO_PLACE_STATUS = 1


class SharingServer:
    """The process of a server that shares its database.

    Args:
        settings: The server's settings, with more than one server.
        listener: The address.
        certificate: What it speaks TLS with.
    """

    def __init__(
        self, settings: Settings, listener: socket.socket, certificate: Certificate | None
    ) -> None:
        address = store_of(settings.data_dir, settings.store)
        assert isinstance(address, PostgresUrl), "the settings are checked"
        self._address = address
        self._settings = settings
        self._listener = listener
        self._certificate = certificate
        self._name = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._alive, self._lifeline = os.pipe()
        self._child = 0
        self._diverged = SharedCount()  # a child ends with each, and the next one shows it
        self._ending = threading.Event()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._passed_on)
        self._listener.listen(2048)
        if "127.0.0.1" in self._own_url() or "localhost" in self._own_url():
            log.warning("server_url: servers on other machines cannot reach %s", self._own_url())
        wait_s = restarts.FIRST_S
        goes_on = {STORE_FAILED_STATUS}
        while True:
            started = time.monotonic()
            status = self._serve_once()
            if self._ending.is_set():  # perhaps while it ended to take up another role
                return 0 if status in goes_on else max(status, 0)
            if status >= 0 and status not in goes_on:
                return status
            if status < 0:
                log.error("the process of this server ended by signal %d: it is started again",
                          -status)  # fmt: skip
            goes_on.add(NO_PLACE_STATUS)  # it has served: the database is away for a while
            wait_s = restarts.backoff_s(wait_s, time.monotonic() - started)
            if self._ending.wait(wait_s):
                return 0

    def _passed_on(self, number: int, _: object) -> None:
        if number != signal.SIGHUP:
            self._ending.set()
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _serve_once(self) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the log's thread writes lines
            pid = os.fork()
        if pid == 0:
            self._become()
        self._child = pid
        if self._ending.is_set():  # a signal came before the id was known
            self._passed_on(signal.SIGTERM, None)
        _, state = os.waitpid(pid, 0)
        self._child = 0
        return os.waitstatus_to_exitcode(state)

    def _become(self) -> None:
        """Serve in the role that the server has; never returns."""
        status = NO_PLACE_STATUS
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            if self._settings.keys_file is not None:  # it is read at the start in any case
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.close(self._lifeline)
            settings = self._settings
            logs.configure(settings.log_format, settings.log_level)
            member = join(
                self._address, settings.servers, self._name, self._own_url(), settings.lease_s,
                self._diverged,
            )  # fmt: skip
            role = "keeper" if member.is_keeper else "replica"
            log.info("this is server %d of up to %d: %s", member.number + 1, member.servers, role)
            status = serve_process(
                settings, self._listener, self._certificate, ServerPlace(member),
                beside=_until(self._alive), announced=os.getppid(),
            )  # fmt: skip
        except StoreError as error:
            log.error("%s", error)
        except Exception:  # the top of a process
            log.exception("the server fails")
        finally:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(status)

    def _own_url(self) -> str:
        if self._settings.server_url is not None:
            return self._settings.server_url
        host, port = self._settings.host, self._listener.getsockname()[1]
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


async def _until(alive: int) -> None:
    """End in order once the parent has ended."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(alive, ended.set)
    await ended.wait()
    loop.remove_reader(alive)
    os.kill(os.getpid(), signal.SIGTERM)
