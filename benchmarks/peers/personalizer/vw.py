"""Vowpal Wabbit on the JSON that Personalizer gives it, with Personalizer's products `-q ::`.

It learns every event at once, where Personalizer waited for the end of its reward wait time.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks.peers.personalizer.play import Ranked
from benchmarks.peers.personalizer.requests import Features

EXPLORERS = {
    "vw epsilon .2": "--epsilon 0.2",
    "vw epsilon .05": "--epsilon 0.05",
    "vw squarecb": "--squarecb --cb_min_cost -1 --cb_max_cost 0",
    "vw bag 5": "--bag 5",
    "vw cover 5": "--cover 5",
    "vw softmax": "--softmax --lambda 10",
    "vw rnd 3": "--rnd 3 --epsilon 0.02",
}


class VwRanker:
    """One workspace; an action is drawn from the probabilities that it returns."""

    def __init__(self, seed: int, exploration: str) -> None:
        import vowpalwabbit

        options = f"--cb_explore_adf {exploration} -q :: --json --quiet --random_seed {seed}"
        self._workspace = vowpalwabbit.Workspace(options)
        self._rng = np.random.default_rng(seed)
        self._last: tuple[dict[str, Any], int, float] = ({}, 0, 1.0)

    def rank(self, context: Features, actions: list[tuple[str, Features]]) -> Ranked:
        """Draw from the probabilities of the prediction."""
        body = {
            "FromUrl": context,
            "_multi": [
                {"_tag": name, "i": {"constant": 1, "id": name}, "j": features}
                for name, features in actions
            ],
        }
        chances = np.asarray(self._workspace.predict(json.dumps(body)), np.float64)
        chances /= chances.sum()
        place = int(self._rng.choice(len(actions), p=chances))
        self._last = body, place, float(chances[place])
        return Ranked(actions[place][0], float(chances[place]))

    def reward(self, value: float) -> None:
        """Learn the last choice."""
        body, place, chance = self._last
        label = {
            "_label_cost": -value, "_label_probability": chance, "_label_Action": place + 1,
            "_labelIndex": place,
        }  # fmt: skip
        self._workspace.learn(json.dumps(label | body))
