"""Callbacks of more than 5 ms on the event loop of `bandexa serve`, in the loads of the timings.

The server runs on a loop that times each callback by the CPU time of the loop's thread
(`benchmarks.stalls`), so that other processes do not count. Each load is a number of requests from
32 clients, 4 for batches: selects and pairs with their rewards of `per_action` and `mlp`, batches
of 100 and of 1,000, selects among 10,000 actions that have a posterior each, and selects spread
over 100 bandits. A load warms up first; a figure is its longest callback above 5 ms, 0 without one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_client import BanditClient
from benchmarks import stalls
from benchmarks.closed_loop import LoadFailed, Plan, rate
from benchmarks.report import Target, arguments, report
from benchmarks.server import Server, ServerFailed
from benchmarks.workload import BATCH, contexts, create, linear_spec, mlp_spec, prepare

BANDITS = 100
LARGE = 10_000  # actions
_WARM_UP = 0.1
_MS = 1e3
LOADS = (
    "select_per_action", "select_mlp", "pairs_per_action", "pairs_mlp", "batch_per_action",
    "batch_mlp", "batch_of_1000", "select_10000_actions", "select_100_bandits",
)  # fmt: skip
TARGETS = {f"{name}_ms": Target(1e3 * stalls.REPORTED_S) for name in LOADS}


def plans(url: str, share: float) -> dict[str, Plan]:
    """Return what each load sends to a server that `prepared` has prepared."""
    drawn = contexts(10 * BATCH, np.random.default_rng(1))

    def plan(names: Sequence[str], num: int, size: int = 0, *, rewards: bool = False) -> Plan:
        items: list[dict[str, Any]] = [
            {"bandit": names[number % len(names)], "context": x} for number, x in enumerate(drawn)
        ]
        parts = range(0, len(items), size) if size else ()
        bodies = [{"items": items[first : first + size]} for first in parts] or items
        return Plan(
            url, "/select/batch" if size else "/select", [json.dumps(body) for body in bodies],
            clients=4 if size else 32, rewards=rewards, requests=max(8, int(share * num)),
        )  # fmt: skip

    return {
        "select_per_action": plan(["per_action"], 4000),
        "select_mlp": plan(["mlp"], 4000),
        "pairs_per_action": plan(["per_action"], 4000, rewards=True),
        "pairs_mlp": plan(["mlp"], 4000, rewards=True),
        "batch_per_action": plan(["per_action"], 100, BATCH),
        "batch_mlp": plan(["mlp"], 100, BATCH),
        "batch_of_1000": plan(["per_action"], 20, 10 * BATCH),
        "select_10000_actions": plan(["large"], 400),
        "select_100_bandits": plan([name_of(number) for number in range(BANDITS)], 4000),
    }


def name_of(number: int) -> str:
    """Return the name of one of the 100 bandits."""
    return f"b{number:03d}"


def prepare_many(url: str) -> None:
    """Create the 100 bandits, each with a posterior for each of 50 actions."""
    with BanditClient(url, trust_env=False, timeout_s=120.0) as client:
        for number in range(BANDITS):
            create(client, name_of(number), linear_spec())


def _prepare(url: str) -> None:
    prepare(url, "per_action", linear_spec())
    prepare(url, "mlp", mlp_spec())
    prepare_many(url)
    with BanditClient(url, trust_env=False, timeout_s=120.0) as client:
        client.put_bandit("large", linear_spec())
        client.put_actions("large", [f"a{number}" for number in range(LARGE)])


def measure(share: float, wanted: str = "") -> dict[str, float]:
    """Return the longest callback of each load, in milliseconds, and how many were above 5 ms.

    Args:
        share: Of the usual numbers of requests.
        wanted: Part of the names of the loads that are run.

    Raises:
        ServerFailed, LoadFailed, BanditError, SubprocessError: It could not be measured.
    """
    with tempfile.TemporaryDirectory(prefix="bandexa-benchmark-") as folder:
        path = Path(folder) / "stalls.jsonl"
        environment = {stalls.STALLS_FILE: str(path), "BANDEXA_LOG_LEVEL": "warning"}
        data = Path(folder) / "data"
        with Server(data, "commit", environment=environment, command=stalls.COMMAND) as server:
            _prepare(server.address)
            results: dict[str, float] = {}
            for name, plan in plans(server.address, share).items():
                if wanted not in name:
                    continue
                assert plan.requests is not None
                rate(replace(plan, requests=max(8, int(_WARM_UP * plan.requests))))
                begun = time.time()
                rate(plan)
                found = stalls.read(path, begun)
                for stall in found[:3]:
                    print(
                        f"{name}: {_MS * stall.seconds:.1f} ms, {_MS * stall.collecting:.1f} of"
                        f" them garbage collection, in {stall.what}",
                        flush=True,
                    )
                results[f"{name}_ms"] = _MS * found[0].seconds if found else 0.0
                results[f"{name}_above_5_ms"] = len(found)
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("event_loop", __doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual numbers of requests")
    parser.add_argument("--only", default="", help="part of the names of the loads that are run")
    given = parser.parse_args(argv)
    try:
        results = measure(given.share, given.only)
    except (ServerFailed, LoadFailed) as error:
        print(f"benchmarks event_loop: {error}", file=sys.stderr)
        return 1
    targets = {name: target for name, target in TARGETS.items() if given.only in name}
    return report("event_loop", results, given.json, targets=targets)
