"""A server of several workers, and a client of each of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.fixtures.api import Api
from tests.fixtures.servers import Server
from tests.fixtures.waiting import is_running, poll

KEEPER = "keeper"


@dataclass
class Crew:
    """A server, and one connection to each of its workers.

    Attributes:
        server: The server; its own client may reach any worker.
        clients: The clients by the number of their worker.
        apis: The same as ways to call.
    """

    server: Server
    clients: dict[int, httpx.Client]
    apis: dict[int, Api]

    @property
    def both(self) -> tuple[Api, Api]:
        """The first two workers."""
        return self.apis[1], self.apis[2]

    def pids(self) -> dict[str, int]:
        """Return the processes by their names in the log."""
        names = {KEEPER, *(f"worker-{number}" for number in self.clients)}
        found: dict[str, int] = {}

        def all_of_them() -> bool:
            found.clear()
            task = Path(f"/proc/{self.server.pid}/task/{self.server.pid}")
            for pid in map(int, (task / "children").read_text().split()):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found[name.removeprefix("bx-")] = pid
            # A process that was just forked has no name of its own yet.
            return found.keys() == names and all(map(is_running, found.values()))

        poll(all_of_them, "all processes run")
        return found


def clients_of(server: Server, num: int, stack: ExitStack) -> dict[int, httpx.Client]:
    """Return a client of each worker: the kernel chooses the worker of each new connection."""
    found: dict[int, httpx.Client] = {}

    def another() -> bool:
        client = server.client()
        try:
            worker = client.get("/readyz").json()["worker"]
        except (httpx.TransportError, KeyError):
            client.close()
            return False
        if worker is None or worker in found:
            client.close()
        else:
            stack.callback(client.close)
            found[worker] = client
        return len(found) == num

    poll(another, f"a connection to each of {num} workers")
    return found


@contextlib.contextmanager
def crew_of(server: Server, num: int, api_of: Callable[[httpx.Client], Api]) -> Iterator[Crew]:
    """Yield a server with connections to its workers, which are closed at the exit."""
    with ExitStack() as stack:
        clients = clients_of(server, num, stack)
        shared = api_of(clients[1])
        apis = {number: api_of(client) for number, client in clients.items()}
        for api in apis.values():  # names are fresh among all of them
            api._numbers = shared._numbers
        yield Crew(server, clients, apis)


def killed(pid: int) -> None:
    """Kill a process, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    poll(lambda: is_gone(pid), f"the end of process {pid}")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, and its parent has seen it."""
    return not Path(f"/proc/{pid}").exists()
