"""Laws of a decision: from the values of its candidates to a choice and its probabilities.

`PanelLaw` serves the best sampled value, and a vote of the panel says how probable each candidate
is; the posterior means alone, greedily, are a panel of one. `GapLaw` is inverse-gap weighting of
the posterior means (Abe & Long, "Associative reinforcement learning using linear probabilistic
concepts", ICML 1999; Foster & Rakhlin, "Beyond UCB: optimal and efficient contextual bandits with
regression oracles", ICML 2020, Algorithm 1):

p(a) = 1 / (K + gamma (m_best - m_a)) for all but the best, which gets the rest.

Its probabilities are exact. The floor epsilon is mixed into either law; LinearHead decides whether
a decision is one of the floor's. Legend: K candidates, M members of the panel.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bandexa_core.policies.draws import Draw
from bandexa_core.policies.panel import MAX_RANKED, Exploration
from bandexa_core.policies.ties import Ranking

Array64 = NDArray[np.float64]
Indexes = NDArray[np.int64]


class Law(Protocol):
    """How one decision chooses. Probabilities read immutable arrays only, on any one thread."""

    def picks(
        self, num: int, retrieve: int | None, rng: np.random.Generator
    ) -> tuple[Indexes, Indexes | None]:
        """Return `num` candidates, best first, and those that were retrieved, if not all."""

    def propensity(self, candidate: int) -> float:
        """Return the probability that a candidate is the first, with the floor."""

    def shares(self) -> Array64:
        """Return the probability of each candidate without the floor, (K,); they sum to 1."""

    def places(self, chosen: Indexes) -> tuple[float, ...] | None:
        """Return the probability of each of several picks at its place; None: it takes too long."""

    def place_shares(self, num: int) -> Array64:
        """Return that of each candidate at each of `num` places without the floor, (num, K)."""


def law_of(
    draw: Draw, ranking: Ranking, exploration: Exploration, unit: float, retrieve: int | None
) -> Law:
    """Return the law of a decision.

    Args:
        draw: The values that are ranked, and the panel.
        ranking: Ranks the candidates by them.
        exploration: The method, and how it explores.
        unit: The spread of rewards, in units of `exploration.gamma`.
        retrieve: How many candidates are retrieved, if not all.
    """
    if exploration.method == "squarecb":
        return GapLaw(ranking, exploration, exploration.gamma / unit, retrieve)
    return PanelLaw(draw, ranking, exploration)


class PanelLaw:
    """The best value of the first member is served; the panel votes for its probability."""

    def __init__(self, draw: Draw, ranking: Ranking, exploration: Exploration) -> None:
        self._draw = draw
        self._ranking = ranking
        self._exploration = exploration

    def picks(
        self, num: int, retrieve: int | None, rng: np.random.Generator
    ) -> tuple[Indexes, Indexes | None]:
        """See `Law.picks`."""
        ranking = self._ranking
        retrieved, best = None, np.array([ranking.first])
        if retrieve is not None and retrieve < ranking.num:
            retrieved = ranking.retrieved(retrieve)
        if num > 1:
            best = ranking.best(num, retrieved)
        return best, retrieved

    @cached_property
    def _winners(self) -> Indexes:
        draw = self._draw
        return np.array([draw.scores.argmax()]) if draw.winners is None else draw.winners()

    def propensity(self, candidate: int) -> float:
        """See `Law.propensity`."""
        return self._exploration.propensity(self._ranking, self._winners, candidate)

    def shares(self) -> Array64:
        """See `Law.shares`."""
        return self._ranking.shares(self._winners)

    def places(self, chosen: Indexes) -> tuple[float, ...] | None:
        """See `Law.places`."""
        if self._ranking.num * self._exploration.panel > MAX_RANKED:
            return None
        return self._exploration.place_propensities(self._ranking, self._scores, chosen)

    def place_shares(self, num: int) -> Array64:
        """See `Law.place_shares`."""
        return self._ranking.place_shares(self._scores, num)

    @cached_property
    def _scores(self) -> Array64:
        """Every member's scores of the groups, (M, G)."""
        draw = self._draw
        return draw.scores[None] if draw.members is None else draw.members()


class GapLaw:
    """Inverse-gap weighting draws the first pick; the others follow in the order of the means.

    With `retrieve` the law is that of the retrieved candidates, and K is their number. Equal means
    have equal probabilities: the best ones share the rest, and a random order says which of equal
    ones are retrieved and which comes first.

    Args:
        ranking: Ranks the candidates by their posterior means.
        exploration: Has the floor.
        gamma: How fast 1/p grows with the gap, per unit of the means.
        retrieve: How many candidates are retrieved, if not all.
    """

    def __init__(
        self, ranking: Ranking, exploration: Exploration, gamma: float, retrieve: int | None
    ) -> None:
        self._ranking = ranking
        self._exploration = exploration
        self._gamma = gamma
        self._means = ranking.of_candidates(slice(None))
        self._num = ranking.num if retrieve is None else min(retrieve, ranking.num)

    def picks(
        self, num: int, retrieve: int | None, rng: np.random.Generator
    ) -> tuple[Indexes, Indexes | None]:
        """See `Law.picks`."""
        ranking, means_K = self._ranking, self._means
        is_part = self._num < ranking.num
        if num == 1 and not is_part:
            return np.array([_drawn(self._shares, rng)]), None
        order = ranking.order
        if order is None:  # of those that may be among the picks or the retrieved, a random one
            least = self._best(max(num, self._num))[-1]
            order = rng.permutation(np.flatnonzero(means_K >= least))
        ranked = order[np.argsort(-means_K[order], kind="stable")]
        rank = _drawn(self._by_rank, rng)
        others = ranked[:num][np.arange(num) != rank][: num - 1]
        best = np.concatenate([ranked[rank : rank + 1], others])
        return best, np.sort(ranked[: self._num]) if is_part else None

    def propensity(self, candidate: int) -> float:
        """See `Law.propensity`."""
        return self._exploration.mixed(self._share(candidate), self._ranking.num)

    def _share(self, candidate: int) -> float:
        """Return the probability of one candidate without the floor."""
        if self._num == self._ranking.num:
            return float(self._shares[candidate])
        mean = self._means[candidate]
        start = int(np.count_nonzero(self._means > mean))
        if start >= self._num:
            return 0.0
        ties = int(np.count_nonzero(self._means == mean))
        return float(self._by_rank[start]) * (min(start + ties, self._num) - start) / ties

    def shares(self) -> Array64:
        """See `Law.shares`."""
        return self._shares

    def places(self, chosen: Indexes) -> tuple[float, ...]:
        """See `Law.places`: exact. A candidate of rank r stands at r or, below the first, at r + 1.

        It keeps its rank where the first was of a better one. Those that tie share their ranks.
        """
        before = np.concatenate([[0.0], np.cumsum(self._by_rank)])  # that a better rank is first
        starts, ends = self._blocks(self._means[chosen])
        found = [self._share(int(chosen[0]))]
        for j, start, end in zip(range(1, len(chosen)), starts[1:], ends[1:], strict=True):
            own = before[j] if start <= j < end else 0.0
            moved = 1.0 - before[j] if start < j <= end else 0.0
            found.append(float(own + moved) / int(end - start))
        return tuple(self._exploration.mixed(each, self._ranking.num) for each in found)

    def place_shares(self, num: int) -> Array64:
        """See `Law.place_shares`: exact, as `places`."""
        before = np.concatenate([[0.0], np.cumsum(self._by_rank)])
        starts_K, ends_K = self._blocks(self._means)
        found = np.zeros((num, len(starts_K)))
        found[0] = self._shares
        for j in range(1, num):
            own_K = np.where((starts_K <= j) & (j < ends_K), before[j], 0.0)
            moved_K = np.where((starts_K < j) & (j <= ends_K), 1.0 - before[j], 0.0)
            found[j] = (own_K + moved_K) / (ends_K - starts_K)
        return found

    @cached_property
    def _descending(self) -> Array64:
        return -np.sort(-self._means)

    @cached_property
    def _by_rank(self) -> Array64:
        """The probabilities of the retrieved ranks, best first."""
        return inverse_gaps(self._best(self._num), self._gamma)

    def _best(self, num: int) -> Array64:
        """Return the largest means, best first."""
        most = min(num, len(self._means))
        return -np.sort(np.partition(-self._means, most - 1)[:most])

    @cached_property
    def _shares(self) -> Array64:
        if self._num == self._ranking.num:
            return inverse_gaps(self._means, self._gamma)
        starts_K, ends_K = self._blocks(self._means)
        inside_K = np.minimum(ends_K, self._num) - starts_K  # ranks of those that tie
        own_K = self._by_rank[np.minimum(starts_K, self._num - 1)]
        shares_K: Array64 = own_K * np.maximum(inside_K, 0) / (ends_K - starts_K)
        return shares_K

    def _blocks(self, means: Array64) -> tuple[Indexes, Indexes]:
        """Return the first rank of those that tie with each of some means, and the one after."""
        ascending = -self._descending
        starts = np.searchsorted(ascending, -means, side="left")
        return starts, np.searchsorted(ascending, -means, side="right")


def inverse_gaps(means_K: Array64, gamma: float) -> Array64:
    """Return the probabilities of inverse-gap weighting, (K,); the best ones share the rest.

    Args:
        means_K: Expected rewards.
        gamma: How fast 1/p grows with the gap; 0: all are equally probable.
    """
    best = means_K.max()
    with np.errstate(over="ignore", invalid="ignore"):  # `LinearHead` refuses what is not finite
        shares_K: Array64 = 1.0 / (len(means_K) + gamma * (best - means_K))
    is_best_K = means_K == best
    rest = 1.0 - float(shares_K[~is_best_K].sum())
    shares_K[is_best_K] = rest / max(1, int(np.count_nonzero(is_best_K)))
    return shares_K


def _drawn(shares: Array64, rng: np.random.Generator) -> int:
    """Return an index, drawn with these probabilities."""
    sums = np.cumsum(shares)
    place = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
    return min(place, len(shares) - 1)
