"""Proves that no import poisons a server: exports with other tensors, shapes and manifests.

Bandits of every kind of posterior learn and are exported. Each case changes an export at random:
one tensor is scaled, negated, shifted, made of other numbers, of another shape or type, or is left
out; an entry of the manifest is another. Every fourth export is left as it is, and must be taken.
It goes into a fresh bandit that has learned something itself, beside healthy bandits. Either it is
refused with 409 or 422, and the bandit scores as before; or it is taken, and then the bandit must
select, learn what it answers `applied`, forget and train. After every batch of cases the server is
killed and started again: every row is applied, every bandit is served, the log has no error, and in
the end `bandexa verify` finds nothing wrong.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bandexa_core.snapshots.packing import pack, unpack
from benchmarks.proofs.audit import verify
from benchmarks.report import arguments, report
from benchmarks.server import Server

_TRAINING = {"mode": "lockstep", "optimizer_steps": 4}
_MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}
_HEADS = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8], "heads": "per_action"}}
_SPECS: dict[str, dict[str, Any]] = {
    "linear": {"policy": "linear_ts"},
    "per_action": {"policy": "linear_ts", "encoder": {"name": "per_action"}},
    "forgetting": {"policy": "linear_ts", "forgetting": {"half_life": 32}},
    "plain": {"policy": "linear_ts", "encoder": {"name": "concat", "standardize": False}},
    "neural": {"policy": "neural_linear_ts", "encoder": _MLP},
    "heads": {"policy": "neural_linear_ts", "encoder": _HEADS},
    "greedy": {"policy": "greedy", "encoder": _MLP},
}
_ROWS = 12  # that the exporter learns, and the importer afterwards
_BATCH = 25  # cases between two kills
_UNCHANGED = 4  # one export of so many is left as it is
_MANIFEST: dict[str, Sequence[Any]] = {
    "num_rows": (0, 10**9, -3, 2**60, None, "many"),
    "meta": ({}, {"actions": ["y", "x"]}, {"actions": ["x", "x"]}, {"actions": []}),
    "spec_hash": ("", "0" * 16),
    "position": (0, 10**12, -1),
}


def _changed(tensor: Any, rng: np.random.Generator) -> Any:
    """Return a tensor of other numbers, of another shape, or of another type."""
    kind = int(rng.integers(9))
    if tensor.dtype.kind != "f" or kind == 0:
        return np.zeros(rng.integers(0, 4, rng.integers(0, 3)), rng.choice(["f8", "i8", "u1"]))
    size = float(10.0 ** rng.uniform(-8, 300)) * float(rng.choice([-1.0, 1.0]))
    with np.errstate(all="ignore"):
        changes = (
            tensor * size,
            -tensor,
            tensor + size,
            rng.normal(size=tensor.shape) * abs(size),
            np.zeros_like(tensor),
            tensor * (1 + 1e-3 * rng.normal(size=tensor.shape)),
            np.where(rng.random(tensor.shape) < 0.3, np.nan, tensor),
            tensor[..., :-1] if tensor.ndim else np.zeros(2),
        )
        return np.asarray(changes[kind - 1]).astype(tensor.dtype)


def _poisoned(export: bytes, rng: np.random.Generator) -> bytes:
    """Return an export with one to three changes, complete and with correct checksums."""
    manifest, tensors = unpack(export)
    if rng.random() < 0.15:
        name = str(rng.choice(list(_MANIFEST)))
        value = _MANIFEST[name][int(rng.integers(len(_MANIFEST[name])))]
        return pack(dataclasses.replace(manifest, **{name: value}), tensors)
    names = list(tensors)
    posterior = [name for name in names if "/posterior/" in name]
    for _ in range(int(rng.integers(1, 4))):
        pool = posterior if posterior and rng.random() < 0.7 else names
        name = str(rng.choice(pool))
        if name not in tensors:
            continue
        if rng.random() < 0.1:
            del tensors[name]
        else:
            tensors[name] = _changed(tensors[name], rng)
    return pack(manifest, tensors)


class _Run:
    """One server, its cases, and what they did."""

    def __init__(self, server: Server, client: httpx.Client, seed: int) -> None:
        self._server = server
        self._client = client
        self._rng = np.random.default_rng(seed)
        self._exports: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def _call(self, method: str, path: str, *status: int, **body: Any) -> httpx.Response:
        answer = self._client.request(method, f"{self._server.address}{path}", **body)
        if answer.status_code not in (status or (200,)):
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def _create(self, name: str, kind: str, num_rows: int) -> None:
        spec = {"context": {"shape": [2]}, "action_dim": 2, "seed": 1, "training": _TRAINING}
        self._call("PUT", f"/bandits/{name}", 201, json=spec | _SPECS[kind])
        actions = {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]}
        self._call("PUT", f"/bandits/{name}/actions", json=actions)
        self._learn(name, num_rows)

    def _learn(self, name: str, num_rows: int) -> None:
        for _ in range(num_rows):
            context = self._rng.normal(size=2).round(3).tolist()
            select = {"bandit": name, "context": context}
            decision = self._call("POST", "/select", json=select)
            if decision.status_code != 200:
                return
            reward = {"decision_id": decision.json()["decision_id"], "reward": float(context[0])}
            answer = self._call("POST", "/reward", json=reward)
            if answer.json().get("status") != "applied":
                self.wrong.append(f"{name}: a reward was answered {answer.text[:200]}")
                return

    def _scores(self, name: str) -> Any:
        path = f"/bandits/{name}/score"
        return self._call("POST", path, json={"context": [1.0, -0.5]}).json().get("scores")

    def prepare(self) -> None:
        for kind in _SPECS:
            self._create(f"source-{kind}", kind, _ROWS)
            self._call("POST", f"/bandits/source-{kind}/train?wait=true")
            self._learn(f"source-{kind}", 3)
            answer = self._call("GET", f"/bandits/source-{kind}/snapshot")
            self._exports[kind] = answer.content

    def case(self, number: int) -> None:
        kind = list(_SPECS)[number % len(_SPECS)]
        name = f"case-{number}"
        self._create(name, kind, 2)
        before = self._scores(name)
        export = self._exports[kind]
        allowed: tuple[int, ...] = (200,)
        if number % _UNCHANGED:
            export, allowed = _poisoned(export, self._rng), (200, 409, 422)
        answer = self._call("PUT", f"/bandits/{name}/snapshot", *allowed, content=export)
        self.counts[f"answered {answer.status_code}"] += 1
        if answer.status_code != 200 and self._scores(name) != before:
            self.wrong.append(f"{name} ({kind}): refused, and it scores otherwise")
        self._learn(name, _ROWS)
        if answer.status_code == 200:
            self._call("POST", f"/bandits/{name}/train?wait=true")

    def check(self) -> None:
        """Kill the server and start it again: everything is applied and served."""
        self._server.kill()
        self._server.spawn()
        self._server.wait_ready()
        self.counts["restarts"] += 1
        ready = self._call("GET", "/readyz").json()
        if ready["status"] != "ready":
            self.wrong.append(f"not ready: {ready}")
        for bandit in self._call("GET", "/bandits?limit=1000").json()["bandits"]:
            state = self._call("GET", f"/bandits/{bandit['name']}").json()
            if state.get("failed") or state["position"] != state.get("head", state["position"]):
                self.wrong.append(f"{bandit['name']} does not learn: {state}")

    def delete(self, numbers: range) -> None:
        """Delete all but some of the bandits of these cases, so that verification takes less."""
        for number in numbers:
            if number % 5:
                self._call("DELETE", f"/bandits/case-{number}", 204)


def _prove(folder: Path, cases: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    with (
        Server(folder / "data") as server,
        httpx.Client(timeout=60.0, trust_env=False) as client,
    ):
        run = _Run(server, client, seed)
        run.prepare()
        for first in range(0, cases, _BATCH):
            numbers = range(first, min(first + _BATCH, cases))
            for number in numbers:
                run.case(number)
            run.check()
            run.delete(numbers)
        if server.stop() != 0:
            run.wrong.append("the server did not end in order")
    lines = server.log.read_text().splitlines()
    run.wrong += [line for line in lines if '"level": "error"' in line or "Traceback" in line]
    if found := verify(folder / "data"):
        run.wrong.append(f"bandexa verify: {found}")
    return {"cases": cases, **run.counts}, run.wrong


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("imports", __doc__)
    parser.add_argument("--cases", type=int, default=400, help="how many exports are changed")
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    given = parser.parse_args(argv)
    if given.cases < 1:
        parser.error("--cases must be positive")
    with tempfile.TemporaryDirectory(prefix="bandexa-imports-") as name:
        results, wrong = _prove(Path(name), given.cases, given.seed)
    claim = "no import stops a bandit, a start or another bandit"
    return report("imports", results, given.json, wrong=wrong, claim=claim)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
