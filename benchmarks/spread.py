"""CPU time of a select where 100 bandits have the traffic, over that where one bandit has it all.

One server, one load after the other: the same contexts in the same order from 32 clients, to one
bandit or to 100 in turn, each with a posterior for each of 50 actions. The loads take turns; the
median of the turns counts.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.closed_loop import LoadFailed, rate
from benchmarks.event_loop import plans, prepare_many
from benchmarks.processes import cpu_s
from benchmarks.report import Target, arguments, report
from benchmarks.server import ServerFailed, temporary_server
from benchmarks.workload import linear_spec, prepare

ONE, MANY = "select_per_action", "select_100_bandits"
TARGETS = {"select_100_bandits": Target(1.2, unit="times the CPU time of one bandit's")}


def measure(turns: int, requests: int) -> dict[str, float]:
    """Return the CPU time of a select under both loads, in microseconds, and their ratio.

    Raises:
        ServerFailed, LoadFailed, BanditError, SubprocessError: It could not be measured.
    """
    cpu_us: dict[str, list[float]] = {ONE: [], MANY: []}
    with temporary_server() as server:
        prepare(server.address, "per_action", linear_spec())
        prepare_many(server.address)
        loads = plans(server.address, 1.0)
        for turn in range(turns + 1):
            for name in (ONE, MANY) if turn % 2 else (MANY, ONE):
                before = cpu_s(server.pid)
                rate(replace(loads[name], requests=requests))
                if turn:  # the first one warms up
                    cpu_us[name].append(1e6 * (cpu_s(server.pid) - before) / requests)
    pairs = list(zip(cpu_us[MANY], cpu_us[ONE], strict=True))
    ratios = sorted(many / one for many, one in pairs)
    return {
        MANY: statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
        "one_bandit_us": statistics.median(cpu_us[ONE]),
        "100_bandits_us": statistics.median(cpu_us[MANY]),
    }


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("spread", __doc__)
    parser.add_argument("--turns", type=int, default=7, help="turns through both loads")
    parser.add_argument("--requests", type=int, default=4000, help="selects of one load")
    given = parser.parse_args(argv)
    try:
        results = measure(given.turns, given.requests)
    except (ServerFailed, LoadFailed) as error:
        print(f"benchmarks spread: {error}", file=sys.stderr)
        return 1
    return report("spread", results, given.json, targets=TARGETS)
