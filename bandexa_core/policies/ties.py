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

    def place_votes(self, scores_MG: Array64, chosen: NDArray[np.int64]) -> list[float]:
        """Return for each place the votes that the chosen candidate stands there.

        A member ranks the candidates by its scores; those that tie share their places.

        Args:
            scores_MG: Every member's scores of the groups.
            chosen: The candidates that were chosen, best first, (k,).
        """
        if self.groups is None and self.num_first <= 1:
            tops_Mk = ranked(scores_MG, len(chosen))
            return [float(num) for num in np.count_nonzero(tops_Mk == chosen, axis=0)]
        sizes_G = np.ones(len(self.scores)) if self.groups is None else self.groups.sizes
        votes = []
        for place, candidate in enumerate(chosen.tolist()):
            own_M1 = scores_MG[:, self.group(candidate), None]
            better_M, tied_M = (scores_MG > own_M1) @ sizes_G, (scores_MG == own_M1) @ sizes_G
            there_M = (better_M <= place) & (place < better_M + tied_M)
            votes.append(float((there_M / tied_M).sum()))
        return votes

    def place_shares(self, scores_MG: Array64, num: int) -> Array64:
        """Return each candidate's share of the votes for each of the first places, (num, K).

        It is what `place_votes` returns for single ones.
        """
        num_members, num_groups = scores_MG.shape
        shares = np.zeros((num, num_groups))
        if self.groups is None and self.num_first <= 1:
            tops_Mk = ranked(scores_MG, num)
            for place in range(num):
                shares[place] = np.bincount(tops_Mk[:, place], minlength=num_groups)
            shares /= num_members
            return shares
        sizes_G = np.ones(num_groups) if self.groups is None else self.groups.sizes
        for scores_G in scores_MG:
            order = np.argsort(scores_G)
            ascending = scores_G[order]
            sums = np.concatenate([[0.0], np.cumsum(sizes_G[order])])
            better_G = self.num - sums[np.searchsorted(ascending, scores_G, side="right")]
            tied_G = self.num - sums[np.searchsorted(ascending, scores_G, side="left")] - better_G
            for place in range(num):
                there_G = (better_G <= place) & (place < better_G + tied_G)
                shares[place] += there_G / tied_G
        shares /= num_members
        if self.groups is not None:
            shares = shares[:, self.groups.of]
        return shares


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
