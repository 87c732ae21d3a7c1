"""Decisions per second of `bandexa serve` over those of FastAPI files around other libraries.

`python -m benchmarks.peers --serving`. All servers do the same work (see `served`): a decision
among 50 actions for a context in R^16 is logged with its propensity before it is answered, and its
reward is joined and learned. Half of the requests of 32 clients are rewards. Ours has a posterior
for each action and syncs every commit; the others' files survive a killed process, not a power
loss. All servers run at once and take turns; the median of the turns counts. A library that is not
installed is named, and the rest is measured.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from benchmarks.closed_loop import LoadFailed, Plan, driver, rate
from benchmarks.peers.served import LIBRARIES
from benchmarks.processes import cpu_s
from benchmarks.report import Target, arguments, report
from benchmarks.server import Server, ServerFailed, temporary_server
from benchmarks.workload import contexts, linear_spec, prepare

OPTION = "--serving"
OURS = ("commit", "os")
PACKAGES = {"vw": "vowpalwabbit", "mabwiser": "mabwiser", "bayesianbandits": "bayesianbandits"}
TARGETS = {
    "over_vw": Target(1.7, 2.1, at_most=False, unit="of its decisions/s"),
    "over_mabwiser": Target(4.0, 5.0, at_most=False, unit="of its decisions/s"),
    "over_bayesianbandits": Target(17.0, 22.0, at_most=False, unit="of its decisions/s"),
}


def measure(turns: int, seconds: float, libraries: Sequence[str]) -> dict[str, float]:
    """Return decisions per second and CPU time of each server, and ours over the others'.

    Raises:
        ServerFailed, LoadFailed, BanditError, SubprocessError: It could not be measured.
    """
    bodies = [json.dumps({"context": x}) for x in contexts(400, np.random.default_rng(1))]
    plan = Plan("", "/select", bodies, seconds, rewards=True)
    rates: dict[str, list[float]] = {}
    cpu_us: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for durability in OURS:
            servers[durability] = stack.enter_context(temporary_server(durability=durability))
            prepare(servers[durability].address, "default", linear_spec())
        for name in libraries:
            command = ("-m", "benchmarks.peers.served", name)
            servers[name] = stack.enter_context(temporary_server(command=command))
        for turn in range(turns + 1):
            for name, server in servers.items():
                # The first turn warms up, and teaches the others what ours has learned already.
                own = replace(plan, url=server.address, seconds=seconds if turn else 1.0)
                before = cpu_s(server.pid)
                found = rate(own) / 2.0
                if turn:
                    rates.setdefault(name, []).append(found)
                    used = cpu_s(server.pid) - before
                    cpu_us.setdefault(name, []).append(1e6 * used / (found * own.seconds))
    results: dict[str, float] = {}
    for name in libraries:
        for ours, suffix in (("commit", ""), ("os", "_os")):
            pairs = zip(rates[ours], rates[name], strict=True)
            results[f"over_{name}{suffix}"] = statistics.median(a / b for a, b in pairs)
            costs = zip(cpu_us[ours], cpu_us[name], strict=True)
            results[f"cpu_over_{name}{suffix}"] = statistics.median(b / a for a, b in costs)
    for name, each in rates.items():
        results[f"{name}_decisions_per_s"] = statistics.median(each)
        results[f"{name}_cpu_us"] = statistics.median(cpu_us[name])
    return results


def compare(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments(f"peers {OPTION}", __doc__)
    parser.add_argument(OPTION, action="store_true", required=True)
    parser.add_argument("--turns", type=int, default=5, help="turns through all servers")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one turn")
    given = parser.parse_args(argv)
    here = [name for name in LIBRARIES if importlib.util.find_spec(PACKAGES[name]) is not None]
    for name in LIBRARIES:
        if name not in here:
            print(f"left out: {PACKAGES[name]} is not installed: pip install '.[peers]'")
    print(f"driver: {driver()}")
    try:
        results = measure(given.turns, given.seconds, here)
    except (ServerFailed, LoadFailed) as error:
        print(f"benchmarks peers {OPTION}: {error}", file=sys.stderr)
        return 1
    targets = {f"over_{name}": TARGETS[f"over_{name}"] for name in here}
    return report("serving", results, given.json, targets=targets)
