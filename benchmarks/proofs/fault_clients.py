"""Clients that never give up: they repeat a request until it is answered.

Each runs in a thread of the proof's process and records everything that was acknowledged to it in
a ledger. It waits for a server that is down, starting or overloaded; any other answer that
contradicts the reward contract is a violation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

DIM, NUM_ACTIONS = 4, 6
WINDOW_S, DEFAULT = 4.0, 0.5
_OWN_IDS = 0.7  # the share of decisions whose ids clients make; the server makes the others
_PAUSE_S, _PATIENCE_S = 0.05, 180.0

_COMMON: dict[str, Any] = {
    "context": {"shape": [DIM]}, "action_dim": DIM, "reward_range": [-1.0, 1.0], "seed": 3,
}  # fmt: skip
_ROUNDS = {"train_every": 64, "optimizer_steps": 60}
BANDITS: dict[str, dict[str, Any]] = {
    "first": {"policy": "linear_ts"} | _COMMON,
    "last": {
        "policy": "neural_linear_ts", "encoder": {"name": "mlp"}, "training": _ROUNDS,
        "replay": {"backend": "disk", "shard_size": 128, "flush_every": 16},
        "rewards": {"aggregate": "last"},
    } | _COMMON,
    "sum": {
        "policy": "linear_ts", "encoder": {"name": "interactions"}, "training": _ROUNDS,
        "rewards": {"aggregate": "sum"}, "forgetting": {"half_life": 500},
    } | _COMMON,
    "windowed": {
        "policy": "neural_linear_ts", "encoder": {"name": "two_tower"}, "training": _ROUNDS,
        "rewards": {"aggregate": "mean", "reward_window_s": WINDOW_S, "default_reward": DEFAULT},
    } | _COMMON,
}  # fmt: skip


@dataclass
class Ledger:
    """What was acknowledged to one client.

    Attributes:
        selects: By decision id: action id, snapshot and position.
        rewards: Decision id, reward id, value and status, in the order they were reported.
        final: By decision id: the value that must be learned, if no window can close.
        moments: When each of these was acknowledged, in nanoseconds of the monotonic clock: by
            decision id, by place in the list, by decision id and "final".
    """

    selects: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rewards: list[tuple[str, str | None, float, str]] = field(default_factory=list)
    final: dict[str, list[float]] = field(default_factory=dict)
    moments: dict[str | int | tuple[str, str], int] = field(default_factory=dict)
    repeats: int = 0
    waits: int = 0
    violations: list[str] = field(default_factory=list)

    def until(self, moment_ns: int) -> Ledger:
        """Return what had been acknowledged by then."""
        seen = {what for what, at_ns in self.moments.items() if at_ns <= moment_ns}
        return Ledger(
            selects={name: chosen for name, chosen in self.selects.items() if name in seen},
            rewards=[reward for place, reward in enumerate(self.rewards) if place in seen],
            final={name: v for name, v in self.final.items() if (name, "final") in seen},
        )


def create_bandits(url: str, capacity: int | None = None) -> None:
    """Create the bandits that the clients use; `capacity`: the most rows of a replay."""
    features = np.random.default_rng(0).standard_normal((NUM_ACTIONS, DIM)).round(3)
    ids = [f"a{n}" for n in range(NUM_ACTIONS)]
    with httpx.Client(base_url=url, trust_env=False, timeout=60.0) as http:
        for name, spec in BANDITS.items():
            whole = spec | {"replay": spec.get("replay", {}) | {"capacity": capacity}}
            http.put(f"/bandits/{name}", json=whole).raise_for_status()
            body = {"ids": ids, "features": features.tolist()}
            http.put(f"/bandits/{name}/actions", json=body).raise_for_status()


def trainer_of(url: str) -> dict[str, Any]:
    """Return the state of a server's trainer: state, phase, pid, rounds."""
    answer = httpx.get(f"{url}/bandits/last", trust_env=False, timeout=20.0)
    state: dict[str, Any] = answer.json()["trainer"]
    return state


class FaultClient:
    """Selects, rewards, repeats, corrects and reports late until it is stopped.

    Args:
        address: Returns the server's present address; None while it is down.
    """

    def __init__(
        self, number: int, address: Callable[[], str | None], stop: threading.Event
    ) -> None:
        self.ledger = Ledger()
        self._number = number
        self._address = address
        self._stop = stop
        self._rng = np.random.default_rng([11, number])
        self._http = httpx.Client(timeout=10.0, trust_env=False)
        self._old: list[tuple[str, str, str | None, float]] = []

    def run(self) -> None:
        """Work until `stop` is set; a decision that was begun is finished."""
        names = sorted(BANDITS)
        with self._http:
            count = 0
            while not self._stop.is_set() and len(self.ledger.violations) < 10:
                name = names[int(self._rng.integers(len(names)))]
                self._decide(name, f"{name}.{self._number}.{count}")
                count += 1

    def _decide(self, name: str, own_id: str) -> None:
        context = self._rng.standard_normal(DIM).round(3)
        body = {"bandit": name, "context": context.tolist()}
        if own := self._rng.random() < _OWN_IDS:
            body["decision_id"] = own_id
        answer = self._call("/select", body)
        decision_id = answer["decision_id"]
        if decision_id in self.ledger.selects or own != (decision_id == own_id):
            self._wrong(f"{own_id}: the id {decision_id} was given")
        chosen = (answer["action"]["id"], answer["snapshot"], answer["position"])
        self.ledger.selects[decision_id] = chosen
        self.ledger.moments[decision_id] = time.monotonic_ns()
        if own and self._rng.random() < 0.2:
            again = self._call("/select", body)
            self.ledger.repeats += 1
            if (again["action"]["id"], again["snapshot"], again["position"]) != chosen:
                self._wrong(f"{decision_id}: another answer to the same select")
        if self._rng.random() < 0.15:
            return  # this decision never gets a reward
        value = round(float(np.tanh(context[answer["action"]["index"] % DIM])), 3)
        getattr(self, f"_reward_{name}")(decision_id, value)
        if self._old and self._rng.random() < 0.1:
            self._repeat_an_old_one()

    def _reward_first(self, decision_id: str, value: float) -> None:
        self._reward("first", decision_id, None, value, {"applied", "duplicate"})
        if self._rng.random() < 0.2:
            self._reward("first", decision_id, None, value + 1.0, {"ignored"})
        self._final(decision_id, [value])

    def _reward_last(self, decision_id: str, value: float) -> None:
        for part in range(int(self._rng.integers(1, 4))):
            value += 0.125 * part
            self._reward("last", decision_id, f"r{part}", value, {"applied", "duplicate"})
        self._final(decision_id, [value])

    def _reward_sum(self, decision_id: str, value: float) -> None:
        parts = [round(value / n, 3) for n in range(1, int(self._rng.integers(2, 5)))]
        for part, each in enumerate(parts):
            self._reward(
                "sum", decision_id, f"r{part}", each, {"applied", "aggregated", "duplicate"}
            )
        self._final(decision_id, parts)

    def _reward_windowed(self, decision_id: str, value: float) -> None:
        """Report once: "applied" where the decision matured while the server was down."""
        some = {"pending", "applied", "aggregated", "duplicate", "late"}
        self._reward("windowed", decision_id, "r0", value, some)

    def _repeat_an_old_one(self) -> None:
        """Repeat a reward that was acknowledged long ago; it is late if its window is closed."""
        name, decision_id, reward_id, value = self._old[int(self._rng.integers(len(self._old)))]
        self._reward(name, decision_id, reward_id, value, {"duplicate"})
        if name == "windowed":
            new = f"late{len(self.ledger.rewards)}"
            self._reward(name, decision_id, new, value, {"aggregated", "late", "duplicate"})

    def _reward(
        self, name: str, decision_id: str, reward_id: str | None, value: float, right: set[str]
    ) -> None:
        body: dict[str, Any] = {"decision_id": decision_id, "reward": value}
        if reward_id is not None:
            body["reward_id"] = reward_id
        status = self._call("/reward", body)["status"]
        self.ledger.moments[len(self.ledger.rewards)] = time.monotonic_ns()
        self.ledger.rewards.append((decision_id, reward_id, value, status))
        if status not in right:
            self._wrong(f"{decision_id}: reward {reward_id} {value} was {status}")
        if status in ("applied", "aggregated", "pending") and name != "last":
            self._old.append((name, decision_id, reward_id, value))

    def _final(self, decision_id: str, values: list[float]) -> None:
        self.ledger.final[decision_id] = values
        self.ledger.moments[decision_id, "final"] = time.monotonic_ns()

    def _wrong(self, what: str) -> None:
        self.ledger.violations.append(what)

    def _call(self, path: str, body: dict[str, Any]) -> Any:
        """Repeat a request until it is answered; RuntimeError after minutes without an answer."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            url = self._address()
            if url is not None:
                try:
                    answer = self._http.post(url + path, json=body)
                except httpx.TransportError:
                    pass  # killed: the repeated request shows whether it was stored
                else:
                    if answer.status_code == 200:
                        return answer.json()
                    if answer.status_code != 503:
                        self._wrong(f"{path} {body}: {answer.status_code} {answer.text[:200]}")
                        raise RuntimeError(self.ledger.violations[-1])
            self.ledger.waits += 1
            time.sleep(_PAUSE_S)
        raise RuntimeError(f"{path} was not answered in {_PATIENCE_S:.0f} s")
