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

from bandexa_core.policies.ties import Ranking
from bandexa_core.spec import SelectionMethod

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
        scale: What deviations of a draw from the posterior mean are multiplied by.
        method: How the first action is chosen; see `SelectionSpec`.
        gamma: Of inverse-gap weighting, per unit of the posterior's frame.
        version: Which random numbers a draw is made of; see `SelectionSpec.draws`.
    """

    panel: int = 64
    epsilon: float = 0.0
    scale: float = 1.0
    method: SelectionMethod = "thompson"
    gamma: float = 0.0
    version: int = 1

    def propensity(self, ranking: Ranking, winners_M: NDArray[np.int64], candidate: int) -> float:
        """Return the probability of a candidate, given each member's best one.

        Over all candidates it sums to 1.
        """
        return self.probability(ranking.votes(winners_M, candidate), ranking.num)

    def probability(self, votes: float, num: int) -> float:
        """Return that of one of `num` candidates with so many votes of the panel."""
        return self.mixed(votes / self.panel, num)

    def mixed(self, share: float, num: int) -> float:
        """Return the probability of one of `num` candidates, given that without the floor."""
        return (1.0 - self.epsilon) * share + self.epsilon / num

    def place_propensities(
        self, ranking: Ranking, scores_MG: Array64, chosen: NDArray[np.int64]
    ) -> tuple[float, ...]:
        """Return for each place the probability that the chosen candidate stands there.

        The law of the first place is that of `propensity`.

        Args:
            ranking: The candidates.
            scores_MG: Every member's scores of their groups.
            chosen: The candidates that were chosen, best first, (k,).
        """
        votes = ranking.place_votes(scores_MG, chosen)
        return tuple(self.probability(each, ranking.num) for each in votes)


def with_floor(shares_K: Array64, epsilon: float) -> Array64:
    """Return the probabilities of all candidates, (..., K), given those without the floor."""
    found: Array64 = (1.0 - epsilon) * shares_K + epsilon / shares_K.shape[-1]
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
