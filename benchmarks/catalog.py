"""Measures large catalogues: one draw over all actions, candidates by id, and the upload.

In process, a `two_tower` of 64 has 10,000 to 1,000,000 actions. One draw of the weights and the
choice of the best action, after the context tower, is compared with one pass through the same item
matrix: its sum of squares by BLAS, which reads every byte once and writes nothing. Both use one
thread and take turns.

Over HTTP, on a server with durability `os`, 100,000 actions of 64 features are uploaded in pieces,
as JSON lists and as envelopes of bytes. Then selects name 1,000 of them, or bring the features of
the same ones inline.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from bandexa_client import array_body
from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.torch.two_tower import TwoTowerServing
from bandexa_core.policies import EncodedContext, NeuralLinearTS, make_policy
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.protocol import Candidates
from bandexa_core.randomness import bandit_uid, keyed_rng
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec
from benchmarks.processes import cpu_s
from benchmarks.report import Target, arguments, report
from benchmarks.server import temporary_server

_SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
_TOWER, _DIM = 64, 64
_PUT, _PUT_CHUNK, _OFFERED = 100_000, 10_000, 1_000
_CPU_REPEATS, _IN_A_ROW = 100, 10
TARGETS = {f"scan_{name}": Target(2.0, 1.2, unit="passes") for name in _SIZES} | {
    "ids_over_inline": Target(5.0, None, at_most=False, unit="times faster"),
    "put_100k_json_s": Target(10.0, 3.0, unit="s"),
}


def _policy() -> NeuralLinearTS:
    spec = BanditSpec(
        policy="neural_linear_ts", context=ContextSpec(shape=(_DIM,)), action_dim=_DIM,
        encoder=EncoderSpec(name="two_tower", params={"tower_dim": _TOWER}), seed=0,
    )  # fmt: skip
    policy = make_policy(spec, bandit_uid("bench", 0), EncoderRegistry())
    assert isinstance(policy, NeuralLinearTS)
    return policy


def _features(num: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(num).standard_normal((num, _DIM), dtype=np.float32)


def _scan(num: int, repeats: int) -> dict[str, float]:
    """Return the seconds of a select over `num` actions and of one pass through their parts."""
    policy, features = _policy(), _features(num)
    encoder = policy.encoder
    assert isinstance(encoder, TwoTowerServing)
    parts = np.concatenate([encoder.action_part(piece) for piece in np.array_split(features, 50)])
    candidates = Candidates(np.arange(num), features, parts)
    context = EncodedContext(encoder.context_part(features[0]))
    flat, uid = parts.reshape(-1), bandit_uid("bench", 0)

    def select() -> None:
        rng = keyed_rng(uid, 0, "decision", "d")
        policy.select(context, candidates, rng, exploration=Exploration(panel=1))

    times = _in_turns([select, lambda: flat.dot(flat)], repeats)
    return {"select": times[0], "pass": times[1]}


def _in_turns(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of each call."""
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, times in zip(calls, found, strict=True):
            started = time.perf_counter()
            call()
            if turn:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in found]


def _block(call: Callable[[], object]) -> None:
    for _ in range(_IN_A_ROW):
        call()


def _put(client: httpx.Client, bandit: str, *, as_lists: bool) -> float:
    """Upload the catalogue in pieces; returns the seconds, without those of making the bodies."""
    spec = {
        "policy": "neural_linear_ts", "context": {"shape": [_DIM]}, "action_dim": _DIM,
        "encoder": {"name": "two_tower", "params": {"tower_dim": _TOWER}},
        "training": {"mode": "lockstep"}, "seed": 0,
    }  # fmt: skip
    client.put(f"/bandits/{bandit}", json=spec).raise_for_status()
    features = _features(_PUT)
    bodies = []
    for first in range(0, _PUT, _PUT_CHUNK):
        piece = features[first : first + _PUT_CHUNK]
        sent = piece.tolist() if as_lists else array_body("float32", piece.shape, piece.tobytes())
        ids = [f"a{first + n}" for n in range(len(piece))]
        body = {"ids": ids, "features": _rounded(sent) if as_lists else sent}
        bodies.append(json.dumps(body).encode())
    started = time.perf_counter()
    for content in bodies:
        client.put(f"/bandits/{bandit}/actions", content=content).raise_for_status()
    return time.perf_counter() - started


def _rounded(rows: Any) -> list[list[float]]:
    return [[round(x, 4) for x in row] for row in rows]


def _over_http(repeats: int) -> dict[str, float]:
    results: dict[str, float] = {}
    with (
        temporary_server() as server,
        httpx.Client(
            base_url=server.address, headers={"content-type": "application/json"}, trust_env=False,
            timeout=120.0,
        ) as client,
    ):  # fmt: skip
        results["put_100k_json_s"] = _put(client, "lists", as_lists=True)
        results["put_100k_bytes_s"] = _put(client, "bytes", as_lists=False)
        offered = np.random.default_rng(3).permutation(_PUT)[:_OFFERED]
        features = _rounded(_features(_PUT)[offered].tolist())
        ids = [f"a{n}" for n in offered]
        inline = [{"id": i, "features": row} for i, row in zip(ids, features, strict=True)]
        request = {"bandit": "lists", "context": features[0]}

        # httpx alone needs a millisecond for each request.
        address = urlsplit(server.address)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=120.0)

        def select(content: bytes) -> None:
            connection.request("POST", "/select", content, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200

        bodies = [json.dumps(request | {"candidates": given}).encode() for given in (ids, inline)]
        blocks = [partial(_block, partial(select, body)) for body in bodies]
        by_ids, brought = (s / _IN_A_ROW for s in _in_turns(blocks, repeats))
        used = []
        for body in bodies:
            before = cpu_s(server.pid)
            for _ in range(_CPU_REPEATS):
                select(body)
            used.append(cpu_s(server.pid) - before)
        connection.close()
    results["ids_over_inline_by_cpu_time"] = used[1] / used[0]
    results["select_by_ids_ms"], results["select_inline_ms"] = 1e3 * by_ids, 1e3 * brought
    results["ids_over_inline"] = brought / by_ids
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("catalog", __doc__)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args(argv)
    results: dict[str, float] = {}
    for name, num in _SIZES.items():
        found = _scan(num, given.repeats)
        results[f"scan_{name}"] = found["select"] / found["pass"]
        results[f"scan_{name}_ms"] = 1e3 * found["select"]
        results[f"scan_{name}_pass_ms"] = 1e3 * found["pass"]
    results |= _over_http(given.repeats)
    return report("catalog", results, given.json, targets=TARGETS)
