"""Intervals that hold at every moment: of a mean, of a value by weights, of a lift.

Each is a pair of one-sided bounds, at half of alpha each: a lower one of the rewards, and one of
the rewards turned round. They can be looked at after every value, and stopping when they look good
makes them wrong no more often. Rewards are in a known range and are scaled to [0, 1].

| interval | values of the lower side | of the upper side | is |
|---|---|---|---|
| `MeanSequence` | r | 1 - r | low + span L, high - span L' |
| `WeightedSequence` | w r | w (1 - r) | the same: E[w] = 1 |
| `RobustSequence` | phi(r) | phi(1 - r) | the same |
| `LiftSequence` | D | -D | span L, -span L' |
| `WeightedLiftSequence` | (w - w_b) r | (w - w_b) (1 - r) | span L, -span L' |

Method "mixture" holds for means that move: those of a bandit that learns. "betting" and "plug_in"
are narrower, and hold while the value is constant: a fixed policy, in a world that stays as it is.
States have a fixed size whatever the number of values, and `to_json` has all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray

from bandexa_core.evaluation.betting import GRID, Betting
from bandexa_core.evaluation.mixture import Mixture
from bandexa_core.evaluation.plug_in import PlugIn

Method = Literal["mixture", "betting", "plug_in"]
Side = Mixture | Betting | PlugIn
Values = NDArray[np.float64]
ALPHA = 0.05
LIFT_RHO = (
    20.0  # sees lifts of a tenth of the standard deviation soonest; see `benchmarks evaluation`
)


class Interval(NamedTuple):
    """The ends of an interval."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Its width."""
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two one-sided bounds of a mean within [lowest, 1], of scaled rewards.

    Attributes:
        alpha: The probability that the interval is ever wrong.
        method: How the bounds are made.
        low, high: The range of rewards.
        lower, upper: The sides.
    """

    alpha: float
    method: Method
    low: float
    high: float
    lower: Side
    upper: Side

    @property
    def num(self) -> int:
        """How many values there were."""
        return self.lower.num

    def scaled(self, rewards: Values) -> Values:
        """Return rewards in [0, 1].

        Raises:
            ValueError: One is not in the range.
        """
        if len(rewards) and not (rewards.min() >= self.low and rewards.max() <= self.high):
            raise ValueError(f"rewards: must be {self.low:g} to {self.high:g}")
        found: Values = (rewards - self.low) / (self.high - self.low)
        return found

    def _after(self, lower: Values, upper: Values) -> Self:
        return replace(self, lower=self.lower.add(lower), upper=self.upper.add(upper))

    def _without(self, lower: float, upper: float) -> Self:
        sides = []
        for side, value in ((self.lower, lower), (self.upper, upper)):
            if not isinstance(side, Mixture):
                raise ValueError("method: values can be taken out of mixture alone")
            sides.append(side.without(value))
        return replace(self, lower=sides[0], upper=sides[1])

    def _ends(self, lowest: float) -> tuple[float, float]:
        each = 0.5 * self.alpha
        return self.lower.lower(each, lowest, 1.0), self.upper.lower(each, lowest, 1.0)

    def _value(self) -> Interval:
        lower, upper = self._ends(0.0)
        span = self.high - self.low
        return Interval(self.low + span * lower, self.high - span * upper)

    def _lift(self) -> Interval:
        lower, upper = self._ends(-1.0)
        span = self.high - self.low
        return Interval(span * lower, -span * upper)

    def to_json(self) -> dict[str, Any]:
        """Return the whole state as plain values."""
        whole = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return whole | {"lower": _side_json(self.lower), "upper": _side_json(self.upper)}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """Return what `to_json` was of."""
        sides = {name: _side(state["method"], state[name]) for name in ("lower", "upper")}
        return cls(**state | sides)


class MeanSequence(_Pair):
    """The mean of rewards."""

    @classmethod
    def new(
        cls, low: float = 0.0, high: float = 1.0, alpha: float = ALPHA, method: Method = "mixture"
    ) -> Self:
        """Return the state before the first reward."""
        return cls(alpha, method, low, high, *_sides(method, low, high, alpha))

    def add(self, rewards: Values) -> Self:
        """Return the state after more rewards, (N,)."""
        scaled = self.scaled(rewards)
        return self._after(scaled, 1.0 - scaled)

    def without(self, reward: float) -> Self:
        """Return the state as if one of the rewards had not been there; see `Mixture.without`."""
        (scaled,) = self.scaled(np.array([reward])).tolist()
        return self._without(scaled, 1.0 - scaled)

    @property
    def mean(self) -> float:
        """The mean of the rewards; the lowest reward without any."""
        return self.low + (self.high - self.low) * self.lower.total / max(self.num, 1)

    def interval(self) -> Interval:
        """Return the interval."""
        return self._value()


class WeightedSequence(_Pair):
    """The value of a policy by weights: nothing has to be known about how large they become."""

    @classmethod
    def new(
        cls, low: float = 0.0, high: float = 1.0, alpha: float = ALPHA, method: Method = "mixture"
    ) -> Self:
        """Return the state before the first row."""
        return cls(alpha, method, low, high, *_sides(method, low, high, alpha))

    def add(self, weights: Values, rewards: Values) -> Self:
        """Return the state after more rows: weights (N,), rewards (N,)."""
        scaled = self.scaled(rewards)
        return self._after(weights * scaled, weights * (1.0 - scaled))

    def interval(self) -> Interval:
        """Return the interval."""
        return self._value()


class RobustSequence(_Pair):
    """The value of a policy by weights and a model of rewards, with models capped at k / weight.

    phi = w (r - min(q(a), k/w)) + sum_a' pi(a') min(q(a'), k/w(a')) is at least -k, and its mean is
    the value: the weights of all candidates have to be known. k = 1 is a good choice.
    """

    @classmethod
    def new(
        cls, low: float = 0.0, high: float = 1.0, alpha: float = ALPHA, reach: float = 1.0,
        method: Method = "mixture",
    ) -> Self:  # fmt: skip
        """Return the state before the first row; `reach`: k."""
        return cls(alpha, method, low, high, *_sides(method, low, high, alpha, reach))

    def add(self, lower: Values, upper: Values) -> Self:
        """Return the state after more rows: phi of the scaled rewards, and of 1 minus these."""
        return self._after(lower, upper)

    def interval(self) -> Interval:
        """Return the interval."""
        return self._value()


class WeightedLiftSequence(_Pair):
    """The value of a policy less that of a baseline, both by weights.

    The baseline's are bounded by 1 / (its share of the log), or 1 where it is the log itself.
    """

    @classmethod
    def new(
        cls, low: float = 0.0, high: float = 1.0, alpha: float = ALPHA, share: float = 1.0,
        method: Method = "mixture",
    ) -> Self:  # fmt: skip
        """Return the state before the first row; `share`: the baseline's share of the log."""
        sides = _sides(method, low, high, alpha, 1.0 / share, start=0.0, lowest=-1.0)
        return cls(alpha, method, low, high, *sides)

    def add(self, weights: Values, baseline: Values, rewards: Values) -> Self:
        """Return the state after more rows: weights of policy and baseline (N,), rewards (N,)."""
        scaled, apart = self.scaled(rewards), weights - baseline
        return self._after(apart * scaled, apart * (1.0 - scaled))

    def interval(self) -> Interval:
        """Return the interval."""
        return self._lift()


@dataclass(frozen=True, slots=True)
class LiftSequence(_Pair):
    """The mean of one arm less that of another, from the rewards of both, in any order.

    The arm of a row is drawn with known shares, independently of all else. With A = 1 for the arm
    itself, 0 for the other, and q the share of the other among the two,

        D = (A / (1 - q) - (1 - A) / q) (r - c)

    has the lift as it is at that row as its mean, for any c that is known before it: the running
    mean of the rewards. It needs no propensities, and stays right while an arm learns.

    Attributes:
        least: The smallest share that either arm may have.
        num_centred, centre: How many rewards there were, and their mean, scaled.
    """

    least: float = 0.5
    num_centred: int = 0
    centre: float = 0.5

    @classmethod
    def new(
        cls, share: float, low: float = 0.0, high: float = 1.0, alpha: float = ALPHA,
        method: Method = "mixture", rho: float = LIFT_RHO,
    ) -> Self:  # fmt: skip
        """Return the state before the first row.

        `share`: of the smaller arm, among the rows of the two. `rho`: see `Mixture`.
        """
        if not 0.0 < share <= 0.5:
            raise ValueError("share: must be above 0 and at most 0.5")
        reach = 1.0 / share
        sides = _sides(
            method, low, high, alpha, reach, start=0.0, lowest=-1.0, rho=rho,
            first_variance=0.25 * reach,
        )  # fmt: skip
        return cls(alpha, method, low, high, *sides, share)

    def add(self, rewards: Values, is_arm: NDArray[np.bool_], shares: Values | float) -> Self:
        """Return the state after more rows.

        Args:
            rewards: (N,).
            is_arm: Whether the row is of the arm, not of the other one, (N,).
            shares: The share that the other arm had, among the two, (N,) or one for all.

        Raises:
            ValueError: A share is smaller than the least one; or see `scaled`.
        """
        if not len(rewards):
            return self
        others = np.broadcast_to(np.asarray(shares, np.float64), rewards.shape)
        if min(others.min(), (1.0 - others).min()) < self.least * (1.0 - 1e-9):
            raise ValueError(f"shares: must be {self.least:g} at least, of either arm")
        scaled = self.scaled(rewards)
        num = self.num_centred + np.arange(len(scaled) + 1)
        sums = self.num_centred * self.centre + np.concatenate(([0.0], np.cumsum(scaled)))
        centres = np.where(num > 0, sums / np.maximum(num, 1), 0.5)
        found = np.where(is_arm, 1.0 / (1.0 - others), -1.0 / others) * (scaled - centres[:-1])
        after = self._after(found, -found)
        return replace(after, num_centred=int(num[-1]), centre=float(centres[-1]))

    def without(self, reward: float, *, is_arm: bool, share: float) -> Self:
        """Return the state as if one of the rewards had not been there; see `Mixture.without`."""
        (scaled,) = self.scaled(np.array([reward])).tolist()
        num = self.num_centred - 1
        centre = (self.num_centred * self.centre - scaled) / num if num else 0.5
        found = (1.0 / (1.0 - share) if is_arm else -1.0 / share) * (scaled - centre)
        return replace(self._without(found, -found), num_centred=num, centre=centre)

    @property
    def lift(self) -> float:
        """The estimate, in the unit of rewards; 0 without rows."""
        return (self.high - self.low) * self.lower.total / max(self.num, 1)

    def interval(self) -> Interval:
        """Return the interval."""
        return self._lift()


def _sides(
    method: Method, low: float, high: float, alpha: float, reach: float = 0.0, *,
    start: float = 0.5, lowest: float = 0.0, rho: float = 1.0, first_variance: float = 0.25,
) -> tuple[Side, Side]:  # fmt: skip
    """Return two sides before their first values.

    Raises:
        ValueError: An argument is out of its range; the message begins with its name.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("range: needs two finite numbers, the lower one first")
    if not 0.0 < alpha < 1.0:
        raise ValueError("alpha: must be above 0 and below 1")
    if method not in get_args(Method):
        raise ValueError(f"method: must be one of {', '.join(get_args(Method))}")
    side: Side
    if method == "mixture":
        side = Mixture(reach, start, rho)
    elif method == "plug_in":
        if reach:
            raise ValueError("method: plug_in takes values of at least 0")
        side = PlugIn(0.5 * alpha)
    else:
        num_points = GRID if lowest == 0.0 else 2 * GRID
        side = Betting(lowest, 1.0, reach, num_points, start, first_variance)
    return side, side


def _side_json(side: Side) -> dict[str, Any]:
    whole = {name: getattr(side, name) for name in side.__dataclass_fields__}
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in whole.items()}


def _side(method: Method, state: dict[str, Any]) -> Side:
    if method == "mixture":
        return Mixture(**state)
    if method == "plug_in":
        return PlugIn(**state)
    arrays = {n: None if state[n] is None else np.array(state[n]) for n in ("capital", "peak")}
    return Betting(**state | arrays)
