"""Means and deviations that a minority of values cannot own, and how far a value may lie away.

Values are winsorised (set to the nearer fence) before mean and deviation are taken. Fences are set
by quartiles: Tukey, "Exploratory Data Analysis", 1977. Where no value is beyond a fence, which
includes nearly all of a normal, binary, or sparse column, mean and deviation are the plain ones.
Legend: N rows, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
# A deviation of this share of the mean could come from rounding alone. The feature is centred then,
# and divided by that share if it exceeds 1, so that rounding errors do not grow.
LEAST_DEVIATION = 1e-6
FENCE = 5.0  # deviations, as the quartiles have them, from the median to a fence
QUARTILE = 0.6744897501960817  # of the standard normal distribution
BOUND = 10.0  # standardised values are clipped there
CONSTANT_BOUND = 1.0  # beyond it they grow with the logarithm where no spread is known
LIVE_BOUND = 3.0  # and are clipped here
FAR = 3.0  # bounds: what lies further away than that is no value of this feature, but an error
NEVER = 1e300
PARTS = ("mean", "std", "bound", "far", "clipped")
MODERATE = 1e100  # it and a float32, over the inverse of its square, are below the largest float64
FEW = 0.2  # of the rows; where more lie far away, they are values
RECENT = 2.0  # the newest rows set the scale where they spread by so much more


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """How the features of one side are standardised, (F,) each.

    A value becomes (value - mean) / std, clipped to +-bound; one beyond +-far becomes 0, the mean,
    as a missing one.

    Attributes:
        mean: The location.
        std: The deviation, above 0.
        bound: The largest size of a standardised value.
        far: The size of a standardised value that is no longer believed.
        clipped: The share of the rows behind the scale that was beyond `bound`.
        is_moderate: Whether no float32 becomes infinite when it is standardised.
    """

    mean: Array64
    std: Array64
    bound: Array64
    far: Array64
    clipped: Array64
    is_moderate: bool = field(init=False)

    def __post_init__(self) -> None:
        moderate = (np.abs(self.mean) < MODERATE) & (self.std > MODERATE**-2)
        object.__setattr__(self, "is_moderate", bool(moderate.all()))

    @classmethod
    def identity(cls, size: int, bound: float = NEVER) -> Scale:
        """Return the scale that changes nothing."""
        zero, one = np.zeros(size), np.ones(size)
        return cls(zero, one, np.full(size, bound), np.full(size, NEVER), np.zeros(size))

    def limits(self) -> tuple[Array64, Array64]:
        """Return the least and the largest raw value within the bound, (F,) each."""
        with np.errstate(over="ignore"):
            width = self.std * self.bound
            return self.mean - width, self.mean + width

    def is_extreme(self, raw_NF: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values (N, F) are further away than values of their features ever are."""
        with np.errstate(over="ignore"):
            width = np.where(self.bound == BOUND, FAR * BOUND * self.std, np.inf)
            extreme: NDArray[np.bool_] = raw_NF < self.mean - width
            extreme |= raw_NF > self.mean + width
        return extreme

    def of_moments(self, mean_F: Array64, std_F: Array64) -> Scale:
        """Return the scale of raw values, given plain moments of values under this scale.

        Where they are beyond float64, this scale stays.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = self.mean + self.std * mean_F, self.std * std_F
        is_known = np.isfinite(mean)
        mean, std, varies = _safe(np.where(is_known, mean, 0.0), std)
        bound = np.where(varies, BOUND, CONSTANT_BOUND)
        size = len(mean)
        scale = Scale(mean, std, bound, np.full(size, NEVER), np.zeros(size))
        return self.where(is_known, scale)

    def where(self, mask: NDArray[np.bool_], other: Scale) -> Scale:
        """Return this scale with the features of `mask` taken from `other`."""
        return Scale(*(np.where(mask, getattr(other, n), getattr(self, n)) for n in PARTS))

    def outdated_by(self, other: Scale) -> NDArray[np.bool_]:
        """Return where `other`, the scale of newer rows, differs by more than chance, (F,).

        A spread of another size, by a factor of 2, a mean that moved by a deviation, or a feature
        whose spread was not known.
        """
        known = self.bound != CONSTANT_BOUND
        varies = other.bound != CONSTANT_BOUND
        larger = np.maximum(self.std, other.std)
        differs = (larger > 2.0 * np.minimum(self.std, other.std)) | (
            np.abs(self.mean - other.mean) > larger
        )
        outdated: NDArray[np.bool_] = varies & (differs | ~known)
        return outdated


def scale_of(rows_NF: NDArray[np.generic], weights_N: Array64 | None = None) -> Scale | None:
    """Return the scale of rows (N, F) with weights (N,) (None: all 1); None without any weight."""
    values = rows_NF.astype(np.float64)
    weights = np.ones(len(values)) if weights_N is None else weights_N
    counts = (weights > 0.0) & np.isfinite(values).all(axis=1)
    values, weights = values[counts], weights[counts]
    if not len(values):
        return None
    shares_N = weights / weights.sum()
    median, spread = _spread(values, shares_N)
    inner = np.clip(values, median - FENCE * spread, median + FENCE * spread)
    mean, std, varies = _moments(inner, shares_N[:, None])
    bound = np.where(varies, BOUND, CONSTANT_BOUND)
    is_far = np.abs(values - mean) > FAR * bound * std
    few = max(FEW, shares_N.max()) + 1e-12  # one row is always few
    has_far = varies & is_far.any(axis=0) & (shares_N @ is_far <= few)
    if has_far.any():  # these are no values of the feature
        known = np.where(is_far[:, has_far], 0.0, shares_N[:, None])
        mean[has_far], std[has_far], _ = _moments(inner[:, has_far], known / known.sum(axis=0))
    far = np.where(has_far | (varies & ~is_far.any(axis=0)), FAR * bound, NEVER)
    clipped = shares_N @ (np.abs(values - mean) > bound * std)
    return Scale(mean, std, bound, far, clipped)


def scale_now(rows_NF: NDArray[np.generic], weights_N: Array64 | None, newest: int) -> Scale | None:
    """Return the scale of rows in the order of time, for rows like the `newest` last ones.

    Where these lie further from the mean than the deviation explains, their distance is the
    deviation: a feature that was constant and has gone live goes on as in its newest rows. The
    mean stays, so that a model knows the rows before as it knew them.
    """
    whole = scale_of(rows_NF, weights_N)
    if whole is None or not newest:
        return whole
    values = rows_NF.astype(np.float64)
    before, last = scale_of(values[:-newest]), scale_of(values[-newest:])
    if before is None or last is None:
        return whole
    was_constant = before.bound == CONSTANT_BOUND
    mean = np.where(was_constant, before.mean, whole.mean)
    away = np.abs(values[-newest:] - mean)
    known = np.abs(values[-newest:] - last.mean) <= last.bound * last.std
    with np.errstate(over="ignore"):
        std = np.sqrt((np.where(known, away, 0.0) ** 2).sum(axis=0) / known.sum(axis=0))
    grown = (last.bound != CONSTANT_BOUND) & (was_constant | (std > RECENT * whole.std))
    for feature in np.flatnonzero(grown & was_constant):
        live = away[:, feature][away[:, feature] > 0.0]
        inner = np.minimum(live, FENCE * np.median(live))
        std[feature] = np.sqrt(np.mean(inner**2))
    grown &= np.isfinite(std) & (std > 0.0)
    size = len(mean)
    newer = Scale(
        mean, np.where(grown, std, 1.0), np.full(size, BOUND), np.full(size, NEVER), np.zeros(size)
    )
    return whole.where(grown, newer)


def _moments(values_NF: Array64, shares: Array64) -> tuple[Array64, Array64, NDArray[np.bool_]]:
    """Return mean, deviation and whether it varies, by the shares (N, F) or (N, 1) of the rows."""
    mean_F = (shares * values_NF).sum(axis=0)
    with np.errstate(over="ignore"):
        return _safe(mean_F, np.sqrt((shares * (values_NF - mean_F) ** 2).sum(axis=0)))


def _safe(mean_F: Array64, std_F: Array64) -> tuple[Array64, Array64, NDArray[np.bool_]]:
    """Return mean, a deviation above 0, and whether the feature varies at all, (F,) each."""
    least = LEAST_DEVIATION * np.abs(mean_F)
    varies = (std_F > least) & np.isfinite(std_F)
    return mean_F, np.where(varies, std_F, np.maximum(least, 1.0)), varies


def _spread(values_NF: Array64, shares_N: Array64) -> tuple[Array64, Array64]:
    """Return median and spread of each feature, (F,); the spread of a constant one is 0.

    The spread is the distance of the quartiles, in deviations of a normal distribution. Where half
    of the rows or more have one value, it is that of a quarter of the others: of a binary or
    sparse feature the distance of its values.
    """
    ordered, sums = _ordered(values_NF, shares_N)
    low, median, high = (_at(ordered, sums, share) for share in (0.25, 0.5, 0.75))
    spread = (high - low) / (2.0 * QUARTILE)
    for feature in np.flatnonzero(spread == 0.0):
        away_N = np.abs(values_NF[:, feature] - median[feature])
        others = away_N > 0.0
        if others.any():
            sizes, parts = _ordered(away_N[others][:, None], shares_N[others])
            spread[feature] = _at(sizes, parts / parts[-1], 0.25)[0]
    return median, spread


def _ordered(values_NF: Array64, shares_N: Array64) -> tuple[Array64, Array64]:
    """Return the values of each feature in order, and their summed shares, (N, F) or (N, 1)."""
    if (shares_N == shares_N[0]).all():
        return np.sort(values_NF, axis=0), np.cumsum(shares_N)[:, None]
    order = np.argsort(values_NF, axis=0, kind="stable")
    return np.take_along_axis(values_NF, order, axis=0), np.cumsum(shares_N[order], axis=0)


def _at(ordered_NF: Array64, sums: Array64, share: float) -> Array64:
    """Return the first value of each feature up to which there is at least `share`, (F,)."""
    num, size = ordered_NF.shape
    first = np.minimum((sums < share - 1e-12).sum(axis=0), num - 1)
    values: Array64 = ordered_NF[np.broadcast_to(first, size), np.arange(size)]
    return values
