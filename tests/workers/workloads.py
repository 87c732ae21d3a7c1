"""Workloads that one process and several play alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fixtures.waiting import poll

MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}
STEPS, TRAINED_AT = 48, 24


def arrays(rng: np.random.Generator) -> list[float]:
    return [float(value) for value in rng.normal(size=2)]


def objects(rng: np.random.Generator) -> dict[str, Any]:
    return {"device": ["phone", "desk"][int(rng.integers(2))], "hour": float(rng.integers(24))}


WORKLOADS: dict[str, tuple[dict[str, Any], Any]] = {
    "linear": ({}, arrays),
    "disjoint": ({"encoder": {"name": "per_action"}, "action_dim": 0}, arrays),
    "network": ({"policy": "neural_linear_ts", "encoder": MLP}, arrays),
    "forgetting": ({"forgetting": {"half_life": 32}}, arrays),
    "shop": ({"context": {"features": "auto"}, "action_dim": 0,
              "arms": [{"name": "control", "policy": "uniform", "share": 0.2}]}, objects),
}  # fmt: skip


def played(api, name: str, spec: dict[str, Any], context: Any) -> list[Any]:
    """Play a workload in lockstep; returns every answer."""
    ids, features = ["x", "y", "z"], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    api.bandit(ids, features, name=name, **{"training": {"mode": "lockstep"}} | spec)
    rng, answers = np.random.default_rng(0), []
    for number in range(STEPS):
        chosen = api.select(name, context(rng), decision_id=f"{name}-{number}")
        reward = float(rng.random() < 0.3 + 0.3 * chosen["action"]["index"])
        answers += [chosen, api.reward(chosen["decision_id"], reward)]
        if number == TRAINED_AT:
            trained = api.train(name)["snapshot"]
            serves(api, name, trained, context(np.random.default_rng(1)))
            answers.append(trained)
    return answers


def serves(api, name: str, snapshot: int, context: Any) -> None:
    """Wait until a worker that was too late to be waited for serves a snapshot."""
    poll(lambda: api.scores(name, context)["snapshot"] >= snapshot, "the round is served")
