"""The FastAPI file that other libraries are served from: what it logs, and what it joins."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from benchmarks.peers.served import IDS, Chosen, app_of, opened
from benchmarks.workload import DIM


class Last:
    """Chooses the last action, and notes what it learns."""

    def __init__(self) -> None:
        self.learned: list[tuple[object, float]] = []

    def select(self, context: list[float]) -> Chosen:
        """Choose."""
        return Chosen(len(IDS) - 1, 0.25, context[0])

    def learn(self, chosen: Chosen, reward: float) -> None:
        """Learn."""
        self.learned.append((chosen.shown, reward))


def test_a_decision_and_its_reward_are_logged_and_joined_once(tmp_path: Path) -> None:
    library, log = Last(), opened(tmp_path / "data")
    app = app_of(library, log)

    async def calls() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, verify=False, base_url="http://localhost"
        ) as client:
            body = {"context": [3.5] * DIM}
            made = (await client.post("/select", json=body)).raise_for_status().json()
            assert (made["action"], made["propensity"]) == (IDS[-1], 0.25)
            report = {"decision_id": made["decision_id"], "reward": 0.5}
            (await client.post("/reward", json=report)).raise_for_status()
            assert (await client.post("/reward", json=report)).status_code == 404
            ids = log.execute("SELECT id, propensity FROM decisions").fetchall()
            assert ids == [(made["decision_id"], 0.25)]
            assert log.execute("SELECT * FROM rewards").fetchall() == [(made["decision_id"], 0.5)]

    asyncio.run(calls())
    assert library.learned == [(3.5, 0.5)]
    log.close()
