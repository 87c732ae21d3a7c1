"""Vowpal Wabbit on the JSON objects: `--cb_explore_adf` with products of context and action.

Context and action are one namespace each, written as its text format suggests: a string is
`field=value`, a number `field:value`, a list one feature for each item, a text one for each word,
the moment of a visit its hour and its weekday, that of a launch the days since then, and null or a
missing field nothing. An action has its id as a feature, too. `-q ca` is given, because without
products an action's rank could not depend on the context. `--squarecb` needs the range of costs and
receives that of the rewards; everything else is the library's default. A cost is the negative
reward, and money is in hundreds: of 1, 10, 100 and 350, this divisor suited the library best on
seeds 50 to 53.

A decision is learned exactly once, when its window closes: with its click if one came, else with 0.
Learning a click when it comes and a silence at the close would show the model too many clicks at
any moment. Azure Personalizer's reward wait time does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np

from benchmarks.peers.player import Choice
from benchmarks.peers.shop.player import Action, Report
from simulators.environments.shop import MOST_PAID, ShopStream, Visit

_MONEY_UNIT = 100.0
_DAY_S = 86_400.0


class ShopVwPlayer:
    """One workspace; an action is drawn from the probabilities that it returns."""

    def __init__(self, stream: ShopStream, seed: int, exploration: str) -> None:
        import vowpalwabbit

        self._unit = _MONEY_UNIT if stream.money else 1.0
        if exploration == "--squarecb":
            most = MOST_PAID if stream.money else 1.0
            exploration += f" --cb_min_cost {-most / self._unit:g} --cb_max_cost 0"
        options = f"--cb_explore_adf {exploration} -q ca --quiet --random_seed {seed}"
        self._workspace = vowpalwabbit.Workspace(options)
        self._rng = np.random.default_rng(seed)
        self._shown: dict[int, tuple[list[str], int, float]] = {}

    def arrive(self, actions: Sequence[Action]) -> None:
        """Do nothing: the library has no catalogue."""

    def retire(self, action_id: str) -> None:
        """Do nothing: the library has no catalogue."""

    def select(self, step: int, context: Visit, actions: Sequence[Action]) -> Choice:
        """Draw from the probabilities of the prediction."""
        now = datetime.fromisoformat(context["visited_at"])
        lines = [f"shared |c {' '.join(features(context, now))}"]
        lines += [f"|a id={row.id} {' '.join(features(row.features, now))}" for row in actions]
        chances = np.asarray(self._workspace.predict(lines), np.float64)
        chances /= chances.sum()
        index = int(self._rng.choice(len(actions), p=chances))
        self._shown[step] = lines, index, float(chances[index])
        return Choice(actions[index].id, float(chances[index]))

    def learn(self, reports: Sequence[Report]) -> None:
        """Learn one example for each decision that is closed."""
        for report in reports:
            if report.closed:
                lines, index, chance = self._shown.pop(report.step)
                cost = -report.reward / self._unit
                lines[1 + index] = f"0:{cost:.9g}:{chance:.9g} {lines[1 + index]}"
                self._workspace.learn(lines)


def features(values: Mapping[str, object], now: datetime) -> Iterator[str]:
    """Write a JSON object as features, nested objects with their path."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{feature}" for feature in features(value, now))
        elif name == "visited_at":
            yield from (f"hour={now.hour}", f"weekday={now.weekday()}")
        elif name == "launched":
            age = now - datetime.fromisoformat(str(value))
            yield f"age_days:{age.total_seconds() / _DAY_S:.7g}"
        elif isinstance(value, list):
            yield from (f"{name}={item}" for item in value)
        elif isinstance(value, (bool, str)):
            yield from (f"{name}={word}" for word in str(value).split())
        elif isinstance(value, (int, float)):
            yield f"{name}:{value:.7g}"
