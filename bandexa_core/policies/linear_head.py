"""How a Bayesian linear head decides: the base of linear, neural and greedy policies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.fixed import ConcatEncoder
from bandexa_core.encoders.protocol import JointEncoder, SlowEncoder
from bandexa_core.features.byte_rows import stacked
from bandexa_core.features.equal_rows import Groups
from bandexa_core.policies.draws import (
    LATER_PRODUCTS,
    NOT_FINITE,
    ROWS_AT_ONCE,
    SCORES_AT_ONCE,
    Draw,
    JointDraw,
    choose,
    draw_disjoint,
    draw_encoded,
    draw_folded,
    draw_together,
)
from bandexa_core.policies.folded import draw_queries
from bandexa_core.policies.inputs import context_part, raw
from bandexa_core.policies.laws import law_of
from bandexa_core.policies.learned_head import LearnedHead
from bandexa_core.policies.named_inputs import NamedCross
from bandexa_core.policies.panel import Exploration, products, with_floor
from bandexa_core.policies.protocol import (
    Ballot,
    Candidates,
    Choice,
    EncodedContext,
)
from bandexa_core.policies.ties import Ranking
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
)
from bandexa_core.posterior.exceedances import prepare

Array64 = NDArray[np.float64]

Contexts = Sequence[NDArray[Any] | EncodedContext]
Drawing = Callable[[Contexts, Sequence[np.random.Generator], Exploration], JointDraw]
NO_EXPLORATION = Exploration(panel=1)
GREEDY = Exploration(panel=1, method="greedy")


class LinearHead(LearnedHead):
    """Thompson sampling (Agrawal & Goyal, ICML 2013) on encoded features, or a law on the means."""

    def select(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        *,
        num: int = 1,
        retrieve: int | None = None,
        exploration: Exploration = NO_EXPLORATION,
        forced: NDArray[np.int64] | None = None,
    ) -> Choice:
        """See `Policy.select`. Sampled values come from one joint draw of the weights.

        The methods that do not draw have the posterior means in their place.
        """
        if num == 1 and retrieve is None:
            plain = self._chosen([context], candidates, [rng], exploration, [forced])
            if plain is not None:
                return plain[0]
        context = self.ready(context)
        exploration, spread = self._exploring(exploration)
        explores = rng.random() < exploration.epsilon
        groups, offered = self._grouped(candidates)
        draw = self._draw(context, offered, rng, exploration)
        ranking = Ranking.of(draw.scores, groups, rng, whole=num > 1)
        law = law_of(draw, ranking, exploration, self.posterior.frame.unit, retrieve)
        best, retrieved = law.picks(num, retrieve, rng)
        # argmax selects a NaN if there is one.
        ends = ranking.score(ranking.first) + (ranking.score(int(best[-1])) if num > 1 else 0.0)
        if not math.isfinite(ends + draw.offset):
            raise ValueError(NOT_FINITE)
        chosen = best
        if forced is not None:
            chosen = forced
            retrieved = None if retrieved is None else np.union1d(retrieved, chosen)
        elif explores:  # among all candidates, so that each has at least this probability
            chosen = rng.permutation(len(candidates))[:num].astype(np.int64)
            retrieved = None if retrieved is None else np.union1d(retrieved, chosen)
        served = int(chosen[0])
        propensity = partial(law.propensity, served)
        return Choice(
            chosen,
            ranking.of_candidates(chosen) + draw.offset,
            retrieved,
            propensity=None if draw.later else propensity(),
            late_propensity=propensity if draw.later else None,
            encode_s=draw.encode_s,
            explored=None if draw.best is None else not ranking.tie(draw.best(), served),
            std=None if draw.std is None else spread * draw.std(ranking.group(served)),
            propensities=law.places(chosen) if num > 1 else None,
            all_propensities=lambda: with_floor(law.shares(), exploration.epsilon),
            all_places=lambda places: with_floor(law.place_shares(places), exploration.epsilon),
        )

    def select_many(
        self,
        contexts: Sequence[NDArray[Any] | EncodedContext],
        candidates: Candidates,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration = NO_EXPLORATION,
        forced: Sequence[NDArray[np.int64] | None] | None = None,
    ) -> list[Choice]:
        """See `Policy.select_many`."""
        forced = forced or [None] * len(contexts)
        choices = self._chosen(contexts, candidates, rngs, exploration, forced)
        if choices is not None:
            return choices
        rows = zip(contexts, rngs, forced, strict=True)
        return [
            self.select(x, candidates, rng, exploration=exploration, forced=each)
            for x, rng, each in rows
        ]

    def _chosen(
        self,
        contexts: Contexts,
        candidates: Candidates,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration,
        forced: Sequence[NDArray[np.int64] | None],
    ) -> list[Choice] | None:
        """Return choices of one candidate that are drawn together; None: these cannot be."""
        if exploration.method != "thompson" or self.greedy:
            return None
        groups, offered = self._grouped(candidates)
        drawing = self._drawing(offered, exploration)
        if drawing is None:
            return None
        exploration, spread = self._calibrated(exploration)
        choices: list[Choice] = []
        num = ROWS_AT_ONCE if self.joint else SCORES_AT_ONCE // exploration.panel
        step = max(1, num // len(offered))
        for first in range(0, len(contexts), step):
            own = rngs[first : first + step]
            explores = [rng.random() < exploration.epsilon for rng in own]
            x = self._all_ready(contexts[first : first + step])
            drawn = drawing(x, own, exploration)
            choices += choose(
                drawn, groups, own, explores, exploration, spread, forced[first : first + step]
            )
        return choices

    def ballot(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        exploration: Exploration,
        retrieve: int | None = None,
    ) -> Ballot:
        """See `Policy.ballot`."""
        context = self.ready(context)
        exploration, _ = self._exploring(exploration)
        rng.random()  # `select` decides with this number whether it explores
        groups, offered = self._grouped(candidates)
        draw = self._draw(context, offered, rng, exploration)
        ranking = Ranking.of(draw.scores, groups, rng, whole=False)
        law = law_of(draw, ranking, exploration, self.posterior.frame.unit, retrieve)
        sampled_K = ranking.of_candidates(slice(None)) + draw.offset
        return Ballot(sampled_K, law.shares(), exploration.epsilon)

    def _exploring(self, exploration: Exploration) -> tuple[Exploration, float]:
        """Return how this policy explores: calibrated draws, or the means without a panel.

        Beside it is what standard deviations are multiplied by.
        """
        if self.greedy:
            return GREEDY, self.calibration.spread
        if exploration.method == "thompson":
            return self._calibrated(exploration)
        return replace(exploration, panel=1), self.calibration.spread

    def _calibrated(self, exploration: Exploration) -> tuple[Exploration, float]:
        """Return how draws explore when their deviations are those on later rows; and by what."""
        spread = self.calibration.spread
        if spread == 1.0:
            return exploration, spread
        return replace(exploration, scale=exploration.scale * spread), spread

    def _grouped(self, candidates: Candidates) -> tuple[Groups | None, Candidates]:
        """Return the groups of equal candidates, if any, and the candidates to be drawn."""
        groups = candidates.groups if self.encoder.uses_action else None
        return groups, candidates if groups is None else candidates.firsts

    def _drawing(self, candidates: Candidates, exploration: Exploration) -> Drawing | None:
        """Return what draws several decisions over these candidates together; None: nothing does.

        Its contexts are ready ones, as `_all_ready` returns them.
        """
        posterior, joint, chunk = self.posterior, self.joint, self.action_chunk
        if isinstance(posterior, DisjointPosterior):
            return partial(self._draw_disjoint, posterior, candidates)
        if joint is not None:
            if chunk is not None and len(candidates) > chunk:
                return None
            return partial(self._draw_layers, joint, posterior, self.parts(joint, candidates))
        encoder = self.encoder
        if exploration.version == 1 or not isinstance(encoder, ConcatEncoder):
            return None
        parts_KV = self.parts(encoder, candidates)
        if posterior.matrix is None or parts_KV.size * exploration.panel > LATER_PRODUCTS:
            return None
        return partial(self._draw_queries, encoder, posterior, parts_KV)

    def _draw_layers(
        self,
        encoder: JointEncoder,
        posterior: GaussianPosterior,
        parts_KV: Array64,
        contexts: Contexts,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration,
    ) -> JointDraw:
        x_BX = np.stack([raw(context) for context in contexts])
        return draw_together(encoder, posterior, x_BX, parts_KV, rngs, exploration)

    def _draw_queries(
        self,
        encoder: ConcatEncoder,
        posterior: GaussianPosterior,
        parts_KV: Array64,
        contexts: Contexts,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration,
    ) -> JointDraw:
        started = time.perf_counter()
        x_BX = np.array([encoder.context_part(raw(context)) for context in contexts])
        took = time.perf_counter() - started
        return draw_queries(encoder, posterior, x_BX, parts_KV, rngs, exploration, took)

    def prepare(self, num: int) -> None:
        """Import what decisions among so many candidates need, before one of them waits for it."""
        if isinstance(self.posterior, DisjointPosterior):
            prepare(num)

    def _all_ready(self, contexts: Contexts) -> Contexts:
        """Return contexts as the encoder takes them."""
        if len(contexts) == 1 or any(isinstance(context, EncodedContext) for context in contexts):
            return [self.ready(context) for context in contexts]
        return list(self.scaled(stacked([raw(context) for context in contexts])))

    def _draw_disjoint(
        self,
        posterior: DisjointPosterior,
        candidates: Candidates,
        contexts: Contexts,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration,
    ) -> JointDraw:
        started = time.perf_counter()
        z_BD = self.all_shared_features(contexts, candidates)
        took = time.perf_counter() - started
        return draw_disjoint(posterior, z_BD, candidates.slots, rngs, exploration, took)

    def _draw(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        exploration: Exploration,
    ) -> Draw:
        """Draw the panel, whose first member's scores decide; or take the means, by the method."""
        posterior = self.posterior
        if exploration.method != "thompson":
            means_G = self._mean_scores(context, candidates)
            return Draw(
                means_G,
                winners=None,
                best=lambda: int(means_G.argmax()),
                std=self._std_of(context, candidates),
                offset=posterior.frame.center,
            )
        started = time.perf_counter()
        drawing = self._drawing(candidates, exploration)
        if drawing is not None:
            return drawing([context], [rng], exploration).only()
        assert isinstance(posterior, GaussianPosterior), "disjoint ones are drawn above"
        encoder = self.folding
        if encoder is None:
            chunks, std = self.encoded(context, candidates), self._std_of(context, candidates)
            return draw_encoded(posterior, chunks, rng, exploration, std)
        parts_KV, part_1V = self.parts(encoder, candidates), context_part(encoder, context)
        took = time.perf_counter() - started
        return draw_folded(encoder, posterior, part_1V, parts_KV, rng, exploration, took)

    def _std_of(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Callable[[int], float]:
        """Return a function that encodes one candidate and returns its standard deviation."""

        def std(index: int) -> float:
            one = candidates.take(np.array([index]))
            if isinstance(self.posterior, DisjointPosterior):
                z_D = self.shared_features(context, one)
                return float(self.posterior.mean_std(z_D, one.slots)[1][0])
            (z_1D,) = self.encoded(context, one)
            return self.posterior.std_of(z_1D[0])

        return std

    @property
    def learns_features(self) -> bool:
        """See `Policy.learns_features`."""
        return False

    @property
    def least_steps(self) -> int:
        """Optimizer steps of a round on little data: none without an encoder to train."""
        return 0

    @property
    def slow_encoder(self) -> SlowEncoder | None:
        """See `Policy.slow_encoder`: fixed maps are fast."""
        return None

    @property
    def crosses(self) -> list[NamedCross] | None:
        """The products of fields in use; None where the encoder chooses none."""
        return None

    def check_training(self, tensors: dict[str, NDArray[Any]], num_actions: int) -> None:
        """See `Policy.check_training`: nothing is trained."""

    def _mean_scores(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Array64:
        """Return the posterior mean of every candidate's value less the centre, (K,)."""
        posterior, encoder = self.posterior, self.folding
        if isinstance(posterior, DisjointPosterior):
            z_D = self.shared_features(context, candidates)
            return posterior.mean_std(z_D, candidates.slots)[0]
        if encoder is not None:
            part = context_part(encoder, context)
            queries_1V, offsets_1 = encoder.fold(part, posterior.mean[None])
            scores_K = products(self.parts(encoder, candidates), queries_1V[0])
            scores_K += offsets_1[0]
            return scores_K
        mean_D = posterior.mean
        return np.concatenate([z_CD @ mean_D for z_CD in self.encoded(context, candidates)])

    def score(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Policy.score`."""
        context = self.ready(context)
        posterior = self.posterior
        center, spread = posterior.frame.center, self.calibration.spread
        if isinstance(posterior, DisjointPosterior):
            z_D = self.shared_features(context, candidates)
            means_K, stds_K = posterior.mean_std(z_D, candidates.slots)
            return means_K + center, spread * stds_K
        pairs = [posterior.mean_std(z_CD) for z_CD in self.encoded(context, candidates)]
        means, stds = zip(*pairs, strict=True)
        return np.concatenate(means) + center, spread * np.concatenate(stds)
