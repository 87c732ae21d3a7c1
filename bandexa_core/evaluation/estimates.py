"""What a policy would have earned, from the log of another one: point estimates.

Row t of T has the weight w = pi(a|x) / p(a|x), the probability under the policy in question over
the logged one; the reward r; the model's reward q of the chosen action; and the model's value of
the policy, dm = sum_a pi(a|x) q(x, a). Models must not have seen the row.

| estimate | formula | bias |
|---|---|---|
| `ips` | mean of w r | none where the propensities are right and pi has support |
| `snips` | sum w r / sum w | of order 1/T; a constant added to all rewards changes nothing else |
| `doubly_robust` | mean of dm + w (r - q) | none, as `ips`; the better the model, the less varied |
| `switch` | the same, without weights above tau | the model's, where weights are above tau |

Horvitz & Thompson, JASA 1952; Swaminathan & Joachims, The self-normalized estimator, NIPS 2015;
Dudik, Erhan, Langford & Li, Doubly robust policy evaluation, Statistical Science 2014; Wang,
Agarwal & Dudik, Optimal and adaptive off-policy evaluation, ICML 2017 (SWITCH, and its tau).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
MOST_THRESHOLDS = 21


class Estimate(NamedTuple):
    """An estimated value and the standard deviation of its error; NaN without rows."""

    value: float
    error: float


class Switched(NamedTuple):
    """An estimate with `switch`, and its threshold."""

    value: float
    error: float
    tau: float


def ips(weights: Values, rewards: Values) -> Estimate:
    """Return the estimate by inverse propensities."""
    return _mean(weights * rewards)


def snips(weights: Values, rewards: Values) -> Estimate:
    """Return the self-normalised estimate; its error is the delta method's."""
    total = float(weights.sum())
    if not total > 0.0:
        return Estimate(math.nan, math.nan)
    value = float((weights * rewards).sum()) / total
    return Estimate(value, math.sqrt(float((weights**2 * (rewards - value) ** 2).sum())) / total)


def doubly_robust(weights: Values, rewards: Values, modelled: Values, direct: Values) -> Estimate:
    """Return the doubly robust estimate.

    `modelled`: q of the chosen actions, (T,); `direct`: dm, (T,).
    """
    return _mean(robust_values(weights, rewards, modelled, direct))


def robust_values(weights: Values, rewards: Values, modelled: Values, direct: Values) -> Values:
    """Return dm + w (r - q) of each row, (T,)."""
    found: Values = direct + weights * (rewards - modelled)
    return found


def switch(
    weights: Values, rewards: Values, modelled: Values, direct: Values, tau: float | None = None,
    span: float = 1.0,
) -> Switched:  # fmt: skip
    """Return the doubly robust estimate with the model in place of rows of weights above tau.

    Without `tau`, it is the one of a grid with the least estimated mean squared error: the
    variance, and the square of what the model may be wrong by at most, mean of w 1{w > tau} times
    `span`, the width of the range of rewards.
    """
    if not len(weights):
        return Switched(math.nan, math.nan, math.nan)
    apart = weights * (rewards - modelled)
    taus = [tau] if tau is not None else _thresholds(weights)
    best: tuple[float, Switched] | None = None
    for each in taus:
        kept = weights <= each
        estimate = _mean(direct + np.where(kept, apart, 0.0))
        bias = span * min(1.0, float(np.where(kept, 0.0, weights).mean()))
        loss = estimate.error**2 + bias**2
        if best is None or loss < best[0]:
            best = loss, Switched(*estimate, each)
    assert best is not None
    return best[1]


def _thresholds(weights: Values) -> list[float]:
    """Return thresholds between the largest weight, which leaves out nothing, and a small one."""
    positive = weights[weights > 0.0]
    if not len(positive):
        return [math.inf]
    top, low = float(positive.max()), float(np.quantile(positive, 0.05))
    return [math.inf, *np.geomspace(max(low, top * 1e-6), top, MOST_THRESHOLDS)[::-1].tolist()]


def _mean(values: Values) -> Estimate:
    if not len(values):
        return Estimate(math.nan, math.nan)
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))
