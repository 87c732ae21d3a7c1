"""Panel Thompson sampling: the probability of what is served, at the price of more draws.

Draw M weight samples, each by the posterior's law, and serve the first one's best action: the
served law is exactly Thompson sampling's. The samples come in mirrored pairs
(`GaussianPosterior.sample`); swapping pairs, or the two of a pair, changes no law, so the first may
as well be any of them. The share of the panel that votes for an action therefore estimates its
probability without bias, and it is the exact probability of serving the action given the panel's
draws in any order. That is what inverse-propensity weights need. (Its variance is that of M
independent samples at most where mirrored members vote differently, as between two actions; where
they vote alike, as for a safe action between two opposed risky ones, it is that of M/2. Averaged
over the decisions that served it, the share lies above the action's probability q, for independent
samples at (1 + (M - 1) q) / M: an action is served more often where its panel likes it.) With
probability epsilon a uniform choice is served instead, so that every action has support and
inverse-propensity estimates stay unbiased:
p(a) = (1 - epsilon) votes(a) / M + epsilon / K. Legend: M members, K candidates, V part size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
CHUNK = 8192
STREAMED_BYTES = 16 << 20
MAX_RANKED = 1 << 17  # scores of a panel that are ranked for an answer, in about 2 ms


@dataclass(frozen=True, slots=True)
class Exploration:
    """How a decision explores.

    Attributes:
        panel: M, the members of the panel.
        epsilon: Probability of a uniform choice.
    """

    panel: int = 64
    epsilon: float = 0.0

    def propensity(self, winners_M: NDArray[np.int64], candidate: int, num: int) -> float:
        """Return the probability of one of `num` candidates, given each member's best one.

        Over all candidates it sums to 1.
        """
        return self.probability(int(np.count_nonzero(winners_M == candidate)), num)

    def probability(self, votes: int, num: int) -> float:
        """Return that of one of `num` candidates with so many votes of the panel."""
        return (1.0 - self.epsilon) * (votes / self.panel) + self.epsilon / num

    def place_propensities(
        self, scores_MK: Array64, chosen: NDArray[np.int64]
    ) -> tuple[float, ...]:
        """Return for each place the probability that the chosen candidate stands there.

        A member ranks the candidates by its scores, the first of equal ones first; the law of the
        first place is that of `propensity`.

        Args:
            scores_MK: Every member's scores.
            chosen: The candidates that were chosen, best first, (k,).
        """
        num = scores_MK.shape[1]
        tops_Mk = ranked(scores_MK, len(chosen))
        votes = np.count_nonzero(tops_Mk == chosen, axis=0).tolist()
        return tuple(self.probability(each, num) for each in votes)


def ranked(scores_MK: Array64, num: int) -> NDArray[np.int64]:
    """Return each row's `num` best candidates, best first, (M, num); of equal ones the first."""
    least_M1 = np.partition(scores_MK, -num, axis=1)[:, -num, None]
    above_MK, equal_MK = scores_MK > least_M1, scores_MK == least_M1
    room_M1 = num - np.count_nonzero(above_MK, axis=1, keepdims=True)
    above_MK |= equal_MK & (np.cumsum(equal_MK, axis=1, dtype=np.int32) <= room_M1)
    places_Mk = np.nonzero(above_MK)[1].reshape(len(scores_MK), num)
    order_Mk = np.argsort(-np.take_along_axis(scores_MK, places_Mk, 1), axis=1, kind="stable")
    found: NDArray[np.int64] = np.take_along_axis(places_Mk, order_Mk, 1)
    return found


def products(parts_KV: Array64, query_V: Array64) -> Array64:
    """Return parts times query, (K,): by BLAS, or what streams a large matrix faster than it.

    Out of the cache, `einsum` takes 1.2 to 1.4 passes through the matrix, BLAS 1.2 to 3.
    """
    if parts_KV.nbytes < STREAMED_BYTES:
        return parts_KV @ query_V
    scores_K: Array64 = np.einsum("kv,v->k", parts_KV, query_V)
    return scores_K


def folded_winners(parts_KV: Array64, queries_MV: Array64) -> NDArray[np.int64]:
    """Return each member's best candidate under folded weights, (M,), in chunks of candidates.

    A member's offset is the same for all candidates and plays no part.
    """
    best_M = np.full(len(queries_MV), -np.inf)
    winners_M = np.zeros(len(queries_MV), np.int64)
    members_M = np.arange(len(queries_MV))
    for first in range(0, len(parts_KV), CHUNK):
        scores_MC = queries_MV @ parts_KV[first : first + CHUNK].T  # so that argmax reads rows
        places_M = scores_MC.argmax(axis=1)
        tops_M = scores_MC[members_M, places_M]
        better = tops_M > best_M
        best_M[better] = tops_M[better]
        winners_M[better] = places_M[better] + first
    return winners_M
