"""Measures what deciding, keeping and learning cost beside HTTP itself: ours over the ceiling.

The ceiling (`ceiling`) is an empty FastAPI endpoint with the same request and response models, on
the same kind of server process, under the same driver (`closed_loop`). A select chooses among 50
catalogue actions for a context in R^16 sent as JSON, with an `mlp` of 32 features as it comes
(hidden layers of 128 and 128), a panel of 64 and its propensity; 32 clients. Three servers run at
once and are asked in turns; of each figure the median counts. No round of training runs.

Throughput of both depends on what else the machine does; their CPU time per request (all threads
of the server) less so, and is told beside it. `decision_cpu_us` is the arithmetic of one decision
in process, neither sent nor kept: what a select, or a decision of a batch, takes at least.

Runs private servers in temporary folders; nothing is kept but the JSON file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_client import BanditClient, Rejected, RewardReport, SelectRequest
from bandexa_core.ids import DecisionId
from benchmarks.closed_loop import LoadFailed, Plan, driver, rate
from benchmarks.in_process import InProcessClient
from benchmarks.processes import cpu_s, on_one_thread
from benchmarks.targets import Target, report
from simulators.private_server import PrivateServer, ServerFailedError, interruptible

DIM, NUM_ACTIONS, FEATURES, BATCH = 16, 50, 32, 100
_ROWS = 300
_CEILING = (sys.executable, "-m", "benchmarks.ceiling")
TARGETS = {
    "select_os": Target(0.50, 0.70, at_most=False, unit="of the ceiling's requests/s"),
    "select_commit": Target(0.45, 0.65, at_most=False, unit="of the ceiling's requests/s"),
    "pairs_commit": Target(0.40, 0.60, at_most=False, unit="of the ceiling's requests/s"),
    "batch": Target(8.0, 20.0, at_most=False, unit="times the single selects' decisions/s"),
}


@dataclass(frozen=True)
class _Load:
    """One thing that is measured: its server, its plan, and decisions per request."""

    server: PrivateServer
    plan: Plan
    decisions: int = 1


def spec(**encoder: Any) -> dict[str, Any]:
    """Return the bandit that is asked."""
    return {
        "policy": "neural_linear_ts", "context": {"shape": [DIM]}, "action_dim": DIM,
        "encoder": {"name": "mlp", "params": {"feature_dim": FEATURES} | encoder},
        "training": {"mode": "lockstep"}, "reward_range": [-1.0, 1.0], "seed": 0,
    }  # fmt: skip


def prepare(url: str, bandit: str, spec: dict[str, Any]) -> None:
    """Create a bandit and have it serve a trained model."""
    rng = np.random.default_rng(0)
    with BanditClient(url, trust_env=False, timeout_s=120.0) as client:
        client.put_bandit(bandit, spec)
        features = rng.standard_normal((NUM_ACTIONS, DIM)).round(4)
        client.put_actions(bandit, [f"a{n}" for n in range(NUM_ACTIONS)], features.tolist())
        for _ in range(_ROWS // BATCH):
            asked = [SelectRequest(bandit, context) for context in contexts(BATCH, rng)]
            reports = []
            for chosen in client.select_batch(asked):
                if isinstance(chosen, Rejected):
                    raise chosen
                reports.append(RewardReport(chosen.decision_id, float(rng.uniform(-1.0, 1.0))))
            client.reward_batch(reports)
        client.train(bandit)


def contexts(num: int, rng: np.random.Generator) -> list[list[float]]:
    """Return contexts as they are sent."""
    return [row.round(4).tolist() for row in rng.standard_normal((num, DIM))]


def _decision_cpu_us() -> float:
    """Return the CPU time of a decision's arithmetic alone."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((NUM_ACTIONS, DIM)).astype(np.float32)
    ids = [f"a{n}" for n in range(NUM_ACTIONS)]
    client = InProcessClient("default", spec(), ids, features)
    for number, context in enumerate(contexts(_ROWS, rng)):
        client.select("default", context, decision_id=str(number))
        client.reward(str(number), float(rng.uniform(-1.0, 1.0)))
    client.train("default")
    model, asked = client.model, rng.standard_normal(DIM).astype(np.float32)
    times = []
    for block in range(20):
        started = time.process_time()
        for number in range(100):
            decision = DecisionId(f"{block}-{number}")
            model.select(decision, asked, model.enabled_candidates())
        times.append((time.process_time() - started) / 100)
    return 1e6 * statistics.median(times)


def _loads(servers: dict[str, PrivateServer], seconds: float) -> dict[str, _Load]:
    bodies = [{"context": x} for x in contexts(4 * BATCH, np.random.default_rng(1))]
    small = [json.dumps(body | {"bandit": "small"}) for body in bodies]
    single = Plan("", "/select", [json.dumps(body) for body in bodies], seconds)
    batches = [
        json.dumps({"items": bodies[first : first + BATCH]})
        for first in range(0, len(bodies), BATCH)
    ]
    batch = Plan("", "/select/batch", batches, seconds, clients=4)
    pairs = replace(single, rewards=True)
    planned = {
        "ceiling": ("ceiling", single, 1),
        "select_os": ("os", single, 1),
        "select_commit": ("commit", single, 1),
        "ceiling_pairs": ("ceiling", pairs, 1),
        "pairs_commit": ("commit", pairs, 1),
        "batch": ("os", batch, BATCH),
        "select_small_os": ("os", replace(single, bodies=small), 1),
    }
    return {
        name: _Load(servers[kind], replace(plan, url=servers[kind].url), decisions)
        for name, (kind, plan, decisions) in planned.items()
    }


def measure(repeats: int, seconds: float) -> dict[str, Any]:
    """Ask three servers in turns; returns the figures.

    Raises:
        ServerFailedError, LoadFailed, BanditError, SubprocessError: It could not be measured.
    """
    with interruptible(), ExitStack() as stack:
        servers = {"ceiling": stack.enter_context(PrivateServer(command=_CEILING))}
        for durability in ("os", "commit"):
            server = PrivateServer(device="cpu", durability=durability)
            servers[durability] = stack.enter_context(server)
            prepare(server.url, "default", spec())
        prepare(servers["os"].url, "small", spec(hidden=[64]))
        loads = _loads(servers, seconds)
        rates: dict[str, list[float]] = {name: [] for name in loads}
        cpu_us: dict[str, list[float]] = {name: [] for name in loads}
        for turn in range(repeats + 1):
            for name, load in loads.items():
                plan = load.plan if turn else replace(load.plan, seconds=1.0)  # warms up
                before = cpu_s(load.server.pid)
                found = rate(plan) * load.decisions
                if turn:
                    rates[name].append(found)
                    used = cpu_s(load.server.pid) - before
                    cpu_us[name].append(1e6 * used / (found * round(plan.seconds)))
    return _figures(rates, cpu_us) | {"decision_cpu_us": _decision_cpu_us()}


def _figures(rates: dict[str, list[float]], cpu_us: dict[str, list[float]]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    over = {
        "select_os": "ceiling",
        "select_commit": "ceiling",
        "pairs_commit": "ceiling_pairs",
        "batch": "select_os",
        "select_small_os": "ceiling",
    }
    for name, base in over.items():
        pairs = [a / b for a, b in zip(rates[name], rates[base], strict=True)]
        results[name] = statistics.median(pairs)
        results[f"{name}_by_turn"] = [round(ratio, 3) for ratio in pairs]
        costs = [b / a for a, b in zip(cpu_us[name], cpu_us[base], strict=True)]
        results[f"{name}_by_cpu_time"] = statistics.median(costs)
    for name, found in rates.items():
        results[f"{name}_per_s"] = statistics.median(found)
        results[f"{name}_cpu_us"] = statistics.median(cpu_us[name])
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bandexa bench http", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn at one figure")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    print(f"driver: {driver()}")
    try:
        results = measure(given.repeats, given.seconds)
    except (ServerFailedError, LoadFailed) as error:
        print(f"bandexa bench http: {error}", file=sys.stderr)
        return 1
    return report("http", results, TARGETS, given.json)


if __name__ == "__main__":
    sys.exit(on_one_thread("benchmarks.http", main))
