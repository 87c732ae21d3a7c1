"""Requests as a balancer sends them to servers that share a database, and as a client repeats them.

A server that refuses connections is passed over. What breaks, or gets 503, is sent once more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import httpx

from tests.fixtures.servers import Server
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll

THREADS = 3


class Balanced:
    """Selects and rewards of a bandit, sent to the servers in turn until `stop`.

    Attributes:
        rewarded: The ids of the decisions whose rewards were answered.
        repeated: What was sent once more, and why.
        failed: What one repetition did not mend.
    """

    def __init__(self, servers: Sequence[Server], name: str) -> None:
        self._servers, self._name = servers, name
        self._stop = threading.Event()
        self.rewarded: list[str] = []
        self.repeated: list[str] = []
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def goes_on(self) -> None:
        """Wait until rewards have been answered for a while."""
        before = len(self.rewarded)
        poll(lambda: bool(self.failed) or len(self.rewarded) > before + 15, "rewards go on")

    def stop(self) -> None:
        """Stop, and check that no request failed."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.failed, self.failed[:3]

    def _run(self, own: int) -> None:
        clients: dict[str, httpx.Client] = {}
        try:
            number = 0
            while not self._stop.wait(0.1) and not self.failed:
                number += 1
                key = f"balanced-{own}-{number}"
                select = {
                    "bandit": self._name, "context": [number % 7, 1.0], "decision_id": key,
                }  # fmt: skip
                report = {"decision_id": key, "reward": number % 2, "reward_id": key}
                if self._answered(clients, number, "/select", select) and self._answered(
                    clients, number + 1, "/reward", report
                ):
                    self.rewarded.append(key)
        finally:
            for client in clients.values():
                client.close()

    def _answered(
        self, clients: dict[str, httpx.Client], turn: int, path: str, body: dict[str, Any]
    ) -> bool:
        """Return whether a request was answered, at the latest when it was repeated."""
        wrong = self._sent(clients, turn, path, body)
        if wrong is None:
            return True
        self.repeated.append(wrong)
        again = self._sent(clients, turn + 1, path, body)
        if again is not None:
            self.failed.append(f"{wrong}; then {again}")
        return again is None

    def _sent(
        self, clients: dict[str, httpx.Client], turn: int, path: str, body: dict[str, Any]
    ) -> str | None:
        """Send a request to the first server that takes it; returns what went wrong, if anything.

        Each address has a client of its own: a server that is started again has another one.
        """
        refused = ""
        for step in range(len(self._servers)):
            url = self._servers[(turn + step) % len(self._servers)].url
            if url not in clients:
                clients[url] = open_client(url)
            try:
                answer = clients[url].post(path, json=body)
            except httpx.ConnectError as error:
                refused = f"{path} at {url}: {error!r}"
                continue
            except httpx.TransportError as error:
                return f"{path} at {url}: {error!r}"
            return None if answer.status_code == 200 else f"{path} at {url}: {answer.text}"
        return refused
