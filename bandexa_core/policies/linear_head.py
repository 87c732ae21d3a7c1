"""A Bayesian linear head over a frozen encoder: the base of linear, neural and greedy policies."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.fixed import ConcatEncoder
from bandexa_core.encoders.protocol import Encoder, JointEncoder, SlowEncoder
from bandexa_core.features.byte_rows import stacked
from bandexa_core.features.equal_rows import Groups
from bandexa_core.features.scaling import InputScaling
from bandexa_core.ids import ActionSlot
from bandexa_core.policies.calibration import Calibration
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
from bandexa_core.policies.inputs import EncodedInputs, context_part, raw
from bandexa_core.policies.laws import law_of
from bandexa_core.policies.named_inputs import NamedCross, NamedInputs
from bandexa_core.policies.panel import Exploration, products, with_floor
from bandexa_core.policies.protocol import (
    Ballot,
    Candidates,
    Choice,
    EncodedContext,
    RowWeights,
)
from bandexa_core.policies.schedule import next_scaling
from bandexa_core.policies.ties import Ranking
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    PosteriorConfig,
    Statistics,
)
from bandexa_core.posterior.exceedances import prepare
from bandexa_core.posterior.frame import Frame
from bandexa_core.posterior.rows import learnable
from bandexa_core.replay import LearnedRows, Rows, TrainingRows
from bandexa_core.training.plan import ReportProgress
from bandexa_core.training.ranks import ALONE, Ranks, summed

Array64 = NDArray[np.float64]
BLOCK_ROWS = 8  # a block of fewer rows takes as long as the rows one by one
MAX_WEIGHTS = 8193  # 8192 features and the constant: a posterior of 0.5 GB, and its statistics

Contexts = Sequence[NDArray[Any] | EncodedContext]
Drawing = Callable[[Contexts, Sequence[np.random.Generator], Exploration], JointDraw]
NO_EXPLORATION = Exploration(panel=1)
GREEDY = Exploration(panel=1, method="greedy")


class LinearHead(EncodedInputs):
    """Thompson sampling (Agrawal & Goyal, ICML 2013) on encoded features, or a law on the means.

    Where the encoder ignores the action the posteriors are disjoint, one per catalogue slot.

    Args:
        encoder: The frozen feature map.
        config: Prior and noise of the head.
        greedy: Act on the posterior mean instead of a draw.
        action_chunk: Encode at most this many candidates at once (None: all).
        scaling: Standardises inputs before they are encoded; None: they are encoded as they are.
        named: Makes numbers of objects with named features; None: all inputs are numbers.

    Raises:
        ValueError: The encoder has more features than a posterior can hold.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: PosteriorConfig,
        *,
        greedy: bool = False,
        action_chunk: int | None = None,
        scaling: InputScaling | None = None,
        named: NamedInputs | None = None,
    ) -> None:
        if encoder.feature_dim > MAX_WEIGHTS:
            raise ValueError(f"encoder: {encoder.feature_dim} features, at most {MAX_WEIGHTS} fit")
        super().__init__(encoder, action_chunk, scaling, named)
        self.config = config
        self.greedy = greedy
        self.calibration = Calibration()
        self.posterior: GaussianPosterior | DisjointPosterior = (
            GaussianPosterior.prior(encoder.feature_dim, config)
            if encoder.uses_action
            else DisjointPosterior.prior(encoder.feature_dim, config)
        )

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

    def scaling_due(self, num_rows: int) -> bool:
        """See `Policy.scaling_due`: the scaling is due when the data has doubled."""
        return self.scaling is not None and num_rows >= next_scaling(self.scaling.num_rows)

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

    def learn(
        self,
        context: NDArray[Any],
        action: NDArray[np.float32],
        slot: ActionSlot,
        before: float | None,
        after: float,
        weight: float = 1.0,
        z_1D: Array64 | None = None,
    ) -> None:
        """See `Policy.learn`."""
        if z_1D is None:
            z_1D = self.features(context[None], action[None])
        if not learnable(z_1D)[0]:
            return  # a row without finite features is skipped: it must not stop the bandit
        posterior, z_D = self.posterior, z_1D[0]
        after = self.config.clipped_one(after)
        before = None if before is None else self.config.clipped_one(before)
        if isinstance(posterior, DisjointPosterior):
            if before is None:
                posterior.update(slot, z_D, after)
            elif posterior.slot(slot) is not None:  # else the row was imported or evicted
                posterior.correct(slot, z_D, before, after, weight)
        elif before is None:
            posterior.update(z_D, after)
        else:
            posterior.correct(z_D, before, after, weight)

    def learn_many(
        self, z_ND: Array64, slots: Sequence[ActionSlot], values: Sequence[float]
    ) -> None:
        """See `Policy.learn_many`; from 8 rows on a joint posterior learns them as a block."""
        good_N = learnable(z_ND)
        posterior = self.posterior
        if isinstance(posterior, GaussianPosterior) and len(z_ND) >= BLOCK_ROWS:
            if good_N.any():
                values_N = self.config.clipped(np.array(values))
                posterior.update_batch(z_ND[good_N], values_N[good_N])
            return
        for z_D, slot, value, good in zip(z_ND, slots, values, good_N, strict=True):
            if not good:
                continue  # as above
            if isinstance(posterior, DisjointPosterior):
                posterior.update(slot, z_D, self.config.clipped_one(value))
            else:
                posterior.update(z_D, self.config.clipped_one(value))

    def remove(self, rows: Rows, weights_N: Array64) -> None:
        """Take learned rows out of the posterior, with their values and what they weigh now."""
        z_ND = self.features(rows.contexts, rows.actions)
        good_N = learnable(z_ND)  # the others were never learned
        values_N = self.config.clipped(rows.rewards)[good_N]
        z_ND, weights_N = z_ND[good_N], weights_N[good_N]
        posterior = self.posterior
        for slot, mask in self._groups(rows.slots[good_N]):
            if isinstance(posterior, GaussianPosterior):
                posterior.remove(z_ND[mask], values_N[mask], weights_N[mask])
            elif posterior.slot(slot) is not None:  # else the rows were imported or evicted
                posterior.remove(slot, z_ND[mask], values_N[mask], weights_N[mask])

    def copy(self) -> Self:
        """See `Policy.copy`."""
        other = copy.copy(self)
        other.posterior = self.posterior.copy()
        return other

    def forgotten(self, factor: float) -> GaussianPosterior | DisjointPosterior:
        """See `Policy.forgotten`."""
        posterior = self.posterior.copy()
        posterior.forget(factor)
        return posterior

    def adopt(self, posterior: GaussianPosterior | DisjointPosterior | None) -> None:
        """See `Policy.adopt`."""
        assert posterior is not None
        self.posterior = posterior

    def rebuild(
        self,
        replay: TrainingRows | LearnedRows,
        chunk: int,
        weights: RowWeights | None = None,
        report: ReportProgress | None = None,
        frame: Frame | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """See `Policy.rebuild`: sums over chunks in float64, one factorisation per posterior.

        `report` is called after each chunk. `frame`: the one of the values so far; None: that of
        the posterior. With several `ranks`, each reads its share of the rows.
        """
        frame = self.posterior.frame if frame is None else frame
        dim = self.encoder.feature_dim
        num_read, whole = 0, max(1, len(replay))
        by_slot: dict[int, Statistics] = {}
        for rows in replay.scan(chunk):
            z_ND = self.features(rows.contexts, rows.actions)
            good = learnable(z_ND)
            z_ND, rewards = z_ND[good], self.config.clipped(rows.rewards)[good]
            weights_N = None if weights is None else weights(rows.positions[good])
            for slot, mask in self._groups(rows.slots[good]):
                share = None if weights_N is None else weights_N[mask]
                by_slot.setdefault(slot, Statistics(dim)).add(z_ND[mask], rewards[mask], share)
            if report is not None:
                num_read += len(rows)
                report("rebuild", min(1.0, ranks.size * num_read / whole))
        by_slot = summed(by_slot, dim, ranks)
        if isinstance(self.posterior, DisjointPosterior):
            self.posterior = DisjointPosterior.from_statistics(
                by_slot, self.config, dim=dim, frame=frame
            )
        else:
            total = by_slot.get(0, Statistics(dim))
            self.posterior = GaussianPosterior.from_statistics(total, self.config, frame=frame)

    def _groups(self, slots: NDArray[np.int64]) -> Iterator[tuple[int, slice | NDArray[np.bool_]]]:
        if self.encoder.uses_action:
            yield 0, slice(None)
            return
        for slot in np.unique(slots):
            yield int(slot), slots == slot

    def refresh(
        self,
        num_rows: int,
        actions_KA: NDArray[np.float32],
        rows: LearnedRows | None = None,
        weights: RowWeights | None = None,
        *,
        changed: bool = False,
        chunk: int = 4096,
    ) -> None:
        """See `Policy.refresh`."""
        self.posterior.refresh()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Policy.tensors`; under "posterior/" and, where there is one, "scaling/"."""
        own = {f"posterior/{name}": t for name, t in self.posterior.to_tensors().items()}
        if self.scaling is not None:
            own |= {f"scaling/{name}": t for name, t in self.scaling.tensors().items()}
        return own

    def load_tensors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """See `Policy.load_tensors`."""
        mine = take_prefix(tensors, "posterior/")
        loaded = type(self.posterior).from_tensors(mine, self.config)
        if loaded.dim != self.encoder.feature_dim:
            raise ValueError(
                f"posterior: {loaded.dim} weights for {self.encoder.feature_dim} features"
            )
        if self.scaling is not None:
            self.scaling = self.scaling.loaded(take_prefix(tensors, "scaling/"))
        self.posterior = loaded


def take_prefix(tensors: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the tensors whose name starts with `prefix`, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
