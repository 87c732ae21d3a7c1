"""Ties: candidates with equal values share the votes, and chance decides which one is served.

Candidates with equal features are drawn as one group (`features.equal_rows`), so that they have
equal values to the bit; values of others may be equal as well, as all are for a bilinear map of a
context of zeros. Every member of the panel votes for all that tie for its best value, with equal
parts of its vote. The order in which ties are broken is random, from the decision's own generator,
which is used for it only where there is a tie. A candidate's propensity is then its share of the
votes over all orders. Legend: K candidates, G groups, M members.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.equal_rows import Groups

Array64 = NDArray[np.float64]


class Ranking(NamedTuple):
    """The served member's ranking of the candidates.

    Attributes:
        scores: Sampled values of the groups, (G,).
        groups: The groups; None: each candidate is one.
        num: K.
        first: The candidate that is served, unless the decision explores.
        num_first: How many candidates have its value.
        order: A random order of the candidates where there are ties, (K,), else None.
    """

    scores: Array64
    groups: Groups | None
    num: int
    first: int
    num_first: int
    order: NDArray[np.int64] | None

    @classmethod
    def of(
        cls, scores_G: Array64, groups: Groups | None, rng: np.random.Generator, *, whole: bool
    ) -> Ranking:
        """Rank the candidates.

        Args:
            scores_G: Sampled values of the groups.
            groups: The groups.
            rng: The decision's generator.
            whole: Whether an order of all candidates is needed, or the first alone.
        """
        best = int(scores_G.argmax())
        if groups is None:
            num_first = int(np.count_nonzero(scores_G == scores_G[best]))
            if num_first <= 1:
                return cls(scores_G, None, len(scores_G), best, num_first, None)
            num = len(scores_G)
        else:
            num, num_first = len(groups.of), int(groups.sizes[scores_G == scores_G[best]].sum())
            if num_first <= 1 and not whole:
                return cls(scores_G, groups, num, int(groups.first[best]), num_first, None)
        order = rng.permutation(num)
        scores_K = scores_G if groups is None else scores_G[groups.of]
        first = int(order[scores_K[order].argmax()])
        return cls(scores_G, groups, num, first, num_first, order)

    def score(self, candidate: int) -> float:
        """Return the sampled value of a candidate."""
        return float(self.scores[self.group(candidate)])

    def of_candidates(self, which: NDArray[np.int64] | slice) -> Array64:
        """Return the sampled values of some candidates."""
        return self.scores[which if self.groups is None else self.groups.of[which]]

    def group(self, candidate: int) -> int:
        """Return the group of a candidate."""
        return candidate if self.groups is None else int(self.groups.of[candidate])

    def best(self, num: int, among: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return the best `num` candidates, best first, of all or `among` some."""
        order = self.order
        if among is not None:
            order = among if order is None else order[np.isin(order, among)]
        scores_K = self.of_candidates(slice(None))
        if order is None:
            return np.argsort(-scores_K, kind="stable")[:num].astype(np.int64)
        return order[np.argsort(-scores_K[order], kind="stable")[:num]]

    def retrieved(self, num: int) -> NDArray[np.int64]:
        """Return the `num` candidates of the largest values, the first among them, ascending."""
        scores_K = self.of_candidates(slice(None))
        order = np.arange(self.num) if self.order is None else self.order
        found: NDArray[np.int64] = order[np.argpartition(-scores_K[order], num - 1)[:num]]
        if self.first not in found:
            found[scores_K[found].argmax()] = self.first
        found.sort()
        return found

    def tie(self, group: int, candidate: int) -> bool:
        """Whether a group has the value of a candidate."""
        own = candidate if self.groups is None else int(self.groups.of[candidate])
        return group == own or bool(self.scores[group] == self.scores[own])

    def votes(self, winners_M: NDArray[np.int64], candidate: int) -> float:
        """Return the votes for a candidate, given the first of the best groups of each member.

        What ties with the served one ties for every member: the encoder gives equal features.
        """
        group = self.group(candidate)
        if self.num_first > 1 and self.tie(group, self.first):
            tied_G = self.scores == self.scores[group]
            return int(np.count_nonzero(tied_G[winners_M])) / self.num_first
        votes = int(np.count_nonzero(winners_M == group))
        return votes if self.groups is None else votes / int(self.groups.sizes[group])

    def shares(self, winners_M: NDArray[np.int64]) -> Array64:
        """Return each candidate's share of the votes, (K,)."""
        votes_G = np.bincount(winners_M, minlength=len(self.scores)) / len(winners_M)
        shared_G = votes_G / self.groups.sizes if self.groups is not None else votes_G
        if self.num_first > 1:
            tied_G = self.scores == self.scores[self.group(self.first)]
            shared_G = np.where(tied_G, votes_G[tied_G].sum() / self.num_first, shared_G)
        return shared_G if self.groups is None else shared_G[self.groups.of]
