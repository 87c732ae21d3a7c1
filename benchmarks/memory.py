"""Measures the memory of an idle bandit: what the server holds with so many more of them.

The bandit is that of `http`: an `mlp` of 32 features, 50 actions. The server's resident memory
is read before and after, when it has settled; the first few bandits are not counted, since they
bring what all share. A private server (durability "os"); nothing is kept but the JSON file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_client import BanditClient
from benchmarks.http import DIM, NUM_ACTIONS, spec
from benchmarks.processes import pin_threads, resident_bytes
from benchmarks.targets import Target, report
from simulators.private_server import PrivateServer, interruptible

_FIRST = 5
TARGETS = {"idle_bandit_mb": Target(2.0, 0.5, unit="MB")}


def _create(client: BanditClient, name: str, given: dict[str, Any]) -> None:
    features = np.random.default_rng(0).standard_normal((NUM_ACTIONS, DIM)).round(4)
    client.put_bandit(name, given)
    client.put_actions(name, [f"a{n}" for n in range(NUM_ACTIONS)], features.tolist())
    client.select(name, [0.5] * DIM)


def measure(num: int) -> dict[str, float]:
    """Return the figures."""
    results = {}
    linear = {"policy": "linear_ts", "context": {"shape": [DIM]}, "action_dim": DIM,
              "encoder": {"name": "concat"}, "seed": 0}  # fmt: skip
    for label, given in (("idle_bandit_mb", spec()), ("idle_linear_bandit_mb", linear)):
        with (
            interruptible(),
            PrivateServer(device="cpu") as server,
            BanditClient(server.url, trust_env=False, timeout_s=120.0) as client,
        ):
            for n in range(_FIRST):
                _create(client, f"first{n}", given)
            before = resident_bytes(server.pid)
            for n in range(num):
                _create(client, f"b{n}", given)
            results[label] = (resident_bytes(server.pid) - before) / num / 1e6
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bandexa bench memory", description=__doc__)
    parser.add_argument("--bandits", type=int, default=50)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    pin_threads()
    return report("memory", measure(given.bandits), TARGETS, given.json)


if __name__ == "__main__":
    sys.exit(main())
