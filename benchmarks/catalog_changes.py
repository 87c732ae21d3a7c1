"""Measures what an hour of catalogue changes costs a start, a swap and an explanation.

Two servers with durability `os` have the same linear bandit with 100,000 actions of 64 features.
One of them then gets 3,600 changes, as of one a second for an hour, each of one action's features,
and no snapshot in between. Both are started, explain a decision and swap a snapshot in, in turns;
the ratios are changed over unchanged.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bandexa_client import array_body
from benchmarks.report import Target, arguments, report
from benchmarks.server import Server

_ACTIONS, _DIM, _CHANGES, _CHUNK = 100_000, 64, 3_600, 10_000
_TURNS, _QUICK_TURNS = 8, 2
_NAME = "shop"
TARGETS = {
    f"{name}_ratio": Target(1.2, unit="times the unchanged catalogue's")
    for name in ("start", "explain", "swap")
}


@dataclass
class _Side:
    """A server, and the seconds that its turns took."""

    server: Server
    start_s: list[float] = field(default_factory=list)
    explain_s: list[float] = field(default_factory=list)
    swap_s: list[float] = field(default_factory=list)
    decision: str = ""

    def prepare(self, num_changes: int) -> None:
        """Create the bandit, publish a snapshot of its actions, and change some."""
        features = np.random.default_rng(0).standard_normal((_ACTIONS, _DIM), dtype=np.float32)
        spec = {
            "policy": "linear_ts", "context": {"shape": [4]}, "action_dim": _DIM, "seed": 1,
            "encoder": {"name": "concat"}, "training": {"mode": "lockstep"},
        }  # fmt: skip
        with self.server as server, httpx.Client(base_url=server.address, timeout=120) as http:
            _ok(http.put(f"/bandits/{_NAME}", json=spec))
            for first in range(0, _ACTIONS, _CHUNK):
                ids = [f"a{n}" for n in range(first, first + _CHUNK)]
                piece = features[first : first + _CHUNK]
                sent = array_body("float32", piece.shape, piece.tobytes())
                body = {"ids": ids, "features": sent}
                _ok(http.put(f"/bandits/{_NAME}/actions", json=body))
            for number in range(20):
                chosen = _select(http, candidates=[f"a{number}", "a99"])
                _ok(http.post("/reward", json={"decision_id": chosen, "reward": number / 20}))
            _ok(http.post(f"/bandits/{_NAME}/train", params={"wait": "true"}))
            for number in range(num_changes):
                action = {"id": f"a{number * 7}", "features": features[number].tolist()}
                _ok(http.put(f"/bandits/{_NAME}/actions", json={"actions": [action]}))
            self.decision = _select(http)

    def turn(self) -> None:
        """Start, and explain a decision that was made after the changes."""
        with self.server as server, httpx.Client(base_url=server.address, timeout=120) as http:
            _select(http)  # the first one after a start
            self.start_s.append(server.ready_s[-1])
            started = time.perf_counter()
            why = _ok(http.get(f"/bandits/{_NAME}/decisions/{self.decision}"))
            self.explain_s.append(time.perf_counter() - started)
            assert why["explained"] == "yes", why
            assert why["reproduced"]["action"], why

    def swap(self) -> None:
        """Publish a snapshot at the end of the log and swap it in."""
        with self.server as server, httpx.Client(base_url=server.address, timeout=120) as http:
            _ok(http.post(f"/bandits/{_NAME}/train", params={"wait": "true"}))
            (line,) = (
                line
                for line in http.get("/metrics").text.splitlines()
                if line.startswith("bandexa_swap_seconds_sum")
            )
            self.swap_s.append(float(line.split()[1]))


def _select(http: httpx.Client, **changes: Any) -> str:
    body = {"bandit": _NAME, "context": [0.1, 0.2, 0.3, 0.4]} | changes
    return str(_ok(http.post("/select", json=body))["decision_id"])


def _ok(response: httpx.Response) -> Any:
    assert response.is_success, response.text
    return response.json()


def measure(turns: int) -> dict[str, float]:
    """Return the median seconds of both sides, and their ratios."""
    with tempfile.TemporaryDirectory(prefix="bandexa-changes-") as folder:
        plain, changed = (_Side(Server(Path(folder) / name)) for name in ("plain", "changed"))
        plain.prepare(0)
        changed.prepare(_CHANGES)
        for number in range(turns):
            for side in (plain, changed) if number % 2 == 0 else (changed, plain):
                side.turn()
        for side in (plain, changed):
            side.swap()
            side.swap()
    results: dict[str, float] = {"turns": turns}
    for name in ("start", "explain", "swap"):
        ours = float(np.median(getattr(changed, f"{name}_s")))
        theirs = float(np.median(getattr(plain, f"{name}_s")))
        results |= {f"{name}_s": ours, f"{name}_plain_s": theirs, f"{name}_ratio": ours / theirs}
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("catalog_changes", __doc__)
    parser.add_argument("--quick", action="store_true", help="two turns instead of eight")
    given = parser.parse_args(argv)
    turns = _QUICK_TURNS if given.quick else _TURNS
    return report("catalog_changes", measure(turns), given.json, targets=TARGETS)
