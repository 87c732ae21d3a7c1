"""Regret after a change of configuration, over that of this configuration from the start.

One server; a bandit plays half of a run with one configuration, is given another one with
`PUT ?wait=true`, which learns its log anew, and plays on. Beside it play a bandit with the second
configuration from the start, and one that remains with the first. A reward is linear in the product
of context and action features, with noise, as in `benchmarks.outliers`. The figure is the regret in
the second half.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bandexa_client import NO_RETRY, BanditClient
from benchmarks.outliers import SIZE, World
from benchmarks.report import arguments, write
from benchmarks.server import Server

FIRST_SEED = 300
_LINEAR: dict[str, Any] = {"policy": "linear_ts", "encoder": {"name": "bilinear"}}


class Change(NamedTuple):
    """Two configurations of the same bandit, over what all have in common."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]


CHANGES: Mapping[str, Change] = {
    "encoder": Change(_LINEAR | {"encoder": {"name": "interactions"}}, _LINEAR),
    "policy": Change({"policy": "uniform"}, _LINEAR),
    "network": Change(_LINEAR, {"policy": "neural_linear_ts", "encoder": {"name": "mlp"}}),
    "prior": Change(_LINEAR | {"posterior": {"prior_var": 1e-4}}, _LINEAR),
    "range": Change(_LINEAR | {"reward_range": [-100.0, 100.0]}, _LINEAR | {"reward_range": None}),
    "forgetting": Change(_LINEAR | {"forgetting": {"half_life": 32.0}}, _LINEAR),
}


def regret(
    client: BanditClient, name: str, world: World, specs: Sequence[Mapping[str, Any]]
) -> float:
    """Return the regret in the second half; each half has one of two configurations."""
    ids = [f"a{k}" for k in range(len(world.actions))]
    common: dict[str, Any] = {
        "context": {"shape": [SIZE]}, "action_dim": SIZE, "training": {"mode": "lockstep"},
        "seed": 1,
    }  # fmt: skip
    client.put_bandit(name, common | dict(specs[0]))
    client.put_actions(name, ids, world.actions)
    total, half = 0.0, len(world.contexts) // 2
    for n, context in enumerate(world.contexts):
        if n == half and specs[0] != specs[1]:
            state = client.put_bandit(name, common | dict(specs[1]), wait=True)
            if state.rebuild is None or state.rebuild.state != "done":
                raise RuntimeError(f"{name}: the change is not served: {state.rebuild}")
        found = client.select(name, context)
        action = ids.index(found.action.id)
        if n >= half:
            total += float(world.means[n].max() - world.means[n, action])
        earned = float(world.means[n, action] + world.noise[n])
        if client.reward(found.decision_id, earned).train_due:
            client.train(name)
    return total


def main(argv: Sequence[str]) -> int:
    """Play the changes and print the ratios; returns 0."""
    parser = arguments("changed_regret", __doc__)
    parser.add_argument("--changes", nargs="*", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=5, help="2 or more")
    parser.add_argument("--horizon", type=int, default=1000)
    given: argparse.Namespace = parser.parse_args(argv)
    started = time.perf_counter()
    results: dict[str, float] = {}
    print("| change | changed | from the start | not changed | changed over from the start |")
    print("|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder) / "data") as server,
        BanditClient(server.address, retry=NO_RETRY, trust_env=False, timeout_s=120.0) as client,
    ):
        for name in given.changes:
            before, after = CHANGES[name]
            runs = []
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                halves = {
                    "changed": (before, after),
                    "new": (after, after),
                    "old": (before, before),
                }
                runs.append(
                    [
                        regret(
                            client,
                            f"{name}-{kind}-{seed}",
                            World("context", seed, given.horizon, disturbed=False),
                            specs,
                        )
                        for kind, specs in halves.items()
                    ]
                )
            changed, new, old = np.mean(runs, axis=0)
            results[name] = float(changed / new)
            spread = statistics.stdev(row[0] - row[1] for row in runs) / len(runs) ** 0.5
            print(
                f"| {name} | {changed:.1f} | {new:.1f} | {old:.1f} | {changed / new:.2f}"
                f" (difference {changed - new:+.1f} +- {spread:.1f}) |",
                flush=True,
            )
    write("changed_regret", results, given.json, wall_s=time.perf_counter() - started)
    return 0
