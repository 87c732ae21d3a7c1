"""Proves that configurations change under load and across kills, and nothing is lost or doubled.

Clients select and reward two bandits without a pause, one with numbers and one with objects, and
report every reward twice. Meanwhile both are given one configuration after another: other priors,
ranges, encoders, policies, forgetting, seeds and reward rules, and objects other declarations and
limits (`max_bytes`); some are replaced before they are served. The server is killed with SIGKILL at
random times: before, during and after a change is learned, and the clients go on once it is back.

In the end no request had another answer than it should (one that a kill cut short is repeated), the
newest configurations are served, every reward that was answered is learned once, the models are
those that another server, started on the directory, serves, and `bandexa verify` finds nothing
wrong.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from benchmarks.proofs.audit import verify
from benchmarks.report import arguments, report
from benchmarks.server import Server

_TRAINING = {"mode": "background", "optimizer_steps": 20}
_NUMBERS: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [4]}, "action_dim": 2, "seed": 1,
    "encoder": {"name": "concat"}, "training": _TRAINING, "reward_range": [-1, 1],
}  # fmt: skip
_OBJECTS: dict[str, Any] = {
    "policy": "linear_ts", "context": {"features": "auto", "max_bytes": 300},
    "actions": {"features": "auto", "max_bytes": 300}, "seed": 1, "training": _TRAINING,
    "reward_range": [-1, 1],
}  # fmt: skip
_MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}
_FIELDS = {"x": {"type": "number", "scale": "quantile"}, "device": "category", "*": "auto"}
_EITHER: tuple[dict[str, Any], ...] = (
    {"posterior": {"prior_var": 3.0}},
    {"reward_range": [-2, 2]},
    {"reward_range": None},
    {"policy": "greedy"},
    {"policy": "uniform"},
    {"forgetting": {"half_life": 200}},
    {"seed": 9},
    {"rewards": {"aggregate": "last"}},
    {"selection": {"method": "squarecb"}},
)


class _Kind(NamedTuple):
    """A bandit: its first configuration, what is changed of it, its actions and a context."""

    base: dict[str, Any]
    changes: tuple[dict[str, Any], ...]
    actions: dict[str, Any]
    context: Callable[[list[float]], Any]


_KINDS: dict[str, _Kind] = {
    "numbers": _Kind(
        _NUMBERS,
        (
            *_EITHER,
            {"encoder": {"name": "bilinear"}},
            {"encoder": {"name": "concat", "standardize": False}},
            {"policy": "neural_linear_ts", "encoder": _MLP},
            {
                "policy": "neural_linear_ts",
                "encoder": {"name": "two_tower", "params": {"tower_dim": 4}},
            },
        ),
        {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]},
        list,
    ),
    "objects": _Kind(
        _OBJECTS,
        (
            *_EITHER,
            {"encoder": {"name": "crosses", "params": {"crosses": [["device", "kind"]]}}},
            {"policy": "neural_linear_ts"},
            {"context": {"features": _FIELDS, "max_bytes": 64}},
            {"context": {"features": "auto", "max_bytes": 128}},
            {"context": {"features": "auto", "max_bytes": 4096}},
            {"actions": {"features": "auto", "max_bytes": 32}},
            {"actions": {"features": "auto", "max_bytes": 2048}},
        ),
        {"ids": ["x", "y"], "features": [{"kind": "tea"}, {"kind": "mug"}]},
        lambda x: {"x": x[0], "device": "pc" if x[1] > 0 else "phone"},
    ),
}
_CLIENTS = 4
_WITHIN_S = 120.0


class _Run:
    """One server, its clients, and what they saw."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.rng = np.random.default_rng(seed)
        self.stop = threading.Event()
        self.learned = [0] * _CLIENTS
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def call(self, client: httpx.Client, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of a call; it is repeated while a kill cuts it short."""
        deadline = time.monotonic() + _WITHIN_S
        while time.monotonic() < deadline:
            try:
                answer = client.request(method, f"{self.server.address}{path}", json=body)
            except (httpx.TransportError, AssertionError):
                time.sleep(0.02)
                continue
            if answer.status_code == 503:  # it starts
                time.sleep(0.02)
                continue
            if answer.status_code not in (200, 201):
                self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return answer.json()
        self.wrong.append(f"{method} {path}: no answer within {_WITHIN_S:.0f} s")
        return {}

    def play(self, number: int) -> None:
        """Select and reward until the end; every reward is reported twice."""
        rng, kind = np.random.default_rng(number), list(_KINDS)[number % len(_KINDS)]
        with httpx.Client(timeout=60.0, trust_env=False) as client:
            while not self.stop.is_set():
                name = f"{number}.{self.learned[number]}"
                x = rng.normal(size=4).round(3).tolist()
                body = {"bandit": kind, "context": _KINDS[kind].context(x), "decision_id": name}
                chosen = self.call(client, "POST", "/select", body)
                reward = {"decision_id": name, "reward": float(x[0] > 0)}
                if "action" not in chosen:
                    return
                found = [self.call(client, "POST", "/reward", reward)["status"] for _ in range(2)]
                # A kill may have come between the commit and the answer of the first one.
                if found not in (["applied", "duplicate"], ["duplicate", "duplicate"]):
                    self.wrong.append(f"decision {name}: its reward was answered {found}")
                self.learned[number] += 1

    @contextmanager
    def playing(self) -> Iterator[None]:
        with ThreadPoolExecutor(_CLIENTS) as pool:
            clients = [pool.submit(self.play, number) for number in range(_CLIENTS)]
            try:
                yield
            finally:
                self.stop.set()
                for each in clients:
                    each.result()

    def kill(self) -> None:
        self.server.kill()
        self.server.spawn()
        self.server.wait_ready()
        self.counts["kills"] += 1

    def served(self, client: httpx.Client, kind: str) -> dict[str, Any]:
        """Wait until the wanted configuration is served; returns the state."""
        deadline = time.monotonic() + _WITHIN_S
        while time.monotonic() < deadline:
            state: dict[str, Any] = self.call(client, "GET", _path(kind))
            if state["rebuild"] is None or state["rebuild"]["state"] == "done":
                return state
            time.sleep(0.05)
        self.wrong.append(f"a change is not served within {_WITHIN_S:.0f} s: {state['rebuild']}")
        return state

    def change(self, client: httpx.Client, kind: str, kills: bool) -> None:
        """Give a bandit a configuration, perhaps another one at once, and perhaps a kill."""
        for _ in range(1 + int(self.rng.random() < 0.2)):
            changes = _KINDS[kind].changes
            spec = _KINDS[kind].base | changes[int(self.rng.integers(len(changes)))]
            self.call(client, "PUT", _path(kind), spec)
            self.counts["changes"] += 1
        if kills:
            time.sleep(float(self.rng.choice([0.0, 0.05, 0.5, 2.0]) * self.rng.random()))
            self.kill()
        state = self.served(client, kind)
        for side in ("context", "actions"):
            put, found = spec.get(side, {}), state["spec"][side]
            if put.get("max_bytes") not in (None, found["max_bytes"]):
                self.wrong.append(f"{side}.max_bytes is {found['max_bytes']}, and {put} was put")
        for key in ("policy", "seed", "reward_range"):
            if state["spec"][key] != spec[key]:
                self.wrong.append(f"{key} is {state['spec'][key]}, and {spec[key]} was put")


def _path(kind: str) -> str:
    return f"/bandits/{kind}"


def _scores(run: _Run, client: httpx.Client, kind: str) -> list[dict[str, Any]]:
    run.served(client, kind)
    body = {"context": _KINDS[kind].context([1, 0, 0, 0])}
    found: list[dict[str, Any]] = run.call(client, "POST", f"{_path(kind)}/score", body)["scores"]
    return found


def _prove(folder: Path, changes: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    with (
        Server(folder / "data") as server,
        httpx.Client(timeout=_WITHIN_S, trust_env=False) as client,
    ):
        run = _Run(server, seed)
        for kind, (base, _, actions, _) in _KINDS.items():
            run.call(client, "PUT", _path(kind), base)
            run.call(client, "PUT", f"{_path(kind)}/actions", actions)
        with run.playing():
            for number in range(changes):
                run.change(client, list(_KINDS)[number // 2 % len(_KINDS)], kills=number % 2 == 1)
        before = {kind: _scores(run, client, kind) for kind in _KINDS}
        num = sum(run.learned)
        learned = sum(run.served(client, kind)["num_learned"] for kind in _KINDS)
        if learned != num:
            run.wrong.append(f"{learned} values learned, {num} rewards answered")
        run.kill()
        for kind, scores in before.items():
            again = _scores(run, client, kind)
            for one, two in zip(scores, again, strict=True):
                if not np.allclose(
                    [one["mean"], one["std"] or 0.0], [two["mean"], two["std"] or 0.0], rtol=1e-6
                ):
                    run.wrong.append(f"{kind}: after a start it scores {two}, and {one} before")
        if server.stop() != 0:
            run.wrong.append("the server did not end in order")
    lines = server.log.read_text().splitlines()
    run.wrong += [line for line in lines if '"level": "error"' in line or "Traceback" in line]
    if found := verify(folder / "data"):
        run.wrong.append(f"bandexa verify: {found}")
    return {**run.counts, "rewards": num}, run.wrong


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("changes", __doc__)
    parser.add_argument("--changes", type=int, default=60, help="how often a bandit is changed")
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    given = parser.parse_args(argv)
    if given.changes < 1:
        parser.error("--changes must be positive")
    with tempfile.TemporaryDirectory(prefix="bandexa-changes-") as name:
        results, wrong = _prove(Path(name), given.changes, given.seed)
    claim = "a bandit changes under load and across kills, and every reward counts once"
    return report("changes", results, given.json, wrong=wrong, claim=claim)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
