"""Selects and rewards against a server of several workers, while its processes are killed."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import httpx

from tests.fixtures.api import Api
from tests.fixtures.servers import Server
from tests.fixtures.waiting import poll


class Traffic:
    """Selects and rewards over connections of its own, until it is stopped.

    Each of them makes ten decisions a second at most: what is waited for meanwhile, such as
    the start of a process, takes as long with more.

    Attributes:
        decided: The answered decisions by their ids: what was asked, and what was answered.
        rewarded: The ids of the decisions whose rewards were answered.
        refused: How many calls were refused with 503, each with a `Retry-After`.
    """

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, name
        self._stop = threading.Event()
        self.decided: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.rewarded: list[str] = []
        self.refused = 0
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, own: int) -> None:
        number = 0
        while not self._stop.is_set():
            with suppress(httpx.TransportError), self._server.client() as client:
                while not self._stop.wait(0.1):
                    number += 1
                    decision_id = f"own-{own}-{number}"
                    body = {
                        "bandit": self._name, "context": [number % 7, 1.0],
                        "decision_id": decision_id,
                    }  # fmt: skip
                    answer = client.post("/select", json=body)
                    if not self._sent(answer, 200):
                        continue
                    self.decided[decision_id] = body, answer.json()
                    report = {"decision_id": decision_id, "reward": number % 2}
                    if self._sent(client.post("/reward", json=report), 200):
                        self.rewarded.append(decision_id)

    def _sent(self, answer: httpx.Response, expected: int) -> bool:
        if answer.status_code == 503:
            self.refused += 1
            if int(answer.headers["retry-after"]) < 1:
                self.failed.append("a Retry-After below a second")
        elif answer.status_code != expected:
            self.failed.append(answer.text)
        return answer.status_code == expected

    def goes_on(self) -> None:
        """Wait until rewards have been answered for a while."""
        before = len(self.rewarded)
        poll(lambda: len(self.rewarded) > before + 20, "rewards go on")

    def stop(self) -> None:
        """Stop it, and check that nothing but 503 was answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.failed, self.failed[:3]

    def check(self, api: Api) -> None:
        """Check that everything that was answered is stored once."""
        first, _ = next(iter(self.decided.values()))
        # The other worker may have found the keeper again, and this one not yet.
        poll(lambda: api.http.post("/select", json=first).status_code == 200, "the keeper")
        for body, answer in self.decided.values():
            assert api.call("POST", "/select", body) == answer, "it is stored, and not drawn again"
        for decision_id in self.rewarded:
            number = int(decision_id.split("-")[-1])
            status = api.reward(decision_id, 1 - number % 2)["status"]  # another value
            assert status == "ignored", decision_id
