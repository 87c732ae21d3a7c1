"""Draws of a decision: sampled values of all candidates, for every member of the panel.

One function for each kind of encoder: `draw_disjoint` where it ignores the action, `draw_folded`
where weights fold into a query over action parts, `draw_together` for small networks,
`draw_encoded` for the others. Those that return a `JointDraw` serve one decision or several over
the same candidates. numpy is then called once for all of them, and each decision gets the bits that
it would get alone, because every product has the same shape per decision. Only generators change.
Legend: B decisions, K candidates, M members, D features, V size of an action part, `*X` a context.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.protocol import FoldingEncoder, JointEncoder
from bandexa_core.features.equal_rows import Groups
from bandexa_core.policies.panel import Exploration, folded_winners, products, with_floor
from bandexa_core.policies.protocol import Choice
from bandexa_core.policies.ties import Ranking
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior

log = logging.getLogger(__name__)
Array64 = NDArray[np.float64]
# Multiply-adds of a panel above which its propensity is computed after the answer (about 1 ms).
LATER_PRODUCTS = 1 << 23
MAX_MEANS = 1 << 17  # features of candidates up to which the best posterior mean is computed
ROUNDING = 1e-9  # of the largest value; two ways to compute a value differ by less
ROWS_AT_ONCE = 512  # pairs of a decision and a candidate; their layers stay in the cache


class Draw(NamedTuple):
    """Sampled scores of every candidate, and the panel they belong to.

    Attributes:
        scores: The served member's sampled values less `offset`, (K,).
        winners: Computes every member's best candidate, (M,); reads immutable arrays only.
            None: there is one member, whose best has the largest of `scores`.
        later: Whether `winners` takes too long for the answer to wait for it.
        offset: A number that all sampled values share. If it were added before they are compared,
            rounding could create ties that `winners` does not see.
        encode_s: Seconds spent on encoding.
        best: Computes the candidate with the best posterior mean; None: it takes too long.
        std: Computes the posterior standard deviation of a candidate's value.
        members: Computes every member's sampled scores, (M, K); None as for `winners`.
    """

    scores: Array64
    winners: Callable[[], NDArray[np.int64]] | None
    later: bool = False
    offset: float = 0.0
    encode_s: float = 0.0
    best: Callable[[], int] | None = None
    std: Callable[[int], float] | None = None
    members: Callable[[], Array64] | None = None


class JointDraw(NamedTuple):
    """Draws of several decisions over the same candidates.

    Attributes:
        members: All members' sampled values less `offsets`, (B, M, K); the first one's are served.
        winners: Every member's best candidate, (B, M).
        means: Posterior means, less a number that they share, (B, K).
        offsets: A number that all values of the served member share, (B,).
        stds: Computes posterior standard deviations, given decisions and candidates, (N,) each.
        encode_s: Seconds spent on encoding all of them.
    """

    members: Array64
    winners: NDArray[np.int64]
    means: Array64
    offsets: Array64
    stds: Callable[[NDArray[np.int64], NDArray[np.int64]], Array64]
    encode_s: float

    @property
    def scores(self) -> Array64:
        """The served members' sampled values, (B, K)."""
        return self.members[:, 0]

    @property
    def finite(self) -> bool:
        """Whether the served score of every decision is finite; argmax selects a NaN."""
        served_B = self.members[np.arange(len(self.members)), 0, self.winners[:, 0]]
        return bool(np.isfinite(served_B + self.offsets).all())

    def only(self) -> Draw:
        """Return the draw of the only decision."""
        winners_M, means_K, scores_MK = self.winners[0], self.means[0], self.members[0]
        first, stds = np.zeros(1, np.int64), self.stds
        return Draw(
            scores_MK[0],
            lambda: winners_M,
            offset=float(self.offsets[0]),
            encode_s=self.encode_s,
            best=lambda: int(means_K.argmax()),
            std=lambda index: float(stds(first, np.array([index]))[0]),
            members=lambda: scores_MK,
        )


def draw_disjoint(
    posterior: DisjointPosterior,
    z_BD: Array64,
    slots_K: NDArray[np.int64],
    rngs: Sequence[np.random.Generator],
    exploration: Exploration,
    encode_s: float,
) -> JointDraw:
    """Draw the panels of B decisions with a posterior for each slot."""
    scores_BMK, means_BK, stds_BK = posterior.sample_many(
        rngs, z_BD, slots_K, exploration.panel, exploration.scale
    )
    return JointDraw(
        scores_BMK,
        scores_BMK.argmax(axis=2),
        means_BK,
        np.full(len(rngs), posterior.frame.center),
        lambda decisions, candidates: stds_BK[decisions, candidates],
        encode_s,
    )


def draw_encoded(
    posterior: GaussianPosterior,
    chunks: Iterable[Array64],
    rng: np.random.Generator,
    exploration: Exploration,
    encode_std: Callable[[int], float],
) -> Draw:
    """Draw over features in chunks, (C, D) each.

    Several chunks are not stored, as their purpose is to bound memory. In that case `encode_std`
    encodes one candidate again for its standard deviation.
    """
    weights_MD, mean_D = posterior.sample(rng, exploration.panel, exploration.scale), posterior.mean
    scores, means, encode_s, since = [], [], 0.0, time.perf_counter()
    for z_CD in chunks:
        encode_s += time.perf_counter() - since
        scores.append(z_CD @ weights_MD.T)
        means.append(z_CD @ mean_D)
        since = time.perf_counter()
    scores_KM, means_K, only_KD = np.concatenate(scores), np.concatenate(means), z_CD

    def std(index: int) -> float:
        return posterior.std_of(only_KD[index]) if len(scores) == 1 else encode_std(index)

    return Draw(
        scores_KM[:, 0].copy(),
        lambda: scores_KM.argmax(axis=0),
        offset=posterior.frame.center,
        encode_s=encode_s,
        best=lambda: int(means_K.argmax()),
        std=std,
        members=lambda: scores_KM.T,
    )


def draw_folded(
    encoder: FoldingEncoder,
    posterior: GaussianPosterior,
    part_1V: Array64,
    parts_KV: Array64,
    rng: np.random.Generator,
    exploration: Exploration,
    encode_s: float,
) -> Draw:
    """Draw with weights folded into one query per member: a pass through the action parts."""
    panel = exploration.panel
    queries_MV, offsets_M = encoder.fold(part_1V, posterior.sample(rng, panel, exploration.scale))
    served_K = products(parts_KV, queries_MV[0])

    def std(index: int) -> float:
        return posterior.std_of(encoder.combine(part_1V, parts_KV[index : index + 1])[0])

    def winners() -> NDArray[np.int64]:
        found_M = folded_winners(parts_KV, queries_MV)
        voted, served = int(found_M[0]), int(served_K.argmax())
        if voted != served:  # of nearly equal values; the two products round otherwise
            if served_K[served] - served_K[voted] > ROUNDING * np.abs(served_K).max():
                log.error("candidate %d is served, but the panel voted for %d", served, voted)
            found_M[0] = served
        return found_M

    def best() -> int:
        mean_V = encoder.fold(part_1V, posterior.mean[None])[0][0]
        return int((parts_KV @ mean_V).argmax())

    return Draw(
        served_K,
        None if panel == 1 else winners,
        later=panel > 1 and parts_KV.size * panel > LATER_PRODUCTS,
        offset=float(offsets_M[0]) + posterior.frame.center,
        encode_s=encode_s,
        best=best if parts_KV.size <= MAX_MEANS else None,
        std=std,
        members=None if panel == 1 else lambda: queries_MV @ parts_KV.T,
    )


def draw_together(
    encoder: JointEncoder,
    posterior: GaussianPosterior,
    contexts: NDArray[Any],
    parts_KV: Array64,
    rngs: Sequence[np.random.Generator],
    exploration: Exploration,
) -> JointDraw:
    """Draw the panels of B decisions; `contexts` (B, *X), a generator for each."""
    started = time.perf_counter()
    z_BDK = encoder.combine_many(contexts, parts_KV)
    took = time.perf_counter() - started
    weights_BMD = posterior.sample_many(rngs, exploration.panel, exploration.scale)
    scores_BMK = np.matmul(weights_BMD, z_BDK)
    return JointDraw(
        scores_BMK,
        scores_BMK.argmax(axis=2),
        np.matmul(posterior.mean, z_BDK),
        np.full(len(rngs), posterior.frame.center),
        lambda decisions, candidates: posterior.stds_of(z_BDK[decisions, :, candidates]),
        took,
    )


def choose(
    drawn: JointDraw,
    groups: Groups | None,
    rngs: Sequence[np.random.Generator],
    explores: Sequence[bool],
    exploration: Exploration,
    spread: float,
    forced: Sequence[NDArray[np.int64] | None],
) -> list[Choice]:
    """Return the choice of one action for each decision; uniform ones where one `explores`.

    `spread` is what standard deviations are multiplied by; `forced`: see `Policy.select`.
    """
    best_B = drawn.winners[:, 0]
    num = drawn.scores.shape[1] if groups is None else len(groups.of)
    rows_B = np.arange(len(best_B))
    tops_B1 = drawn.scores[rows_B, best_B][:, None]
    has_ties = np.count_nonzero(drawn.scores == tops_B1, axis=1) > 1
    served_B, rankings = best_B.copy(), dict[int, Ranking]()
    for row, rng in enumerate(rngs):
        if groups is not None or has_ties[row]:
            ranking = Ranking.of(drawn.scores[row], groups, rng, whole=False)
            rankings[row], served_B[row] = ranking, ranking.first
        if (instead := forced[row]) is not None:
            served_B[row] = instead[0]
        elif explores[row]:
            served_B[row] = rng.permutation(num)[0]
    group_B = served_B if groups is None else groups.of[served_B]
    votes_B = np.count_nonzero(drawn.winners == group_B[:, None], axis=1).astype(np.float64)
    means_B = drawn.means.argmax(axis=1)
    explored_B = means_B != group_B
    for row, ranking in rankings.items():
        votes_B[row] = ranking.votes(drawn.winners[row], int(served_B[row]))
        explored_B[row] = not ranking.tie(int(means_B[row]), int(served_B[row]))
    columns = zip(
        served_B[:, None],
        (drawn.scores[rows_B, group_B] + drawn.offsets)[:, None],
        votes_B.tolist(),
        explored_B.tolist(),
        (spread * drawn.stds(rows_B, group_B)).tolist(),
        strict=True,
    )
    return [
        Choice(
            chosen,
            scores,
            propensity=exploration.probability(votes, num),
            encode_s=drawn.encode_s / len(rngs),
            explored=explored,
            std=std,
            all_propensities=partial(
                _probabilities, rankings.get(row), drawn.winners[row], num, exploration.epsilon
            ),
        )
        for row, (chosen, scores, votes, explored, std) in enumerate(columns)
    ]


def _probabilities(
    ranking: Ranking | None, winners_M: NDArray[np.int64], num: int, epsilon: float
) -> NDArray[np.float64]:
    """Return the probability of each candidate, (K,); without a ranking, none of them tie."""
    if ranking is not None:
        return with_floor(ranking.shares(winners_M), epsilon)
    return with_floor(np.bincount(winners_M, minlength=num) / len(winners_M), epsilon)
