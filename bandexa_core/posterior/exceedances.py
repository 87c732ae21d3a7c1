"""A panel over thousands of independent candidates that draws only what can win, by the exact law.

Candidate k has the value mean_k + d_m spread_k z, where z ~ N(0, 1) and d_m is the member's
deviation. Of 10,000 candidates a member's best is one of the few that exceed a threshold t, for all
members about the same one. With cut_k = (t - mean_k) / (d spread_k) the z of candidate k exceeds
cut_k with probability p_k = 1 - Phi(cut_k), independently of the others. Points of a Poisson
process of the rate -log(1 - p_k) on each candidate hit it at least once with just that probability.
So the points of all candidates are drawn at once: their number, and the place of each. What was hit
gets a z above its cut, whose largest value wins, if no candidate that was not hit can be above it.
Else, and where all values are asked for, the others are drawn as well: below their cuts.

Only the generator changes. Shapes: K candidates, M members, H hits.
"""

from __future__ import annotations

import functools
from typing import Any, Self

import numpy as np

from bandexa_core.posterior.noise import noise_of
from bandexa_core.posterior.panels import Shared
from bandexa_core.posterior.rows import FloatArray

LEAST_CANDIDATES = 2048
LEAST_SHAPE = 64.0  # of the law of s2: below, members differ so much that one threshold fits few
_FEWEST, _WANTED, _MOST = 6.0, 10.0, 20.0  # hits of a member, on average
_TRIES = 12
_EVERY = 4  # candidate is among those that a threshold is sought for at first


@functools.cache
def _normal() -> tuple[Any, Any, Any]:
    """Return Phi, its inverse and its logarithm; `prepare` imports scipy before a select waits."""
    from scipy.special import log_ndtr, ndtr, ndtri

    return ndtr, ndtri, log_ndtr


def prepare(num: int) -> None:
    """Import what a panel of so many candidates needs: 0.1 s."""
    if num >= LEAST_CANDIDATES:
        _normal()


class SparsePanel:
    """The panel of one decision.

    Attributes:
        winners: Every member's best candidate, (M,).
    """

    def __init__(
        self, mean_K: FloatArray, spread_K: FloatArray, cut_K: FloatArray, deviations_M: FloatArray
    ) -> None:
        self._mean_K = mean_K
        self._spread_K = spread_K
        self._cut_K = cut_K
        self._deviations_M = deviations_M
        self._seed = 0
        self._first_M = np.empty(0, np.intp)  # of each member's hits, and behind the last
        self._hit_H = np.empty(0, np.intp)
        self._value_H: FloatArray = np.empty(0)
        self.winners = np.full(len(deviations_M), -1, np.int64)
        self._are_whole = np.zeros(len(deviations_M), np.bool_)  # members of which all was drawn

    @classmethod
    def drawn(
        cls,
        rng: np.random.Generator,
        mean_K: FloatArray,
        spread_K: FloatArray,
        num: int,
        noise: Shared,
        scale: float,
    ) -> Self | None:
        """Draw a panel; None, and no number is taken, where that is no cheaper than all of it.

        Args:
            rng: The decision's generator.
            mean_K: Means.
            spread_K: Deviations in units of s.
            num: Members M.
            noise: The law of s2.
            scale: What deviations are multiplied by.
        """
        a, b = noise if isinstance(noise, tuple) else (None, noise)
        typical = scale * float(np.sqrt(b if a is None else b / a))
        if not typical > 0.0 or (a is not None and a < LEAST_SHAPE) or not spread_K.min() > 0.0:
            return None
        found = _threshold(mean_K, typical * spread_K)
        if found is None:
            return None
        threshold, cut_K, rate_K = found
        gammas_M = np.ones(num) if a is None else rng.standard_gamma(a, num)
        panel = cls(mean_K, spread_K, cut_K, scale * np.sqrt(noise_of(gammas_M, b)))
        panel._hit(rng, rate_K)
        panel._find_winners(threshold, typical)
        return panel

    def _hit(self, rng: np.random.Generator, rate_K: FloatArray) -> None:
        """Draw what exceeds its cut, with its value."""
        ndtr, ndtri, _ = _normal()
        num = len(self.winners)
        self._seed = int(rng.integers(2**63))
        sums_K = np.cumsum(rate_K)
        members = np.repeat(np.arange(num), rng.poisson(sums_K[-1], num))
        places = np.searchsorted(sums_K, rng.random(len(members)) * sums_K[-1], side="right")
        hits = np.unique(members * len(rate_K) + np.minimum(places, len(rate_K) - 1))
        member_H, self._hit_H = np.divmod(hits, len(rate_K))
        self._first_M = np.searchsorted(member_H, np.arange(num + 1))
        above_H = 1.0 - rng.random(len(hits))  # in (0, 1]
        z_H = -ndtri(above_H * ndtr(-self._cut_K[self._hit_H]))
        deviations_H = self._deviations_M[member_H] * self._spread_K[self._hit_H]
        self._value_H = self._mean_K[self._hit_H] + deviations_H * z_H

    def _find_winners(self, threshold: float, typical: float) -> None:
        """Find each member's best hit; a member for which that may not be the best draws all."""
        shares_M = self._deviations_M / typical
        # A candidate that was not hit is at most share t + (1 - share) mean.
        means_M = np.where(shares_M <= 1.0, self._mean_K.max(), self._mean_K.min())
        most_M = shares_M * threshold + (1.0 - shares_M) * means_M
        for member, most in enumerate(most_M.tolist()):
            hits = slice(self._first_M[member], self._first_M[member + 1])
            values = self._value_H[hits]
            best = int(values.argmax()) if len(values) else -1
            if best >= 0 and values[best] > most:
                self.winners[member] = self._hit_H[hits][best]
            else:
                self.winners[member] = self.member(member).argmax()
                self._are_whole[member] = True

    def top(self, member: int) -> FloatArray:
        """Return the values of one member, (K,), as far as its winner needed them.

        The others are below that one's value: -inf stands for them.
        """
        if self._are_whole[member]:
            return self.member(member)
        values_K = np.full(len(self._cut_K), -np.inf)
        hits = slice(self._first_M[member], self._first_M[member + 1])
        values_K[self._hit_H[hits]] = self._value_H[hits]
        return values_K

    def member(self, member: int) -> FloatArray:
        """Return all values of one member, (K,); they are the same each time."""
        ndtr, ndtri, _ = _normal()
        rng = np.random.Generator(np.random.SFC64((self._seed, member)))
        below_K = (1.0 - rng.random(len(self._cut_K))) * ndtr(self._cut_K)
        z_K = np.minimum(ndtri(below_K), self._cut_K)
        values_K: FloatArray = self._mean_K + self._deviations_M[member] * self._spread_K * z_K
        hits = slice(self._first_M[member], self._first_M[member + 1])
        values_K[self._hit_H[hits]] = self._value_H[hits]
        return values_K

    def members(self) -> FloatArray:
        """Return all values, (M, K)."""
        return np.stack([self.member(member) for member in range(len(self.winners))])


def _threshold(
    mean_K: FloatArray, std_K: FloatArray
) -> tuple[float, FloatArray, FloatArray] | None:
    """Return a threshold that some ten candidates exceed on average, the cuts and the rates.

    It is sought among some of the candidates, and then among all where it does not fit those. None
    if none is found: where a few candidates are far above all others.
    """
    start = float((mean_K + 2.0 * std_K).max())
    some = _sought(start, mean_K[::_EVERY].copy(), std_K[::_EVERY].copy(), 1.0 / _EVERY, 0.5)
    return _sought(start if some is None else some[0], mean_K, std_K)


def _sought(
    threshold: float, mean_K: FloatArray, std_K: FloatArray, share: float = 1.0, slack: float = 1.0
) -> tuple[float, FloatArray, FloatArray] | None:
    """Return `_threshold`, from a first guess on.

    `share`: Of all candidates, that these are; `slack`: of what the number of hits may differ by.
    """
    wanted = share * _WANTED
    fewest = wanted - share * slack * (_WANTED - _FEWEST)
    most = wanted + share * slack * (_MOST - _WANTED)
    for _ in range(_TRIES):
        cut_K = (threshold - mean_K) / std_K
        rate_K = _rates(cut_K)
        total = float(rate_K.sum())
        if fewest <= total <= most:
            return threshold, cut_K, rate_K
        # Newton's step of log(total), as if rates fell like the tail of the normal law.
        if not 1e-300 < total < np.inf:
            return None
        cut, std = max(float(rate_K @ cut_K) / total, 1.0), float(rate_K @ std_K) / total
        threshold += std * float(np.log(total / wanted)) / cut
    return None


def _rates(cut_K: FloatArray) -> FloatArray:
    """Return -log Phi(cut), (K,): of most candidates in 0.6 of the time that scipy's takes.

    Below 0, where 1 - Phi loses digits, it is scipy's.
    """
    ndtr, _, log_ndtr = _normal()
    low_L = np.flatnonzero(cut_K < 0.0)
    tail_K = ndtr(-cut_K)
    if len(low_L):
        tail_K[low_L] = 0.0
    rate_K: FloatArray = -np.log1p(-tail_K)
    if len(low_L):
        rate_K[low_L] = -log_ndtr(cut_K[low_L])
    return rate_K
