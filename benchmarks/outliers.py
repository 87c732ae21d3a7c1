"""Extreme inputs: the regret of disturbed runs over that of the same runs without the disturbance.

A reward is linear in the elementwise product of context and action features, with noise. The
disturbances touch what the bandit receives and leave what it earns as it is: one context value of
1e6; one reward of 1e6; an action with a feature of 1e6 that is retired after 40 decisions; -999 for
a missing value in 5 % of the rows (0, the mean, in the run without); a spare column that is 0 until
row 1,200 and then of the size of 100 (0 for ever in the run without), and a column that is 0 until
then and begins to matter, with values of the size of 30 (of 1 in the run without). Runs are in
process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.in_process import InProcessClient
from benchmarks.report import arguments, write

Array64 = NDArray[np.float64]
FIRST_SEED = 100
SIZE = 6  # features of a context, and of an action
ACTIONS = 8
OUTLIER = 1e6
OUTLIER_AT = 200
RETIRED_AT = 40
MISSING = -999.0
MISSING_SHARE = 0.05
LIVE_AT = 1200
SPARE_MEAN, LIVE_DEVIATION = 100.0, 30.0

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "linear_ts concat": {"policy": "linear_ts", "encoder": {"name": "concat"}},
    "linear_ts interactions": {"policy": "linear_ts", "encoder": {"name": "interactions"}},
    "linear_ts bilinear": {"policy": "linear_ts", "encoder": {"name": "bilinear"}},
    "linear_ts per_action": {"policy": "linear_ts", "encoder": {"name": "per_action"}},
    "neural_linear_ts mlp": {"policy": "neural_linear_ts", "encoder": {"name": "mlp"}},
    "neural_linear_ts heads": {
        "policy": "neural_linear_ts",
        "encoder": {"name": "mlp", "params": {"heads": "per_action"}},
    },
}
SCENES = ("context", "reward", "action", "missing", "spare", "live")


class World:
    """Contexts, actions and rewards of one seed; the last column of a context may be a spare one.

    Args:
        scene: The name of a scene; a run without its disturbance has the same rows and rewards.
        seed: Of all random numbers.
        horizon: Number of decisions.
        disturbed: Whether the bandit receives what the scene is about.
    """

    def __init__(self, scene: str, seed: int, horizon: int, *, disturbed: bool) -> None:
        rng = np.random.default_rng(seed)
        x_NX = rng.normal(size=(horizon, SIZE))
        self.actions = rng.normal(size=(ACTIONS, SIZE)).astype(np.float32)
        w_X, v_X = rng.normal(size=SIZE) / SIZE**0.5, 0.3 * rng.normal(size=SIZE) / SIZE**0.5
        late = scene in ("spare", "live")
        if late:
            w_X[-1] = v_X[-1] = 0.0
        missing = rng.random(horizon) < MISSING_SHARE
        late_X = 2.0 * rng.normal(size=SIZE) / SIZE**0.5 * (np.arange(SIZE) == SIZE - 1)
        self.means = (x_NX * w_X + v_X) @ self.actions.T.astype(np.float64)
        sent = x_NX.astype(np.float32)
        if scene == "missing":
            sent[missing, 2] = MISSING if disturbed else 0.0
        elif scene == "context" and disturbed:
            sent[OUTLIER_AT, 2] = OUTLIER
        elif scene == "action":
            self.means[:, 0] -= 1.0
            if disturbed:
                self.actions[0, 2] = OUTLIER
        elif late:
            live = np.arange(horizon) >= LIVE_AT
            if scene == "live":
                self.means[live] += (x_NX[live] * late_X) @ self.actions.T.astype(np.float64)
            plain_N = x_NX[:, -1] if scene == "live" else np.zeros(horizon)
            mean = SPARE_MEAN if scene == "spare" else 0.0
            raw_N = mean + LIVE_DEVIATION * x_NX[:, -1] if disturbed else plain_N
            sent[:, -1] = np.where(live, raw_N, 0.0)
        self.contexts = sent
        self.noise = 0.1 * rng.normal(size=horizon)
        self.retires = scene == "action"


def regret(
    scene: str,
    policy: str,
    seed: int,
    horizon: int,
    *,
    disturbed: bool,
    draws: int | None = None,
) -> Array64:
    """Return the regret of each decision, (N,); `draws`: their version, None: that of today."""
    world = World(scene, seed, horizon, disturbed=disturbed)
    body = {
        "context": {"shape": [SIZE]}, "action_dim": SIZE, "training": {"mode": "lockstep"},
        "reward_range": [-2.0, 2.0], "rewards": {"outside": "keep"}, "seed": seed,
        **POLICIES[policy],
    }  # fmt: skip
    if draws is not None:
        body["selection"] = {"draws": draws}
    ids = [f"a{k}" for k in range(ACTIONS)]
    client = InProcessClient(f"{scene}-{policy}-{seed}", body, ids, world.actions)
    out_N = np.zeros(horizon)
    first = 0
    for n in range(horizon):
        if world.retires and n == RETIRED_AT:
            client.enable(ids[0], enabled=False)
            first = 1
        found = client.select("", world.contexts[n].tolist(), decision_id=str(n))
        action = ids.index(found.action.id)
        means_K = world.means[n, first:]
        out_N[n] = means_K.max() - world.means[n, action]
        earned = float(world.means[n, action] + world.noise[n])
        is_wrong = disturbed and scene == "reward" and n == OUTLIER_AT
        if client.reward(str(n), OUTLIER if is_wrong else earned).train_due:
            client.train("")
    return out_N


def main(argv: Sequence[str]) -> int:
    """Play the scenes and print the ratios; returns 0."""
    parser = arguments("outliers", __doc__)
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=list(SCENES))
    parser.add_argument("--policies", nargs="*", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--horizon", type=int, default=2000)
    given: argparse.Namespace = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    results: dict[str, float] = {}
    print("| scene | policy | regret without | with | ratio |\n|---|---|---|---|---|")
    for scene in given.scenes:
        for policy in given.policies:
            sums = [
                [
                    float(regret(scene, policy, seed, given.horizon, disturbed=disturbed).sum())
                    for seed in range(given.first_seed, given.first_seed + given.seeds)
                ]
                for disturbed in (False, True)
            ]  # fmt: skip
            without, disturbed_sum = map(statistics.fmean, sums)
            results[f"{scene} {policy}"] = disturbed_sum / without
            print(
                f"| {scene} | {policy} | {without:.1f} | {disturbed_sum:.1f} |"
                f" {disturbed_sum / without:.2f} |", flush=True,
            )  # fmt: skip
    write("outliers", results, given.json, wall_s=time.perf_counter() - started)
    return 0
