"""Scores policies on the cases of a log: one pass, block by block, asked before they learn.

Four numbers are stored of every case for each policy, and the estimates follow from them; all else
is a state of fixed size. Where the weights of a policy cannot carry a conclusion, its numbers are
shown with what is missing, and with what exploration or control would be needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.evaluation import (
    Asymptotic,
    Interval,
    Method,
    Needed,
    RobustSequence,
    WeightedLiftSequence,
    WeightedSequence,
    WeightSums,
    doubly_robust,
    ips,
    needed,
    robust_values,
    snips,
    switch,
)
from service.tools.evaluate.cases import Case, Changes, blocks
from service.tools.evaluate.policies import Asked, Chances

LEAST_EFFECTIVE = 200.0  # rows that the weights have to amount to
MOST_UNSUPPORTED = 0.001  # of a policy's choices may be of actions that the log could not choose
RARE = 0.01  # a probability below which an action's rows are few
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        alpha: The probability that an interval is ever wrong.
        low, high: The range of values; None: there are no intervals that need one.
        precision: The difference that should be seen, as a share of the range.
        method: Of intervals; None: "mixture" for policies that learn, "betting" for others.
    """

    alpha: float = 0.05
    low: float | None = None
    high: float | None = None
    precision: float = 0.05
    method: Method | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of a policy.

    Attributes:
        policy: Its name.
        num: How many cases it was asked about.
        estimates: By estimator: its value and the standard deviation of its error, with tau of
            switch.
        interval, robust, lift: Of its value by weights, of its value with a model, and of what it
            has over what was served; None where there is no range, or a value is outside of it.
        methods: How these were made.
        weights: Effective sample size, largest, mean, error of the mean, rows of weight above 0.
        unsupported, rare: The share of its choices that fell on actions which the log could not
            choose, or with less than 1 %; None where the log has only the chosen one's.
        reasons: Why nothing should be concluded; empty: it can be.
        needed: What its question needs; see `docs/evaluation.md`.
    """

    policy: str
    num: int
    estimates: dict[str, dict[str, float]]
    interval: Interval | None
    robust: Interval | None
    lift: Interval | None
    methods: dict[str, str]
    weights: dict[str, Any]
    unsupported: float | None
    rare: float | None
    reasons: tuple[str, ...]
    needed: dict[str, Any]

    @property
    def concludes(self) -> bool:
        """Whether the log can say what the policy earns."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; numbers that are none are null."""
        whole = dataclasses.asdict(self) | {"concludes": self.concludes}
        for name in ("interval", "robust", "lift"):
            ends = getattr(self, name)
            whole[name] = None if ends is None else {"low": ends.low, "high": ends.high}
        found: dict[str, Any] = _finite(whole)
        return found


def score(
    cases: Iterable[Case | Changes], policies: Sequence[Asked], wanted: Wanted
) -> list[Scored]:
    """Return what each policy would have earned.

    Raises:
        PolicyError: A policy cannot be asked about a case.
    """
    means = _ActionMeans()
    tallies = [_Tally(policy, wanted) for policy in policies]
    for block in blocks(cases):
        if isinstance(block, Changes):
            for policy in policies:
                policy.change(block)
            continue
        counted = [case for case in block if case.counts]
        expected = [means.of(case) for case in counted]
        for tally in tallies if counted else ():
            tally.add(counted, expected)
        for policy in policies:
            policy.learn(block)
        means.learn(block)
    return [tally.result() for tally in tallies]


class _ActionMeans:
    """The model of rewards where a policy has none: each action's mean, drawn to that of all.

    It knows no context. It never sees a case before it is asked about it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._nums: dict[str, int] = defaultdict(int)
        self._total, self._num = 0.0, 0

    def of(self, case: Case) -> Chances:
        overall = self._total / self._num if self._num else 0.0
        return np.array(
            [
                (self._sums.get(name, 0.0) + overall) / (self._nums.get(name, 0) + 1)
                for name in case.candidates
            ]
        )

    def learn(self, cases: Sequence[Case]) -> None:
        for case in cases:
            name = case.candidates[case.chosen]
            self._sums[name] += case.value
            self._nums[name] += 1
            self._total += case.value
            self._num += 1


@dataclass(slots=True)
class _Tally:
    """The numbers of one policy."""

    policy: Asked
    wanted: Wanted
    parts: list[tuple[Values, Values, Values, Values]] = field(default_factory=list)
    sums: WeightSums = field(default_factory=WeightSums)
    weighted: WeightedSequence | None = None
    lifted: WeightedLiftSequence | None = None
    robust: RobustSequence | None = None
    loose: Asymptotic | None = None
    outside: int = 0
    asked: float = 0.0  # cases whose probabilities are all known
    unsupported: float = 0.0
    rare: float = 0.0
    num_candidates: float = 0.0

    def __post_init__(self) -> None:
        wanted = self.wanted
        self.loose = Asymptotic(wanted.alpha)
        if wanted.low is not None and wanted.high is not None:
            ends = wanted.low, wanted.high, wanted.alpha
            self.weighted = WeightedSequence.new(*ends, method=self.method)
            # What was served learned, so that the lift over it is not constant.
            lift_method = self.wanted.method or "mixture"
            self.lifted = WeightedLiftSequence.new(*ends, method=_of_lifts(lift_method))
            self.robust = RobustSequence.new(*ends)

    @property
    def method(self) -> Method:
        return self.wanted.method or ("mixture" if self.policy.changes else "betting")

    def add(self, block: Sequence[Case], expected: Sequence[Chances]) -> None:
        num = len(block)
        weights, rewards, modelled, direct = (np.empty(num) for _ in range(4))
        lower, upper = np.empty(num), np.empty(num)
        for row, (case, means) in enumerate(zip(block, expected, strict=True)):
            chances = self.policy.chances(case)
            own = self.policy.means(case)
            means = means if own is None else own
            rewards[row], modelled[row] = case.value, means[case.chosen]
            self.num_candidates += len(case.candidates)
            if chances is None:
                weights[row], direct[row] = 1.0, means[case.chosen]
                chances = case.propensities
            else:
                weights[row] = chances[case.chosen] / case.propensity
                direct[row] = chances @ means
            if case.propensities is not None and chances is not None:
                self._support(chances, case.propensities)
                if self.robust is not None:
                    lower[row], upper[row] = self._capped(case, chances, means, weights[row])
        self.parts.append((weights, rewards, modelled, direct))
        self.sums = self.sums.add(weights)
        assert self.loose is not None
        self.loose = self.loose.add(robust_values(weights, rewards, modelled, direct))
        self._sequences(weights, rewards, lower, upper)

    def _support(self, chances: Chances, logged: Chances) -> None:
        self.asked += 1.0
        self.unsupported += float(chances[logged <= 0.0].sum())
        self.rare += float(chances[logged < RARE].sum())

    def _sequences(self, weights: Values, rewards: Values, lower: Values, upper: Values) -> None:
        if self.weighted is None or self.lifted is None or self.robust is None:
            return
        low, high = self.weighted.low, self.weighted.high
        outside = int(((rewards < low) | (rewards > high)).sum())
        self.outside += outside
        if self.outside:
            return  # an interval of some rows would be one of others
        self.weighted = self.weighted.add(weights, rewards)
        self.lifted = self.lifted.add(weights, np.ones(len(weights)), rewards)
        if self.asked == self.sums.num:
            self.robust = self.robust.add(lower, upper)

    def _capped(
        self, case: Case, chances: Chances, means: Chances, weight: float
    ) -> tuple[float, float]:
        """Return phi of the scaled reward, and of 1 minus it; see `RobustSequence`."""
        assert self.robust is not None
        assert case.propensities is not None
        low, span = self.robust.low, self.robust.high - self.robust.low
        reward, q = (case.value - low) / span, np.clip((means - low) / span, 0.0, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.where(chances > 0.0, case.propensities / chances, np.inf)
        found = []
        for r, model in ((reward, q), (1.0 - reward, 1.0 - q)):
            capped = np.minimum(model, most)
            found.append(float(weight * (r - capped[case.chosen]) + chances @ capped))
        return found[0], found[1]

    def result(self) -> Scored:
        if not self.parts:
            return Scored(
                self.policy.name, 0, {}, None, None, None, {}, {}, None, None,
                ("no decision has a value and a propensity",), {},
            )  # fmt: skip
        weights, rewards, modelled, direct = (
            np.concatenate([part[index] for part in self.parts]) for index in range(4)
        )
        span = self._span(rewards)
        switched = switch(weights, rewards, modelled, direct, span=span)
        estimates = {
            "ips": ips(weights, rewards)._asdict(),
            "snips": snips(weights, rewards)._asdict(),
            "dr": doubly_robust(weights, rewards, modelled, direct)._asdict(),
            "switch": switched._asdict(),
        }
        question = self._needed(weights, rewards, span)
        interval, robust, lift, methods = self._intervals()
        sums = self.sums
        known = self.asked == sums.num
        return Scored(
            self.policy.name, sums.num, estimates, interval, robust, lift, methods,
            {
                "effective": sums.effective, "largest": sums.largest, "mean": sums.mean,
                "mean_error": sums.mean_error, "average_one": sums.average_one,
                "positive": sums.positive,
            },
            self.unsupported / sums.num if known else None,
            self.rare / sums.num if known else None, tuple(self._reasons(interval)), question,
        )  # fmt: skip

    def _span(self, rewards: Values) -> float:
        low, high = self.wanted.low, self.wanted.high
        if low is not None and high is not None:
            return high - low
        return float(np.ptp(rewards)) or 1.0

    def _intervals(
        self,
    ) -> tuple[Interval | None, Interval | None, Interval | None, dict[str, str]]:
        methods: dict[str, str] = {}
        interval = robust = lift = None
        if self.weighted is not None and self.lifted is not None and not self.outside:
            interval = self.weighted.interval()
            methods["interval"] = self.method
            if not self.policy.is_log:
                lift = self.lifted.interval()
                methods["lift"] = self.lifted.method
        if self.robust is not None and not self.outside and self.asked == self.sums.num:
            robust, methods["robust"] = self.robust.interval(), "mixture"
        elif self.loose is not None and math.isfinite(self.loose.reach()):
            reach = self.loose.reach()
            robust = Interval(self.loose.mean - reach, self.loose.mean + reach)
            methods["robust"] = "asymptotic"
        return interval, robust, lift, methods

    def _needed(self, weights: Values, rewards: Values, span: float) -> dict[str, Any]:
        """Return what a difference needs; see `bandexa_core.evaluation.precision`."""
        sums = self.sums
        center = snips(weights, rewards).value if sums.total > 0.0 else float(rewards.mean())
        base = weights if sums.total > 0.0 else np.ones(len(rewards))
        variance = float((base * (rewards - center) ** 2).sum() / base.sum())
        variance = variance or 0.25 * span * span * 0.1  # constant so far: a guess
        difference = self.wanted.precision * span
        share = sums.effective / sums.num
        found: Needed = needed(variance, difference, sums.num, share)
        candidates = self.num_candidates / sums.num
        floor = found.share * candidates
        return {
            "difference": difference, "variance": variance, "share_now": share,
            "share": found.share, "control": found.share if found.share <= 0.5 else None,
            "floor": floor if floor <= 1.0 else None, "candidates": candidates,
            "rows": found.rows,
        }  # fmt: skip

    def _reasons(self, interval: Interval | None) -> Iterable[str]:
        sums = self.sums
        if sums.positive == 0:
            yield "no logged choice is one that it would make"
            return
        if not sums.average_one:
            yield (
                f"weights average {sums.mean:.3g} +- {sums.mean_error:.2g} and should average 1:"
                " the log lacks what it would choose, or propensities are wrong"
            )
        if sums.effective < LEAST_EFFECTIVE:
            yield (
                f"the weights amount to {sums.effective:.0f} rows, fewer than"
                f" {LEAST_EFFECTIVE:.0f}; the largest is {sums.largest:.3g}"
            )
        if self.asked == sums.num and self.unsupported / sums.num > MOST_UNSUPPORTED:
            yield f"{self.unsupported / sums.num:.1%} of its choices could not occur in the log"
        if self.outside:
            yield f"{self.outside} values are outside of the range"
        elif interval is not None and interval.low > interval.high:
            yield "its interval is empty: the log contradicts its own propensities"


def _of_lifts(method: Method) -> Method:
    """Return the method, or one that takes values below 0."""
    return "betting" if method == "plug_in" else method


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
