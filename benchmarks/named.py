"""Selects with named features over selects with the equal vector: CPU time, in process and HTTP.

A visit has eight fields: two categories, two numbers (one with gaps), a list of tags, words, a time
and a flag. The vector is what the encoding of a trained bandit makes of them, so that the model
behind it has the same inputs; what is left is reading the object, and encoding it. `auto` declares
nothing and chooses among 20 offers with features; `per_action` is `linear_ts` with a posterior for
each of 20 actions. Over HTTP the CPU time is that of the server, with all its threads. Turns of
both sides follow each other as A B B A; the median of their ratios counts.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bandexa_client import BanditClient, Rejected, RewardReport, SelectRequest
from bandexa_core.policies import NeuralLinearTS
from bandexa_core.policies.named_inputs import padded
from bandexa_core.schema import accept
from benchmarks.closed_loop import Plan, rate
from benchmarks.compare import settled_cpu_s
from benchmarks.in_process import InProcessClient
from benchmarks.processes import cpu_s
from benchmarks.report import Target, arguments, report
from benchmarks.server import Server

NUM_OFFERS, ROWS, NUM_VISITS, BATCH = 20, 600, 256, 100
_TURN_S, _TURNS, _REQUESTS = 0.1, 15, 500
_MUST = Target(1.25, 1.1)
_IDS = [f"offer-{number:02}" for number in range(NUM_OFFERS)]
_TRAINING = {"training": {"mode": "lockstep"}, "seed": 0}
_OFFERS: list[dict[str, Any]] = [
    {
        "kind": ("gift", "tea", "mug", "book")[number % 4],
        "price": 4.0 + 1.5 * number,
        "tags": [("new", "green", "sale")[number % 3]],
    }
    for number in range(NUM_OFFERS)
]


class _Case(NamedTuple):
    """A configuration with named contexts, and one with vectors, beside actions of one form."""

    named: dict[str, Any]
    vector: dict[str, Any]
    features: list[dict[str, Any]] | None


_CASES: dict[str, _Case] = {
    "auto": _Case(
        {"context": {"features": "auto"}, "actions": {"features": "auto"}, **_TRAINING},
        {"encoder": {"name": "kernel"}, "actions": {"features": "auto"}, **_TRAINING},
        _OFFERS,
    ),
    "per_action": _Case(
        {"policy": "linear_ts", "context": {"features": "auto"}, **_TRAINING},
        {"policy": "linear_ts", "encoder": {"name": "per_action"}, **_TRAINING},
        None,
    ),
}
_ENCODERS = {"auto": "kernel", "per_action": "crosses"}  # as the server derives them
TARGETS = {f"{name}_{where}": _MUST for name in _CASES for where in ("in_process", "http")}


def visits(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return contexts with eight fields."""
    return [
        {
            "device": ("phone", "pc", "tablet")[int(rng.integers(3))],
            "country": f"c{int(rng.zipf(1.6)) % 30}",
            "age": int(rng.integers(18, 80)),
            "basket": None if rng.random() < 0.3 else round(float(rng.lognormal(3.0, 1.0)), 2),
            "interests": [("new", "green", "sale", "old")[int(n)] for n in rng.integers(4, size=2)],
            "query": " ".join(("gift", "black", "tea", "for", "him")[int(n)]
                              for n in rng.integers(5, size=3)),
            "at": f"2026-11-{int(rng.integers(1, 29)):02}T{int(rng.integers(24)):02}:30:00Z",
            "member": bool(rng.random() < 0.4),
        }
        for _ in range(num)
    ]  # fmt: skip


def _reward(visit: dict[str, Any], offer: int) -> float:
    suits = (visit["device"] == "phone") == (offer % 4 < 2)
    return float(suits) + 0.1 * float(visit["age"] > 40)


def _taught(client: InProcessClient, contexts: Sequence[Any], seen: Sequence[Any]) -> None:
    for number, (context, visit) in enumerate(zip(contexts, seen, strict=True)):
        decision = f"r{number}"
        chosen = client.select("b", context, decision_id=decision)
        client.reward(decision, _reward(visit, chosen.action.index))
    client.train("b")


def _vectors(client: InProcessClient, seen: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Return what the encoding of a trained bandit makes of visits."""
    policy, side = client.model.policy, client.model.spec.context
    assert isinstance(policy, NeuralLinearTS)
    assert policy.named is not None
    assert side.declared is not None
    rows = [padded(accept(side.declared, each, "context"), side.max_bytes) for each in seen]
    found: list[list[float]] = policy.named.contexts(np.stack(rows)).round(4).tolist()
    return found


class _Pair(NamedTuple):
    """Both sides of a case: clients, and the contexts of their turns."""

    clients: tuple[InProcessClient, InProcessClient]
    contexts: tuple[list[Any], list[Any]]
    taught: tuple[list[Any], list[Any]]
    size: int


def _pair(name: str) -> _Pair:
    case, rng = _CASES[name], np.random.default_rng(1)
    first, later = visits(ROWS, rng), visits(NUM_VISITS, rng)
    body = case.named | {"encoder": {"name": _ENCODERS[name]}}
    named = InProcessClient("b", body, _IDS, case.features)
    _taught(named, first, first)
    encoded, turns = _vectors(named, first), _vectors(named, later)
    size = len(encoded[0])
    vector = InProcessClient("b", case.vector | {"context": {"shape": [size]}}, _IDS, case.features)
    _taught(vector, encoded, first)
    return _Pair((named, vector), (later, turns), (first, encoded), size)


def _in_process(pair: _Pair, turns: int) -> tuple[list[float], list[float]]:
    numbers = itertools.count()

    def turn_us(place: int, steps: int) -> float:
        client, contexts = pair.clients[place], pair.contexts[place]
        before = time.process_time()
        for _ in range(steps):
            number = next(numbers)
            client.select("b", contexts[number % NUM_VISITS], decision_id=f"d{number}")
        return 1e6 * (time.process_time() - before) / steps

    steps = max(4, int(1e6 * _TURN_S / turn_us(0, 40)))
    return _costs(lambda place: turn_us(place, steps), turns)


def _costs(turn: Callable[[int], float], turns: int) -> tuple[list[float], list[float]]:
    """Return the costs of both sides, turn by turn; the first ones warm up and are dropped."""
    costs: tuple[list[float], list[float]] = ([], [])
    for number in range(turns + 1):
        for place in (0, 1) if number % 2 else (1, 0):
            costs[place].append(turn(place))
    return costs[0][1:], costs[1][1:]


def _over_http(server: Server, name: str, pair: _Pair, turns: int) -> tuple[list[float], ...]:
    case = _CASES[name]
    bandits = (f"{name}-named", f"{name}-vector")
    bodies = (case.named, case.vector | {"context": {"shape": [pair.size]}})
    with BanditClient(server.address, trust_env=False, timeout_s=120.0) as client:
        for bandit, body, contexts in zip(bandits, bodies, pair.taught, strict=True):
            client.put_bandit(bandit, body)
            client.put_actions(bandit, _IDS, case.features)
            _learn(client, bandit, contexts, pair.taught[0])
    plans = [
        Plan(server.address, "/select",
             [json.dumps({"bandit": bandit, "context": each}) for each in contexts],
             requests=_REQUESTS)
        for bandit, contexts in zip(bandits, pair.contexts, strict=True)
    ]  # fmt: skip

    def turn_us(place: int) -> float:
        before = cpu_s(server.pid)
        rate(plans[place])
        return 1e6 * (settled_cpu_s(server.pid) - before) / _REQUESTS

    return _costs(turn_us, turns)


def _learn(client: BanditClient, bandit: str, contexts: list[Any], seen: list[Any]) -> None:
    for first in range(0, len(contexts), BATCH):
        part = range(first, min(first + BATCH, len(contexts)))
        reports = []
        chosen = client.select_batch([SelectRequest(bandit, contexts[n]) for n in part])
        for number, decision in zip(part, chosen, strict=True):
            if isinstance(decision, Rejected):
                raise decision
            reward = _reward(seen[number], decision.action.index)
            reports.append(RewardReport(decision.decision_id, reward))
        client.reward_batch(reports)
    client.train(bandit)


def _figures(name: str, costs: tuple[list[float], ...]) -> dict[str, float]:
    named, vector = costs
    ratios = [one / other for one, other in zip(named, vector, strict=True)]
    return {
        name: statistics.median(ratios),
        f"{name}_named_us": statistics.median(named),
        f"{name}_vector_us": statistics.median(vector),
    }


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("named", __doc__)
    parser.add_argument("--turns", type=int, default=_TURNS, help=f"default {_TURNS}")
    parser.add_argument("--no-http", action="store_true", help="in process alone")
    given = parser.parse_args(argv)
    results: dict[str, float] = {}
    pairs = {name: _pair(name) for name in _CASES}
    for name, pair in pairs.items():
        results[f"{name}_columns"] = pair.size
        results |= _figures(f"{name}_in_process", _in_process(pair, given.turns))
    if not given.no_http:
        with (
            tempfile.TemporaryDirectory(prefix="bandexa-named-") as folder,
            Server(Path(folder) / "data", "os") as server,
        ):
            for name, pair in pairs.items():
                costs = _over_http(server, name, pair, given.turns)
                results |= _figures(f"{name}_http", costs)
    targets = {
        name: target
        for name, target in TARGETS.items()
        if not given.no_http or name.endswith("_in_process")
    }
    return report("named", results, given.json, targets=targets)
