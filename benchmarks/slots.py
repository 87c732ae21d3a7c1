"""Two laws of filling slots by Thompson sampling: slot by slot, or by one draw for all slots.

Slot by slot, each slot has draws of its own for the actions that earlier slots left. By one draw,
each member of one panel fills all slots, and the first member's list is served; a slot's propensity
is the share of its action among the members that fill the earlier slots alike. Both are given what
has come before, so that the product is the propensity of the list.

Regret is that of a Bayesian linear model which learns the reward of every slot, in percent of that
of lists by chance. What a log is worth is the mean squared weight of inverse propensities for a
policy that chooses by chance: 1 is as good as a log of that policy, and the number of decisions
needed for the same precision grows with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import arguments, report

Array64 = NDArray[np.float64]
BY_SLOT, JOINT = "slot by slot", "one draw"
DIM, ACTIONS, SLOTS, PANEL, FLOOR = 8, 10, 4, 64, 0.02


class Filled(NamedTuple):
    """The list of one event, and each slot's propensities of the actions that were left."""

    chosen: list[int]
    propensities: list[Array64]
    left: list[list[int]]


class Posterior:
    """A Gaussian over the weights of a linear model.

    Args:
        noise: The deviation of rewards.
        scale: What the deviations of a draw are multiplied by.
    """

    def __init__(self, noise: float, scale: float) -> None:
        self._variance, self._scale = noise**2, scale
        self.precision = np.eye(DIM)
        self.sums = np.zeros(DIM)

    def draws(self, rng: np.random.Generator) -> Array64:
        """Return the weights of a panel's members, (M, D), by the law of its draws."""
        factor = np.linalg.cholesky(np.linalg.inv(self.precision))
        mean = np.linalg.solve(self.precision, self.sums)
        found: Array64 = mean + self._scale * rng.standard_normal((PANEL, DIM)) @ factor.T
        return found

    def learn(self, features: Array64, reward: float) -> None:
        """Take a reward."""
        self.precision += np.outer(features, features) / self._variance
        self.sums += features * reward / self._variance


def fill(law: str, posterior: Posterior, features: Array64, rng: np.random.Generator) -> Filled:
    """Fill all slots; `features`: of each action in each slot, (SLOTS, ACTIONS, DIM)."""
    chosen: list[int] = []
    propensities, lefts = [], []
    members = np.ones(PANEL, np.bool_)  # of one draw: those that fill the slots so far alike
    weights = posterior.draws(rng)
    for slot in range(SLOTS):
        if law == BY_SLOT and slot:
            weights = posterior.draws(rng)
        left = [each for each in range(ACTIONS) if each not in chosen]
        best = (weights @ features[slot, left].T).argmax(axis=1)
        votes = np.bincount(best[members], minlength=len(left)) / members.sum()
        shares = (1.0 - FLOOR) * votes + FLOOR / len(left)
        place = int(rng.choice(len(left), p=shares))
        if law == JOINT:
            alike = members & (best == place)
            members = alike if alike.any() else members  # by the floor: no member is like it
        chosen.append(left[place])
        propensities.append(shares)
        lefts.append(left)
    return Filled(chosen, propensities, lefts)


def played(law: str, seed: int, steps: int, noise: float, scale: float) -> tuple[float, Array64]:
    """Return regret in percent of that by chance, and the mean squared weight of each slot."""
    rng = np.random.default_rng([seed, 1])
    world = np.random.default_rng([seed, 0])
    truth = world.standard_normal(DIM) / np.sqrt(DIM)
    posterior, regret, chance = Posterior(noise, scale), 0.0, 0.0
    weights = np.zeros(SLOTS)
    for _ in range(steps):
        features = world.standard_normal((SLOTS, ACTIONS, DIM))
        found = fill(law, posterior, features, rng)
        for slot, (action, left) in enumerate(zip(found.chosen, found.left, strict=True)):
            means = features[slot, left] @ truth
            regret += float(means.max() - features[slot, action] @ truth)
            chance += float(means.max() - means.mean())
            num = len(left)
            weights[slot] += float((1.0 / (num**2 * found.propensities[slot])).sum())
        for slot, action in enumerate(found.chosen):
            shown = features[slot, action]
            posterior.learn(shown, float(shown @ truth + noise * world.standard_normal()))
    return 100.0 * regret / chance, weights / steps


def main(argv: Sequence[str]) -> int:
    """Compare the two laws."""
    parser = arguments("slots", __doc__)
    parser.add_argument("--seeds", type=int, default=20, help="worlds")
    parser.add_argument("--steps", type=int, default=300, help="events in each")
    parser.add_argument("--noise", type=float, default=3.0, help="deviation of rewards")
    parser.add_argument("--scale", type=float, default=1.0, help="of a draw's deviations")
    given = parser.parse_args(argv)
    results: dict[str, float] = {}
    for law in (BY_SLOT, JOINT):
        rows = [
            played(law, seed, given.steps, given.noise, given.scale) for seed in range(given.seeds)
        ]
        results[f"{law}: regret"] = float(np.mean([row[0] for row in rows]))
        results[f"{law}: its error"] = float(
            np.std([row[0] for row in rows], ddof=1) / np.sqrt(len(rows))
        )
        for slot, weight in enumerate(np.mean([row[1] for row in rows], axis=0), start=1):
            results[f"{law}: weight of slot {slot}"] = float(weight)
    claim = "both laws were played on the same worlds"
    return report("slots", results, given.json, wrong=[], claim=claim)
