"""The bandits and requests of the timings over HTTP: 50 catalogue actions, contexts in R^16."""

from __future__ import annotations

from typing import Any

import numpy as np

from bandexa_client import BanditClient, Rejected, RewardReport, SelectRequest

DIM, NUM_ACTIONS, FEATURES, BATCH = 16, 50, 32, 100
_ROWS = 300


def mlp_spec(**encoder: Any) -> dict[str, Any]:
    """Return the usual bandit: an `mlp` of 32 features with hidden layers of 128 and 128."""
    return {
        "policy": "neural_linear_ts", "context": {"shape": [DIM]}, "action_dim": DIM,
        "encoder": {"name": "mlp", "params": {"feature_dim": FEATURES} | encoder},
        "training": {"mode": "lockstep"}, "reward_range": [-1.0, 1.0], "seed": 0,
    }  # fmt: skip


def linear_spec() -> dict[str, Any]:
    """Return a linear bandit that has one posterior for each action."""
    return {
        "policy": "linear_ts", "context": {"shape": [DIM]}, "encoder": {"name": "per_action"},
        "training": {"mode": "lockstep"}, "reward_range": [-1.0, 1.0], "seed": 0,
    }  # fmt: skip


def contexts(num: int, rng: np.random.Generator) -> list[list[float]]:
    """Return contexts as a request has them."""
    return [row.round(4).tolist() for row in rng.standard_normal((num, DIM))]


def create(client: BanditClient, name: str, spec: dict[str, Any]) -> None:
    """Create a bandit with 50 actions."""
    client.put_bandit(name, spec)
    ids = [f"a{n}" for n in range(NUM_ACTIONS)]
    rng = np.random.default_rng(0)
    features = rng.standard_normal((NUM_ACTIONS, DIM)).round(4).tolist()
    client.put_actions(name, ids, features if spec.get("action_dim") else None)


def learn(client: BanditClient, name: str, num: int, rng: np.random.Generator) -> None:
    """Select and reward in batches, so that the bandit has learned `num` rows."""
    for first in range(0, num, BATCH):
        size = min(BATCH, num - first)
        requests = [SelectRequest(name, context) for context in contexts(size, rng)]
        reports = []
        for chosen in client.select_batch(requests):
            if isinstance(chosen, Rejected):
                raise chosen
            reports.append(RewardReport(chosen.decision_id, float(rng.uniform(-1.0, 1.0))))
        client.reward_batch(reports)


def prepare(url: str, name: str, spec: dict[str, Any]) -> None:
    """Create a bandit that serves a trained model."""
    with BanditClient(url, trust_env=False, timeout_s=120.0) as client:
        create(client, name, spec)
        learn(client, name, _ROWS, np.random.default_rng(1))
        client.train(name)
