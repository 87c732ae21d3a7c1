"""Measures what deciding, storing and learning cost beside HTTP: `bandexa serve` over two ceilings.

The ceilings (`ceiling`) are an empty FastAPI endpoint with request and response models, against
which the targets are, and an ASGI application that sends constant bytes; both on the uvicorn
settings of `bandexa serve` and under the same load (`closed_loop`, 32 clients). A select chooses
among 50 catalogue actions for a context in R^16 in JSON, with an `mlp` of 32 features (hidden
layers of 128 and 128), a panel of 64 and its propensity; `small` has one hidden layer of 64, and
`per_action` a posterior for each action. All servers run at once and take turns; the median of the
turns counts. No training runs meanwhile.

Throughput depends on what else the machine does. The CPU time of a server per request, all its
threads together, depends on it less and is reported beside. `decision_cpu_us` is the arithmetic of
one decision in process, without HTTP and store: what a select takes at least.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bandexa_core.ids import DecisionId
from benchmarks.closed_loop import LoadFailed, Plan, driver, rate
from benchmarks.in_process import InProcessClient
from benchmarks.processes import cpu_s
from benchmarks.report import Target, arguments, report
from benchmarks.server import Server, ServerFailed, temporary_server
from benchmarks.workload import BATCH, DIM, NUM_ACTIONS, contexts, linear_spec, mlp_spec, prepare

_LEARNED = 300
TARGETS = {
    "select_os": Target(0.65, 0.75, at_most=False, unit="of FastAPI's requests/s"),
    "select_per_action": Target(0.60, 0.75, at_most=False, unit="of FastAPI's requests/s"),
    "select_commit": Target(0.45, 0.65, at_most=False, unit="of FastAPI's requests/s"),
    "pairs_commit": Target(0.55, 0.70, at_most=False, unit="of FastAPI's requests/s"),
    "pairs_per_action": Target(0.55, 0.70, at_most=False, unit="of FastAPI's requests/s"),
    "batch_os_cpu_us": Target(70.0, 45.0, unit="us of CPU a decision"),
    "batch_per_action_cpu_us": Target(60.0, 40.0, unit="us of CPU a decision"),
}
# Each figure: the load that is measured, and the load that it is divided by.
_OVER = {
    "select_os": ("select_os", "fastapi_select"),
    "select_per_action": ("select_per_action", "fastapi_select"),
    "select_commit": ("select_commit", "fastapi_select"),
    "select_small_os": ("select_small_os", "fastapi_select"),
    "pairs_commit": ("pairs_commit", "fastapi_pairs"),
    "pairs_per_action": ("pairs_per_action", "fastapi_pairs"),
    "batch": ("batch_os", "select_os"),
    "batch_over_fastapi": ("batch_os", "fastapi_batch"),
    "select_os_over_asgi": ("select_os", "asgi_select"),
    "select_commit_over_asgi": ("select_commit", "asgi_select"),
    "pairs_commit_over_asgi": ("pairs_commit", "asgi_pairs"),
    "batch_over_asgi": ("batch_os", "asgi_batch"),
}


@dataclass(frozen=True)
class _Load:
    """One load: its server, its plan, and the decisions of each of its requests."""

    server: Server
    plan: Plan
    decisions: int = 1


def _decision_cpu_us() -> float:
    """Return the CPU time of a decision's arithmetic alone."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((NUM_ACTIONS, DIM)).astype(np.float32)
    ids = [f"a{n}" for n in range(NUM_ACTIONS)]
    client = InProcessClient("default", mlp_spec(), ids, features)
    for number, context in enumerate(contexts(_LEARNED, rng)):
        client.select("default", context, decision_id=str(number))
        client.reward(str(number), float(rng.uniform(-1.0, 1.0)))
    client.train("default")
    model, x = client.model, rng.standard_normal(DIM).astype(np.float32)
    times = []
    for block in range(20):
        started = time.process_time()
        for number in range(100):
            decision = DecisionId(f"{block}-{number}")
            model.select(decision, x, model.enabled_candidates())
        times.append((time.process_time() - started) / 100)
    return 1e6 * statistics.median(times)


def _loads(servers: dict[str, Server], seconds: float) -> dict[str, _Load]:
    bodies = [{"context": x} for x in contexts(4 * BATCH, np.random.default_rng(1))]
    single = Plan("", "/select", [json.dumps(body) for body in bodies], seconds)
    small = replace(single, bodies=[json.dumps(body | {"bandit": "small"}) for body in bodies])
    own = [body | {"bandit": "per_action"} for body in bodies]
    per_action = replace(single, bodies=[json.dumps(body) for body in own])

    def batch_of(items: Sequence[dict[str, Any]]) -> Plan:
        parts = (items[first : first + BATCH] for first in range(0, len(items), BATCH))
        batches = [json.dumps({"items": part}) for part in parts]
        return Plan("", "/select/batch", batches, seconds, clients=4)

    batch, pairs = batch_of(bodies), replace(single, rewards=True)
    planned = {
        "select_os": ("os", single, 1),
        "select_per_action": ("os", per_action, 1),
        "select_commit": ("commit", single, 1),
        "select_small_os": ("os", small, 1),
        "pairs_commit": ("commit", pairs, 1),
        "pairs_per_action": ("commit", replace(per_action, rewards=True), 1),
        "batch_os": ("os", batch, BATCH),
        "batch_per_action": ("os", batch_of(own), BATCH),
    }
    for ceiling in ("fastapi", "asgi"):
        planned |= {
            f"{ceiling}_select": (ceiling, single, 1),
            f"{ceiling}_pairs": (ceiling, pairs, 1),
            f"{ceiling}_batch": (ceiling, batch, BATCH),
        }
    return {
        name: _Load(servers[kind], replace(plan, url=servers[kind].address), decisions)
        for name, (kind, plan, decisions) in planned.items()
    }


def measure(repeats: int, seconds: float) -> dict[str, Any]:
    """Load all servers in turns and return the figures.

    Raises:
        ServerFailed, LoadFailed, BanditError, SubprocessError: It could not be measured.
    """
    with ExitStack() as stack:
        servers = {
            ceiling: stack.enter_context(
                temporary_server(command=("-m", "benchmarks.ceiling", ceiling))
            )
            for ceiling in ("fastapi", "asgi")
        }
        for durability in ("os", "commit"):
            servers[durability] = stack.enter_context(temporary_server(durability=durability))
            prepare(servers[durability].address, "default", mlp_spec())
            prepare(servers[durability].address, "per_action", linear_spec())
        prepare(servers["os"].address, "small", mlp_spec(hidden=[64]))
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
    for name, (above, below) in _OVER.items():
        pairs = [a / b for a, b in zip(rates[above], rates[below], strict=True)]
        results[name] = statistics.median(pairs)
        results[f"{name}_by_turn"] = [round(ratio, 3) for ratio in pairs]
        costs = [b / a for a, b in zip(cpu_us[above], cpu_us[below], strict=True)]
        results[f"{name}_by_cpu_time"] = statistics.median(costs)
    for name, found in rates.items():
        results[f"{name}_per_s"] = statistics.median(found)
        results[f"{name}_cpu_us"] = statistics.median(cpu_us[name])
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("http", __doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns through all loads")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one load")
    given = parser.parse_args(argv)
    print(f"driver: {driver()}")
    try:
        results = measure(given.repeats, given.seconds)
    except (ServerFailed, LoadFailed) as error:
        print(f"benchmarks http: {error}", file=sys.stderr)
        return 1
    return report("http", results, given.json, targets=TARGETS)
