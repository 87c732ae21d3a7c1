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
import math
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
NOT_FINITE = "context: the encoder gives no finite features for it"
Array64 = NDArray[np.float64]
# Multiply-adds of a panel above which its propensity is computed after the answer (about 1 ms).
LATER_PRODUCTS = 1 << 23
MAX_MEANS = 1 << 17  # features of candidates up to which the best posterior mean is computed
ROUNDING = 1e-9  # of the largest value; two ways to compute a value differ by less
ROWS_AT_ONCE = 512  # pairs of a decision and a candidate; their layers stay in the cache
SCORES_AT_ONCE = 1 << 16  # of decisions without layers: all members' scores, half a megabyte


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
        scores: The first members' sampled values less `offsets`, which are served, (B, K).
        winners: Every member's best candidate, (B, M).
        means: Posterior means, less a number that they share, (B, K).
        offsets: For each decision a number that all values of the served member share.
        std: Computes the posterior standard deviation, given a decision and a candidate.
        encode_s: Seconds spent on encoding all of them.
        members: Computes all members' sampled values of a decision, (M, K).
        whole: Computes the scores of the only decision, where `scores` has them of those alone that
            can be the best, and -inf for the others; None: it has all.
    """

    scores: Array64
    winners: NDArray[np.int64]
    means: Array64
    offsets: Sequence[float]
    std: Callable[[int, int], float]
    encode_s: float
    members: Callable[[int], Array64]
    whole: Callable[[], Array64] | None = None

    def only(self) -> Draw:
        """Return the draw of the only decision."""
        winners_M, means_K, std, members = self.winners[0], self.means[0], self.std, self.members
        return Draw(
            self.scores[0] if self.whole is None else self.whole(),
            lambda: winners_M,
            offset=self.offsets[0],
            encode_s=self.encode_s,
            best=lambda: int(means_K.argmax()),
            std=lambda index: std(0, index),
            members=lambda: members(0),
        )


def draw_disjoint(
    posterior: DisjointPosterior,
    z_BD: Array64,
    slots_K: NDArray[np.int64],
    rngs: Sequence[np.random.Generator],
    exploration: Exploration,
    encode_s: float,
) -> JointDraw:
    """Draw the panels of B decisions with a posterior for each slot.

    A single one of many candidates, in the second version, draws only those that can win.
    """
    if len(rngs) == 1 and exploration.version > 1:
        sparse = posterior.sample_sparse(
            rngs[0], z_BD, slots_K, exploration.panel, exploration.scale
        )
        if sparse is not None:
            panel, mean_K, std_K = sparse
            return JointDraw(
                panel.top(0)[None],
                panel.winners[None],
                mean_K[None],
                [posterior.frame.center],
                lambda _, index: float(std_K[index]),
                encode_s,
                lambda _: panel.members(),
                whole=lambda: panel.member(0),
            )
    sampled = posterior.sample_many(
        rngs, z_BD, slots_K, exploration.panel, exploration.scale,
        mirrored=exploration.version > 1,
    )  # fmt: skip
    scores_BMK = sampled.scores
    return JointDraw(
        scores_BMK[:, 0],
        scores_BMK.argmax(axis=2),
        sampled.means,
        [posterior.frame.center] * len(rngs),
        sampled.std,
        encode_s,
        lambda row: scores_BMK[row],
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
        scores_BMK[:, 0],
        scores_BMK.argmax(axis=2),
        np.matmul(posterior.mean, z_BDK),
        [posterior.frame.center] * len(rngs),
        lambda row, index: posterior.std_of(z_BDK[row, :, index]),
        took,
        lambda row: scores_BMK[row],
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

    Raises:
        ValueError: The value of one that would be served is not finite.
    """
    num = drawn.scores.shape[1] if groups is None else len(groups.of)
    encode_s = drawn.encode_s / len(rngs)
    bests, values, num_bests, votes_of_best, expecteds = _counted(drawn)
    choices = []
    for row, rng in enumerate(rngs):
        scores_K, winners_M = drawn.scores[row], drawn.winners[row]
        best, ranking = bests[row], None
        if not math.isfinite(values[row] + drawn.offsets[row]):  # argmax selects a NaN
            raise ValueError(NOT_FINITE)
        if drawn.whole is not None and (explores[row] or forced[row] is not None):
            scores_K = drawn.whole()
        if groups is not None or num_bests[row] > 1:
            ranking = Ranking.of(scores_K, groups, rng, whole=False)
        served = best if ranking is None else ranking.first
        if (instead := forced[row]) is not None:
            served = int(instead[0])
        elif explores[row]:
            served = int(rng.permutation(num)[0])
        expected = expecteds[row]
        if ranking is None:
            is_best = served == best
            own = votes_of_best[row] if is_best else np.count_nonzero(winners_M == served)
            group, votes = served, float(own)
            explored = expected != served
        else:
            group, votes = ranking.group(served), ranking.votes(winners_M, served)
            explored = not ranking.tie(expected, served)
        choices.append(
            Choice(
                np.array([served]),
                np.array([scores_K[group] + drawn.offsets[row]]),
                propensity=exploration.probability(votes, num),
                encode_s=encode_s,
                explored=explored,
                std=spread * drawn.std(row, group),
                all_propensities=partial(
                    _probabilities, ranking, winners_M, num, exploration.epsilon
                ),
            )
        )
    return choices


class _Counted(NamedTuple):
    """What choosing counts, of each decision: calls of numpy for all of them cost as one does.

    Attributes:
        bests: The served member's best candidate.
        values: Its sampled value.
        num_bests: How many candidates have that value.
        votes_of_best: The votes of the panel for it.
        expecteds: The candidate with the best posterior mean.
    """

    bests: list[int]
    values: list[float]
    num_bests: list[int]
    votes_of_best: list[int]
    expecteds: list[int]


def _counted(drawn: JointDraw) -> _Counted:
    scores_BK, winners_BM = drawn.scores, drawn.winners
    if len(scores_BK) == 1:  # without axes, counting takes a tenth of the time
        scores_K, winners_M = scores_BK[0], winners_BM[0]
        best = int(winners_M[0])
        value = float(scores_K[best])
        num_best = int(np.count_nonzero(scores_K == value))
        votes = int(np.count_nonzero(winners_M == best))
        return _Counted([best], [value], [num_best], [votes], [int(drawn.means[0].argmax())])
    best_B = winners_BM[:, 0]
    values_B1 = scores_BK[np.arange(len(best_B)), best_B][:, None]
    return _Counted(
        best_B.tolist(),
        values_B1[:, 0].tolist(),
        np.count_nonzero(scores_BK == values_B1, axis=1).tolist(),
        np.count_nonzero(winners_BM == best_B[:, None], axis=1).tolist(),
        drawn.means.argmax(axis=1).tolist(),
    )


def _probabilities(
    ranking: Ranking | None, winners_M: NDArray[np.int64], num: int, epsilon: float
) -> NDArray[np.float64]:
    """Return the probability of each candidate, (K,); without a ranking, none of them tie."""
    if ranking is not None:
        return with_floor(ranking.shares(winners_M), epsilon)
    return with_floor(np.bincount(winners_M, minlength=num) / len(winners_M), epsilon)
