"""Compares challengers with what was served, on the rows of a log: one pass, progressively.

Every challenger is asked about a block of decisions before it learns them, whatever it would have
chosen itself. With w the weight of what was chosen, q what it expects, pi and p the probabilities
of candidates under the challenger and in the log,

    d = (w - 1) (r - q(a)) + sum_a' (pi(a') - p(a')) q(a')

has what it earns more than what was served as its mean: the doubly robust estimate of both, with
the same model of rewards, so that nothing is left of rows where the two agree. Where the log has
the probability of the chosen action alone, p is 1 there. Of units with one draw, only the first
decision counts; all are learned. The interval may be looked at after every
decision (`Asymptotic`), at an equal share of the error of 5 % for each possible challenger.

The whole is a function of the log and the configuration; nothing is stored between two passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bandexa_core.evaluation import Asymptotic, WeightSums
from service.serving.challengers import ALPHA, Score
from service.tools.evaluate.cases import Case, Changes, blocks
from service.tools.evaluate.policies import Asked, PolicyError
from service.tools.evaluate.scoring import LEAST_EFFECTIVE, MOST_UNSUPPORTED


class Comparison:
    """How challengers compare, on the cases so far.

    Args:
        learners: The challengers by name.
        least: Of each: how many decisions a conclusion needs.
        num: How many challengers share the error.
    """

    def __init__(self, learners: Mapping[str, Asked], least: Mapping[str, int], num: int) -> None:
        self._tallies = {
            name: _Tally(each, least[name], ALPHA / num) for name, each in learners.items()
        }

    def take(self, block: list[Case] | Changes) -> None:
        """Ask about a block of cases, and have it learned."""
        for tally in self._tallies.values():
            tally.take(block)

    def scores(self) -> dict[str, Score]:
        """Return how each challenger compares."""
        return {name: tally.score() for name, tally in self._tallies.items()}


def compared(
    cases: Iterable[Case | Changes],
    learners: Mapping[str, Asked],
    least: Mapping[str, int],
    num: int,
) -> dict[str, Score]:
    """Return how each challenger compares on the cases of a log, in order; see `Comparison`."""
    comparison = Comparison(learners, least, num)
    for block in blocks(cases):
        comparison.take(block)
    return comparison.scores()


@dataclass(slots=True)
class _Tally:
    """The sums of one challenger."""

    learner: Asked
    least: int
    alpha: float
    state: Asymptotic = field(default_factory=Asymptotic)
    weights: WeightSums = field(default_factory=WeightSums)
    served: float = 0.0
    num_known: int = 0
    left_out: int = 0
    unsupported: float = 0.0
    seconds: float = 0.0
    error: str | None = None

    def __post_init__(self) -> None:
        self.state = Asymptotic(self.alpha)

    def take(self, block: list[Case] | Changes) -> None:
        """Ask about a block, and have it learned; what it cannot be asked about ends it."""
        if self.error is not None:
            return
        started = time.perf_counter()
        try:
            if isinstance(block, Changes):
                self.learner.change(block)
            else:
                counted = [case for case in block if case.counts]
                if counted:
                    self._ask(counted)
                self.left_out += len(block) - len(counted)
                self.learner.learn(block)
        except PolicyError as error:
            self.error = str(error)
        self.seconds += time.perf_counter() - started

    def _ask(self, block: list[Case]) -> None:
        weights, found = np.empty(len(block)), np.empty(len(block))
        for row, case in enumerate(block):
            chances, means = self.learner.chances(case), self.learner.means(case)
            assert chances is not None, "a challenger is not the log"
            if means is None:
                means = np.zeros(len(chances))
            logged = case.propensities
            if logged is None:
                logged = np.zeros(len(chances))
                logged[case.chosen] = 1.0
            else:
                self.num_known += 1
                self.unsupported += float(chances[logged <= 0.0].sum())
            weights[row] = weight = chances[case.chosen] / case.propensity
            surprise = case.value - means[case.chosen]
            found[row] = (weight - 1.0) * surprise + (chances - logged) @ means
            self.served += case.value
        self.weights = self.weights.add(weights)
        self.state = self.state.add(found)

    def score(self) -> Score:
        """Return what is known."""
        state, weights, num = self.state, self.weights, self.state.num
        if self.error is not None or not num:
            return Score(num=num, left_out=self.left_out, seconds=self.seconds, error=self.error)
        reach, served = state.reach(), self.served / num
        bounded = math.isfinite(reach)
        return Score(
            num=num,
            left_out=self.left_out,
            seconds=self.seconds,
            lift=state.mean,
            low=state.mean - reach if bounded else None,
            high=state.mean + reach if bounded else None,
            value=served + state.mean,
            served=served,
            effective=weights.effective,
            mean_weight=weights.mean,
            reasons=tuple(self._reasons()),
        )

    def _reasons(self) -> Iterable[str]:
        weights, num = self.weights, self.state.num
        if num < self.least:
            yield f"{num} decisions are fewer than {self.least}"
        if weights.effective < LEAST_EFFECTIVE:
            yield (
                f"the weights amount to {weights.effective:.0f} rows, fewer than"
                f" {LEAST_EFFECTIVE:.0f}"
            )
        if not weights.average_one:
            yield (
                f"weights average {weights.mean:.3g} +- {weights.mean_error:.2g} and should average"
                " 1: the log lacks what it would choose, or propensities are wrong"
            )
        if self.num_known and self.unsupported / self.num_known > MOST_UNSUPPORTED:
            share = self.unsupported / self.num_known
            yield f"{share:.1%} of its choices could not occur in the log"
