"""Logs as an export has them, of simulated bandits."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]
SPEC: Row = {"reward_range": [0.0, 1.0]}


def logged(
    num: int, means: np.ndarray, chances: np.ndarray, *, seed: int = 0, all_known: bool = False
) -> list[Row]:
    """Return the rows of a log of K actions a0, a1, ... with means and probabilities, (K,) each."""
    rng = np.random.default_rng(seed)
    names = [f"a{number}" for number in range(len(means))]
    rows: list[Row] = [
        {"kind": "bandit", "bandit": "shop", "position": num, "spec": SPEC},
        {"kind": "actions", "position": 0, "actions": [{"id": n, "enabled": True} for n in names]},
    ]
    for row in range(num):
        index = int(rng.choice(len(means), p=chances))
        decision: Row = {
            "kind": "decision", "row": row + 1, "decision_id": f"d{row}", "time": float(row),
            "context": [float(row % 2)], "candidates": None, "action": names[index],
            "propensity": float(chances[index]), "activated": True,
            "value": float(rng.random() < means[index]),
        }  # fmt: skip
        if all_known:
            decision["propensities"] = dict(zip(names, chances.tolist(), strict=True))
        rows.append(decision)
    return [*rows, {"kind": "end", "num_decisions": num}]
