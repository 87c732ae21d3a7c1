"""Many worlds at once whose contexts are few: a linear bandit decides, a challenger is compared.

With a few contexts and actions, all that a linear posterior knows is how often each pair of both
was seen, and what it earned. Its values of the pairs are then given in closed form: with features
Z, (C, D), counts N and sums of centred values t, the values have

    covariance s2 P, P = (I + G N)^-1 G, G = Z Z^T / ridge        mean P t        s2 ~ IG(a, b)
    a = a0 + n / 2        b = b0 + (r.r - t.P t) / 2

So all worlds take a step in one pass of numpy. The laws of decisions are those of a served model:
panels of mirrored draws, the floor, the propensity that is logged; only the generator is another
one. What is compared goes through the comparison itself (`service.tools.challenge.scoring`).
Shapes: R worlds, B rows, C pairs, K actions, X contexts, M members of a panel, H half of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.model import ServingModel
from bandexa_core.policies import LinearHead
from bandexa_core.posterior import GaussianPosterior
from bandexa_core.posterior.frame import FIRST_ROWS
from bandexa_core.spec import BanditSpec
from service.tools.challenge.scoring import Comparison
from service.tools.evaluate.cases import Case, Changes, block_size

Array64 = NDArray[np.float64]
Places = NDArray[np.int64]
COMPARED = "c"


class Found(NamedTuple):
    """What became of the challenger of one world.

    Attributes:
        seen: After how many decisions it was found better; None: never.
        lift, low, high: What was found last.
    """

    seen: int | None
    lift: float
    low: float
    high: float


class Laws(NamedTuple):
    """What is believed of the values of pairs, in each world.

    Attributes:
        mean: Of values less what they are centred by, (R, X, K).
        lower: Roots of their covariances, in units of s2, (R, X, K, K).
        a, b: Of the law of s2: a number, and (R,).
    """

    mean: Array64
    lower: Array64
    a: float
    b: Array64


class LinearHeads:
    """The linear posteriors of one configuration in R worlds.

    Args:
        spec: The configuration; its inputs are not standardised.
        contexts: All contexts, (X, *).
        actions: The features of all actions, (K, A).
        num: How many worlds.
    """

    def __init__(
        self, spec: BanditSpec, contexts: Array64, actions: NDArray[np.float32], num: int
    ) -> None:
        empty = Catalogue.empty(spec.row_layout)
        policy = ServingModel(spec, BanditUid("worlds"), EncoderRegistry(), empty).policy
        assert isinstance(policy, LinearHead)
        assert isinstance(policy.posterior, GaussianPosterior)
        assert not spec.encoder.standardize, "the values of pairs would depend on the rows"
        self.config, self._panel = policy.config, spec.selection.panel
        self._epsilon, self._scale = spec.epsilon_at(0), spec.posterior_scale
        self.shape = len(contexts), len(actions)
        x_CX = np.repeat(contexts, len(actions), axis=0).astype(np.float32)
        z_CD = policy.encoder.encode(x_CX, np.tile(actions, (len(contexts), 1)))
        self._prior_CC = z_CD @ z_CD.T / self.config.ridge
        self.num_rows = 0
        self._counts_RC = np.zeros((num, len(z_CD)))
        self._sums_RC = np.zeros((num, len(z_CD)))
        self._squares_R = np.zeros(num)
        self.center_R = np.zeros(num)

    def learn(self, pairs_RB: Places, values_RB: Array64) -> None:
        """Learn rows: which pair each is of, and what it earned."""
        first = max(0, min(FIRST_ROWS - self.num_rows, pairs_RB.shape[1]))
        for column in range(first):
            self._add(pairs_RB[:, column : column + 1], values_RB[:, column : column + 1])
        if first < pairs_RB.shape[1]:
            self._add(pairs_RB[:, first:], values_RB[:, first:])

    def _add(self, pairs_RB: Places, values_RB: Array64) -> None:
        worlds_R1 = np.arange(len(pairs_RB))[:, None]
        np.add.at(self._counts_RC, (worlds_R1, pairs_RB), 1.0)
        np.add.at(self._sums_RC, (worlds_R1, pairs_RB), values_RB)
        self._squares_R += (values_RB**2).sum(axis=1)
        self.num_rows += pairs_RB.shape[1]
        if self.num_rows <= FIRST_ROWS and self.num_rows.bit_count() == 1:  # it has doubled
            self.center_R = self._sums_RC.sum(axis=1) / self.num_rows

    def laws(self) -> Laws:
        """Return what is believed now."""
        counts_RC, center_R1 = self._counts_RC, self.center_R[:, None]
        total_RC = self._sums_RC - center_R1 * counts_RC
        squares_R = (
            self._squares_R - 2.0 * self.center_R * self._sums_RC.sum(axis=1)
            + self.center_R**2 * self.num_rows
        )  # fmt: skip
        known_RCC = np.eye(counts_RC.shape[1]) + self._prior_CC * counts_RC[:, None]
        spread_RCC = np.linalg.solve(known_RCC, np.broadcast_to(self._prior_CC, known_RCC.shape))
        mean_RC = np.einsum("rcd,rd->rc", spread_RCC, total_RC)
        b_R = self.config.prior_rate + 0.5 * (squares_R - (mean_RC * total_RC).sum(axis=1))
        num_contexts, width = self.shape
        blocks = [slice(each * width, (each + 1) * width) for each in range(num_contexts)]
        own_RXKK = np.stack([spread_RCC[:, block, block] for block in blocks], axis=1)
        lower_RXKK = np.linalg.cholesky(0.5 * (own_RXKK + own_RXKK.swapaxes(-1, -2)))
        a = self.config.noise_shape + 0.5 * self.num_rows
        roots_RXKK = np.asarray(lower_RXKK, np.float64)
        return Laws(mean_RC.reshape(-1, *self.shape), roots_RXKK, a, b_R)

    def ballots(
        self, laws: Laws, kinds_RB: Places, rng: np.random.Generator
    ) -> tuple[Places, Array64]:
        """Draw a panel for each row; returns the first member's action, (R, B), and chances.

        The chances of actions, (R, B, K), are the shares of the panel with the floor.
        """
        num, width = self._panel, laws.mean.shape[-1]
        worlds_R1 = np.arange(len(kinds_RB))[:, None]
        eps_RBHK = rng.standard_normal((*kinds_RB.shape, num // 2, width))
        gammas_RBM = rng.standard_gamma(laws.a, (*kinds_RB.shape, num))
        deviations_RBM = self._scale * np.sqrt(laws.b[:, None, None] / gammas_RBM)
        moved_RBHK = np.matmul(eps_RBHK, laws.lower[worlds_R1, kinds_RB].swapaxes(-1, -2))
        scores_RBMK = np.concatenate([moved_RBHK, -moved_RBHK], axis=2)
        scores_RBMK *= deviations_RBM[..., None]
        scores_RBMK += laws.mean[worlds_R1, kinds_RB][:, :, None]
        winners_RBM = scores_RBMK.argmax(axis=-1)
        votes = [(winners_RBM == action).mean(axis=-1) for action in range(width)]
        chances_RBK = (1.0 - self._epsilon) * np.stack(votes, axis=-1) + self._epsilon / width
        return winners_RBM[..., 0], chances_RBK

    def served(self, kinds_R: Places, rng: np.random.Generator) -> tuple[Places, Array64]:
        """Decide once in each world; returns the actions, (R,), and their propensities."""
        drawn_R1, chances_R1K = self.ballots(self.laws(), kinds_R[:, None], rng)
        explores_R = rng.random(len(kinds_R)) < self._epsilon
        uniform_R = rng.integers(chances_R1K.shape[-1], size=len(kinds_R))
        actions_R = np.where(explores_R, uniform_R, drawn_R1[:, 0])
        return actions_R, chances_R1K[np.arange(len(kinds_R)), 0, actions_R]


class _OfWorld:
    """The challenger of one world, as the comparison asks it: by places in the current block."""

    name, changes, is_log = COMPARED, True, False

    def __init__(self) -> None:
        self.chances_BK = self.means_BK = np.empty((0, 0))
        self.has_means = False

    def chances(self, case: Case) -> Array64:
        """See `Asked.chances`."""
        chances_K: Array64 = self.chances_BK[int(case.decision_id)]
        return chances_K

    def means(self, case: Case) -> Array64 | None:
        """See `Asked.means`."""
        return self.means_BK[int(case.decision_id)] if self.has_means else None

    def learn(self, cases: Sequence[Case]) -> None:
        """Learn nothing: the posteriors of all worlds learn together."""

    def change(self, changes: Changes) -> None:
        """Note nothing: actions stay."""


class FiniteWorlds:
    """Worlds of one kind.

    Args:
        means: What each action earns in each context, (X, K): the probability of a 1.
        shares: How often each context is seen, (X,).
        contexts: All contexts, (X, *).
        actions: The features of all actions, (K, A).
    """

    def __init__(
        self, means: Array64, shares: Array64, contexts: Array64, actions: NDArray[np.float32]
    ) -> None:
        self.means, self.shares = means, shares
        self.contexts, self.actions = contexts, actions

    def compared(
        self,
        champion: BanditSpec,
        challenger: BanditSpec,
        *,
        num_worlds: int,
        num: int,
        least: int,
        sharing: int,
        growth: float,
        seed: int,
    ) -> list[Found]:
        """Return what becomes of a challenger in each world within so many decisions.

        It is looked at as a server does it: whenever the log has grown by the factor `growth`.

        Args:
            champion: What decides.
            challenger: What is compared.
            num_worlds: How many worlds.
            num: How many decisions in each.
            least: How many a conclusion needs.
            sharing: How many challengers share the error.
            growth: See above.
            seed: Of everything that is drawn.
        """
        rng = np.random.default_rng((37, seed))
        served, other = (
            LinearHeads(spec, self.contexts, self.actions, num_worlds)
            for spec in (champion, challenger)
        )
        asked = [_OfWorld() for _ in range(num_worlds)]
        comparisons = [Comparison({COMPARED: each}, {COMPARED: least}, sharing) for each in asked]
        seen: list[int | None] = [None] * num_worlds
        count, look_at = 0, 100.0
        while count < num and num_worlds:
            size = min(block_size(count), num - count)
            kinds_RB, actions_RB, propensities_RB, values_RB = self._decided(served, size, rng)
            laws = other.laws()
            _, chances_RBK = other.ballots(laws, kinds_RB, rng)
            means_RXK = laws.mean + other.center_R[:, None, None]
            for world, (own, comparison) in enumerate(zip(asked, comparisons, strict=True)):
                own.chances_BK, own.has_means = chances_RBK[world], count > 0
                own.means_BK = means_RXK[world, kinds_RB[world]]
                comparison.take(_cases(actions_RB[world], propensities_RB[world], values_RB[world]))
            other.learn(kinds_RB * len(self.actions) + actions_RB, values_RB)
            count += size
            if count >= look_at or count >= num:
                look_at = growth * count
                for world, comparison in enumerate(comparisons):
                    if seen[world] is None and comparison.scores()[COMPARED].is_better:
                        seen[world] = count
        scores = [comparison.scores()[COMPARED] for comparison in comparisons]
        return [
            Found(first, score.lift or 0.0, score.low or 0.0, score.high or 0.0)
            for first, score in zip(seen, scores, strict=True)
        ]

    def _decided(
        self, served: LinearHeads, size: int, rng: np.random.Generator
    ) -> tuple[Places, Places, Array64, Array64]:
        """Decide and learn so many rows in every world: contexts, actions, propensities, values."""
        num_worlds = len(served.center_R)
        kinds_RB = rng.choice(len(self.shares), p=self.shares, size=(num_worlds, size))
        actions_RB = np.empty_like(kinds_RB)
        propensities_RB, values_RB = np.empty(kinds_RB.shape), np.empty(kinds_RB.shape)
        for row in range(size):
            kinds_R = kinds_RB[:, row]
            actions_R, propensities_RB[:, row] = served.served(kinds_R, rng)
            values_R = rng.random(num_worlds) < self.means[kinds_R, actions_R]
            actions_RB[:, row], values_RB[:, row] = actions_R, values_R
            pairs_R = kinds_R * len(self.actions) + actions_R
            served.learn(pairs_R[:, None], values_RB[:, row : row + 1])
        return kinds_RB, actions_RB, propensities_RB, values_RB


def _cases(actions_B: Places, propensities_B: Array64, values_B: Array64) -> list[Case]:
    rows = zip(actions_B.tolist(), propensities_B.tolist(), values_B.tolist(), strict=True)
    return [
        Case(str(row), 0.0, None, (), None, False, action, propensity, None, value)
        for row, (action, propensity, value) in enumerate(rows)
    ]
