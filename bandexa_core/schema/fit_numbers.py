"""Fits numbers, vectors and times: robust scales, edges of pieces, and what never varied.

Scales are those of `bandexa_core.features.robust`, so that a minority of values cannot own them.
Legend: N values, with weights (N,); S numbers of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.robust import CONSTANT_BOUND, NEVER, scale_of
from bandexa_core.schema.fields import AUTO_BINS, MAX_LEVELS, NumberField
from bandexa_core.schema.limits import MAX_NUMBER
from bandexa_core.schema.parts.numeric import Curve, NumberPart
from bandexa_core.schema.parts.part import BOUND
from bandexa_core.schema.parts.timed import SIDES, TimePart, cycles, log_age
from bandexa_core.schema.parts.vectors import VectorPart

Array64 = NDArray[np.float64]
ROWS_PER_BIN = 25
ROWS_PER_LEVEL = 4
KNOTS = 33
HEAVY = 2.5  # an upper tail so many times longer than the lower one is heavy
LEAST_UNIT = 1e-30
SPARSE = 0.2  # of the rows: where fewer have other values than the usual one, they are rare
LEAST_GAP = 1e-9  # of the distance of the outer edges: closer ones differ by rounding


def fit_number(
    path: str, known: NumberField, x_N: Array64, weights_N: Array64, missing: bool
) -> NumberPart | None:
    """Return the fitted field of numbers; None where they do not vary.

    Args:
        path: Its path.
        known: Scale and bins that were declared.
        x_N: The numbers.
        weights_N: Their weights, above 0.
        missing: Whether a column says that it is missing.
    """
    believed = np.abs(x_N) <= MAX_NUMBER
    x_N, weights_N = x_N[believed], weights_N[believed]
    inner = _inner(x_N, weights_N)
    if inner is None:
        return None
    curve: Curve = "log" if known.scale == "auto" else known.scale
    if known.scale == "auto" and not is_heavy(x_N, weights_N):
        curve = "linear"
    unit = 1.0
    knots: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    if curve == "log":
        unit = _unit(x_N, weights_N)
    elif curve == "quantile":
        knots, shares = _knots(x_N[inner], weights_N[inner])
    start = NumberPart(path, missing, curve, unit, knots, shares, 0.0, 1.0, NEVER, (), 0.0)
    t_N = _mapped(start.bent(), x_N)
    mean, std, far = 0.0, 1.0, NEVER
    if curve != "quantile":
        scale = scale_of(t_N[:, None], weights_N)
        if scale is None or scale.bound[0] == CONSTANT_BOUND:
            return None
        mean, std, far = float(scale.mean[0]), float(scale.std[0]), float(scale.far[0])
        inner = np.abs(t_N - mean) <= BOUND * std
        least = _sparse_deviation(t_N, weights_N)
        if least > std:
            far, std = max(far * std / least, BOUND), least
    edges = _edges(known, t_N[inner], weights_N[inner])
    middle = float(quantiles(t_N[inner], weights_N[inner], (0.5,))[0])
    return NumberPart(path, missing, curve, unit, knots, shares, mean, std, far, edges, middle)


def fit_vector(
    path: str, size: int, x_NS: Array64, weights_N: Array64, missing: bool
) -> VectorPart | None:
    """Return the fitted field of vectors (N, S); None where no number of them varies."""
    believed = (np.abs(x_NS) <= MAX_NUMBER).all(axis=1)
    scale = scale_of(x_NS[believed], weights_N[believed]) if believed.any() else None
    if scale is None:
        return None
    kept = np.flatnonzero(scale.bound != CONSTANT_BOUND)
    if not len(kept):
        return None
    mean, std, far = (tuple(part[kept].tolist()) for part in (scale.mean, scale.std, scale.far))
    return VectorPart(path, missing, size, tuple(kept.tolist()), mean, std, far)


def fit_time(
    path: str, times: Sequence[tuple[float, float]], weights_N: Array64, missing: bool
) -> TimePart | None:
    """Return the fitted field of times, as `as_time` returns them; None where they do not vary."""
    instant_N = np.array([instant for instant, _ in times], np.float64)
    inner = _inner(instant_N, weights_N)
    if inner is None:
        return None
    newest = float(instant_N[inner].max())
    sides_NS = np.array([(*cycles(local), log_age(instant, newest)) for instant, local in times])
    scale = scale_of(sides_NS, weights_N)
    if scale is None:
        return None
    varies = scale.bound != CONSTANT_BOUND
    sides = tuple(side for side, kept in zip(SIDES, varies, strict=True) if kept)
    if not sides:
        return None
    return TimePart(path, missing, sides, newest, float(scale.mean[-1]), float(scale.std[-1]))


def quantiles(x_N: Array64, weights_N: Array64, shares: Sequence[float]) -> Array64:
    """Return the least value up to which there is each share of the weight."""
    order = np.argsort(x_N, kind="stable")
    sums = np.cumsum(weights_N[order])
    found = np.searchsorted(sums, np.asarray(shares) * sums[-1] * (1.0 - 1e-12))
    values: Array64 = x_N[order][np.minimum(found, len(x_N) - 1)]
    return values


def is_heavy(x_N: Array64, weights_N: Array64) -> bool:
    """Return whether numbers of 0 or above have a heavy upper tail that a logarithm evens out.

    Tails are the distances of the outer tenths to the median, among the numbers above 0. Those of
    an exponential distribution are 2.7 times as long above as below.
    """
    above = x_N > 0.0
    if (x_N < 0.0).any() or above.sum() * 5 < len(x_N):
        return False
    low, middle, high = quantiles(x_N[above], weights_N[above], (0.1, 0.5, 0.9)).tolist()
    if not low < middle < high:
        return False
    plain = (high - middle) / (middle - low)
    logs = (math.log(high) - math.log(middle)) / (math.log(middle) - math.log(low))  # no overflow
    return plain > HEAVY and abs(math.log(logs)) < math.log(plain)


def _inner(x_N: Array64, weights_N: Array64) -> NDArray[np.bool_] | None:
    """Return which numbers are within the bound of their scale (N,); None where none vary."""
    scale = scale_of(x_N[:, None], weights_N) if len(x_N) else None
    if scale is None or scale.bound[0] == CONSTANT_BOUND:
        return None
    inner: NDArray[np.bool_] = np.abs(x_N - scale.mean[0]) <= BOUND * scale.std[0]
    return inner if inner.any() else None


def _sparse_deviation(t_N: Array64, weights_N: Array64) -> float:
    """Return the least deviation of a number that mostly has one value; 0 of others.

    It is what the deviation would be if a fifth of the rows had other values. Else the rarer these
    are, the larger they would become, and one row could decide what a model believes of them.
    """
    values, places = np.unique(t_N, return_inverse=True)
    shares = np.bincount(places, weights_N) / weights_N.sum()
    usual = int(shares.argmax())
    others = 1.0 - shares[usual]
    if not 0.0 < others < SPARSE:
        return 0.0
    away = np.abs(values - values[usual])
    size = float(quantiles(away[away > 0.0], shares[away > 0.0], (0.5,))[0])
    return size * math.sqrt(SPARSE * (1.0 - SPARSE))


def _unit(x_N: Array64, weights_N: Array64) -> float:
    """Return a size that nearly all numbers but 0 exceed, from where on asinh is a logarithm."""
    size_N = np.abs(x_N)
    above = size_N > 0.0
    low = quantiles(size_N[above], weights_N[above], (0.05,))[0] if above.any() else 1.0
    return max(float(low), LEAST_UNIT)


def _knots(x_N: Array64, weights_N: Array64) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return quantiles that differ, and the middle of the shares that each stands for."""
    shares = np.linspace(0.0, 1.0, KNOTS)
    found, places = np.unique(quantiles(x_N, weights_N, shares.tolist()), return_inverse=True)
    if len(found) == 1:  # all but a few numbers are alike
        found = np.unique(x_N)[[0, -1]]
        return tuple(found.tolist()), (0.0, 1.0)
    middles = np.bincount(places, shares) / np.bincount(places)
    return tuple(found.tolist()), tuple(middles.tolist())


def _edges(known: NumberField, t_N: Array64, weights_N: Array64) -> tuple[float, ...]:
    """Return the edges of the pieces, from what was declared and how many rows there are.

    A number of few values has each of them as an edge. Others have quantiles, for 25 rows a piece
    at least unless their number is declared: of fewer rows, more pieces learn noise.
    """
    num = known.bins
    levels, counts = np.unique(t_N, return_counts=True)
    if num is None:
        if known.scale != "auto":
            return ()
        few = len(levels) <= MAX_LEVELS
        if few:
            levels = levels[counts > 1]
            # None may have been seen twice: of numbers at both ends of what a float can hold, only
            # one is within the bound.
            num = MAX_LEVELS if 0 < ROWS_PER_LEVEL * len(levels) <= len(t_N) else 0
        else:
            num = min(AUTO_BINS, len(t_N) // ROWS_PER_BIN)
        if num < 2:
            return ()
    if num == 0:
        return ()
    if len(levels) <= num + 1:
        edges = levels
    else:
        edges = np.unique(quantiles(t_N, weights_N, np.linspace(0.0, 1.0, num + 1).tolist()))
    apart = np.diff(edges, prepend=-np.inf) > LEAST_GAP * (edges[-1] - edges[0])
    least = 3 if known.bins is None else 2  # one piece says no more than the scaled value
    return tuple(edges[apart].tolist()) if apart.sum() >= least else ()


def _mapped(function: Callable[[float], float], x_N: Array64) -> Array64:
    return np.array([function(x) for x in x_N.tolist()], np.float64)
