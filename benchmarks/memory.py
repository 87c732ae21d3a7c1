"""Measures the memory of an idle bandit: what each further one adds to a server.

The bandits are those of `http` (an `mlp` of 32 features, 50 actions) and a linear one. The
resident memory of the server is read before and after; the first few bandits are not counted,
because they bring what all of them share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bandexa_client import BanditClient
from benchmarks.processes import resident_bytes
from benchmarks.report import Target, arguments, report
from benchmarks.server import temporary_server
from benchmarks.workload import DIM, create, mlp_spec

_FIRST = 5
TARGETS = {"idle_bandit_mb": Target(2.0, 0.5, unit="MB")}
_LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [DIM]}, "action_dim": DIM,
    "encoder": {"name": "concat"}, "seed": 0,
}  # fmt: skip


def measure(num: int) -> dict[str, float]:
    """Return megabytes per bandit."""
    results = {}
    for label, spec in (("idle_bandit_mb", mlp_spec()), ("idle_linear_bandit_mb", _LINEAR)):
        with (
            temporary_server() as server,
            BanditClient(server.address, trust_env=False, timeout_s=120.0) as client,
        ):
            before = 0
            for number in range(_FIRST + num):
                if number == _FIRST:
                    before = resident_bytes(server.pid)
                create(client, f"b{number}", spec)
                client.select(f"b{number}", [0.5] * DIM)
            results[label] = (resident_bytes(server.pid) - before) / num / 1e6
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("memory", __doc__)
    parser.add_argument("--bandits", type=int, default=50)
    given = parser.parse_args(argv)
    return report("memory", measure(given.bandits), given.json, targets=TARGETS)
