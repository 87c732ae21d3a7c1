"""A frozen encoder below a Bayesian linear head: what linear, neural and greedy policies share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.protocol import (
    Encoder,
    FoldingEncoder,
    JointEncoder,
    SplitEncoder,
)
from bandexa_core.encoders.scaling import InputScaling
from bandexa_core.ids import INLINE_SLOT, ActionSlot
from bandexa_core.policies.draws import ROWS_AT_ONCE, Draw, choose, draw_together
from bandexa_core.policies.panel import Exploration, folded_winners, products
from bandexa_core.policies.protocol import (
    Ballot,
    Candidates,
    Choice,
    EncodedContext,
    RowWeights,
)
from bandexa_core.policies.schedule import next_scaling
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    PosteriorConfig,
    Statistics,
)
from bandexa_core.posterior.rows import learnable
from bandexa_core.replay import TrainingRows
from bandexa_core.spec import SelectionSpec

Array64 = NDArray[np.float64]
MAX_WEIGHTS = 8193  # 8192 features and the constant: a posterior of 0.5 GB, and its statistics

NO_EXPLORATION = Exploration(panel=1)
NOT_FINITE = "context: the encoder gives no finite features for it"
# Multiply-adds of a panel above which its propensity is worked out after the answer (about 1 ms).
LATER_PRODUCTS = 1 << 23
LOOKED_AT = 1 << 17  # features of candidates above which nobody asks which one has the best mean


class LinearHead:
    """Thompson sampling (Agrawal & Goyal, ICML 2013) on encoded features; or the mean, greedily.

    Where the encoder ignores the action the posteriors are disjoint, one per catalogue slot.

    Args:
        encoder: The frozen feature map.
        config: Prior and noise of the head.
        greedy: Act on the posterior mean instead of a draw.
        action_chunk: Encode at most this many candidates at once (None: all).
        scaling: Standardises inputs before they are encoded; None: they stay as they are.

    Raises:
        ValueError: The encoder gives more features than a posterior can hold.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: PosteriorConfig,
        *,
        greedy: bool = False,
        action_chunk: int | None = None,
        scaling: InputScaling | None = None,
    ) -> None:
        if encoder.feature_dim > MAX_WEIGHTS:
            raise ValueError(f"encoder: {encoder.feature_dim} features, at most {MAX_WEIGHTS} fit")
        self.encoder = encoder
        self.config = config
        self.greedy = greedy
        self.action_chunk = action_chunk
        self.scaling = scaling
        self.posterior: GaussianPosterior | DisjointPosterior = (
            GaussianPosterior.prior(encoder.feature_dim, config)
            if encoder.uses_action
            else DisjointPosterior.prior(encoder.feature_dim, config)
        )

    @property
    def encoder(self) -> Encoder:
        """The frozen feature map."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # Told once: looking for a protocol's methods takes 10 us.
        self._splitting = encoder if isinstance(encoder, SplitEncoder) else None
        self._folding = encoder if isinstance(encoder, FoldingEncoder) else None
        self._joint = encoder if isinstance(encoder, JointEncoder) else None

    def select(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        *,
        num: int = 1,
        retrieve: int | None = None,
        exploration: Exploration = NO_EXPLORATION,
    ) -> Choice:
        """See `Policy.select`. The sampled values come from one joint draw of the weights."""
        context = self._ready(context)
        explores = rng.random() < exploration.epsilon and not self.greedy
        if self.greedy:
            means_K = self._mean_scores(context, candidates)
            draw = Draw(
                means_K,
                lambda: np.array([means_K.argmax()]),
                best=lambda: int(means_K.argmax()),
                std=self._std_of(context, candidates),
            )
            exploration = NO_EXPLORATION
        else:
            draw = self._draw(context, candidates, rng, exploration.panel)
        scores_K = draw.scores
        first = int(scores_K.argmax())  # of scores that tie, the first: as the panel votes
        retrieved, best = None, np.array([first])
        if retrieve is not None and retrieve < len(candidates):
            retrieved = np.argpartition(-scores_K, retrieve - 1)[:retrieve]
            if first not in retrieved:
                retrieved[scores_K[retrieved].argmax()] = first
            retrieved.sort()
        if num > 1:
            offered = scores_K if retrieved is None else scores_K[retrieved]
            best = np.argsort(-offered, kind="stable")[:num].astype(np.int64)
            best = best if retrieved is None else retrieved[best]
        # A NaN wins where there is one.
        last = first if num == 1 else best[-1]
        if not math.isfinite(scores_K[first] + draw.offset + scores_K[last]):
            raise ValueError(NOT_FINITE)
        chosen = best
        if explores:  # among all that were offered, so that the floor holds for each of them
            chosen = rng.permutation(len(candidates))[:num].astype(np.int64)
            retrieved = None if retrieved is None else np.union1d(retrieved, chosen)
        scores = scores_K[chosen] + draw.offset

        def propensity() -> float:
            return exploration.propensity(draw.winners(), int(chosen[0]), len(candidates))

        served = int(chosen[0])
        return Choice(
            chosen,
            scores,
            retrieved,
            propensity=None if draw.later else propensity(),
            late_propensity=propensity if draw.later else None,
            encode_s=draw.encode_s,
            explored=None if draw.best is None else draw.best() != served,
            std=None if draw.std is None else draw.std(served),
        )

    def select_many(
        self,
        contexts: Sequence[NDArray[Any] | EncodedContext],
        candidates: Candidates,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration = NO_EXPLORATION,
    ) -> list[Choice]:
        """See `Policy.select_many`."""
        joint = self._joint_for(len(candidates))
        if joint is None or self.greedy or len(contexts) == 1:
            pairs = zip(contexts, rngs, strict=True)
            return [self.select(x, candidates, rng, exploration=exploration) for x, rng in pairs]
        encoder, posterior = joint
        parts_KV = self._parts(encoder, candidates)
        choices: list[Choice] = []
        step = max(1, ROWS_AT_ONCE // len(candidates))
        for first in range(0, len(contexts), step):
            own = rngs[first : first + step]
            explores = [rng.random() < exploration.epsilon for rng in own]
            x = [_raw(context) for context in contexts[first : first + step]]
            drawn = draw_together(
                encoder, posterior, self.scaled(np.stack(x)), parts_KV, own, exploration.panel
            )
            if not drawn.finite:
                raise ValueError(NOT_FINITE)
            choices += choose(drawn, posterior, own, explores, exploration)
        return choices

    def _joint_for(self, num: int) -> tuple[JointEncoder, GaussianPosterior] | None:
        """Return encoder and posterior, if decisions among so many candidates go together."""
        posterior, chunk = self.posterior, self.action_chunk
        if self._joint is None or isinstance(posterior, DisjointPosterior):
            return None
        return (self._joint, posterior) if chunk is None or num <= chunk else None

    def ballot(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        exploration: Exploration,
    ) -> Ballot:
        """See `Policy.ballot`."""
        context = self._ready(context)
        rng.random()  # whether it explores
        if self.greedy:
            means_K = self._mean_scores(context, candidates)
            shares_K = np.zeros(len(candidates))
            shares_K[means_K.argmax()] = 1.0
            return Ballot(means_K, shares_K, 0.0)
        draw = self._draw(context, candidates, rng, exploration.panel)
        votes_K = np.bincount(draw.winners(), minlength=len(candidates))
        return Ballot(draw.scores + draw.offset, votes_K / exploration.panel, exploration.epsilon)

    def _std_of(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Callable[[int], float]:
        """Return what gives the standard deviation of one candidate, encoding it anew."""

        def std(index: int) -> float:
            one = candidates.take(np.array([index]))
            if isinstance(self.posterior, DisjointPosterior):
                z_D = self._shared_features(context, one)
                return float(self.posterior.mean_std(z_D, one.slots)[1][0])
            (z_1D,) = self._encoded(context, one)
            return self.posterior.std_of(z_1D[0])

        return std

    def _draw(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        panel: int,
    ) -> Draw:
        """Draw the panel; the first member's scores are served."""
        posterior = self.posterior
        started = time.perf_counter()
        if isinstance(posterior, DisjointPosterior):
            z_D = self._shared_features(context, candidates)
            took = time.perf_counter() - started
            scores_MK, means_K, stds_K = posterior.sample_with_moments(
                rng, z_D, candidates.slots, panel
            )
            return Draw(
                scores_MK[0],
                lambda: scores_MK.argmax(axis=1),
                encode_s=took,
                best=lambda: int(means_K.argmax()),
                std=lambda index: float(stds_K[index]),
            )
        joint = self._joint_for(len(candidates))
        if joint is not None:
            parts_KV, x_1X = self._parts(joint[0], candidates), _raw(context)[None]
            return draw_together(*joint, x_1X, parts_KV, [rng], panel).only(posterior)
        encoder = self._folding
        if encoder is None:
            weights_MD = posterior.sample(rng, panel)
            chunks, means, took, since = [], [], 0.0, time.perf_counter()
            for z_CD in self._encoded(context, candidates):
                took += time.perf_counter() - since
                chunks.append(z_CD @ weights_MD.T)
                means.append(z_CD @ posterior.mean)
                since = time.perf_counter()
            scores_KM = np.concatenate(chunks)
            means_K = np.concatenate(means)
            if len(chunks) == 1:
                only_KD = z_CD
                std = lambda index: posterior.std_of(only_KD[index])  # noqa: E731
            else:  # chunks are not kept: they are there to bound memory
                std = self._std_of(context, candidates)
            return Draw(
                scores_KM[:, 0].copy(),
                lambda: scores_KM.argmax(axis=0),
                encode_s=took,
                best=lambda: int(means_K.argmax()),
                std=std,
            )
        parts_KV = self._parts(encoder, candidates)
        part_1V = _context_part(encoder, context)
        took = time.perf_counter() - started
        queries_MV, offsets_M = encoder.fold(part_1V, posterior.sample(rng, panel))
        served_K = products(parts_KV, queries_MV[0])
        offset = float(offsets_M[0])
        best = None

        def std_of(index: int) -> float:
            return posterior.std_of(encoder.combine(part_1V, parts_KV[index : index + 1])[0])

        if parts_KV.size <= LOOKED_AT:
            mean_V = encoder.fold(part_1V, posterior.mean[None])[0][0]
            best = lambda: int((parts_KV @ mean_V).argmax())  # noqa: E731
        if panel == 1:
            alone = lambda: np.array([served_K.argmax()])  # noqa: E731
            return Draw(served_K, alone, False, offset, took, best, std_of)
        later = parts_KV.size * panel > LATER_PRODUCTS
        winners = lambda: folded_winners(parts_KV, queries_MV)  # noqa: E731
        return Draw(served_K, winners, later, offset, took, best, std_of)

    def _parts(self, encoder: SplitEncoder, candidates: Candidates) -> Array64:
        if candidates.parts is not None:
            return candidates.parts
        return encoder.action_part(self._actions(candidates.features))

    def scaled(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return contexts as the encoder wants them; before anything else is done with them."""
        return raw if self.scaling is None else self.scaling.contexts(raw)

    def _ready(self, context: NDArray[Any] | EncodedContext) -> NDArray[Any] | EncodedContext:
        return context if isinstance(context, EncodedContext) else self.scaled(context)

    def _actions(self, raw_KA: NDArray[Any]) -> NDArray[Any]:
        return raw_KA if self.scaling is None else self.scaling.actions(raw_KA)

    def scaling_due(self, num_rows: int) -> bool:
        """Whether the inputs' scaling is due to be taken anew: when the data has doubled."""
        return self.scaling is not None and num_rows >= next_scaling(self.scaling.num_rows)

    def _mean_scores(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Array64:
        """Return the posterior mean of every candidate's value, (K,)."""
        posterior, encoder = self.posterior, self._folding
        if isinstance(posterior, DisjointPosterior):
            z_D = self._shared_features(context, candidates)
            return posterior.mean_std(z_D, candidates.slots)[0]
        if encoder is not None:
            part = _context_part(encoder, context)
            queries_1V, offsets_1 = encoder.fold(part, posterior.mean[None])
            scores_K = products(self._parts(encoder, candidates), queries_1V[0])
            scores_K += offsets_1[0]
            return scores_K
        return np.concatenate([z @ posterior.mean for z in self._encoded(context, candidates)])

    def _encoded(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Iterator[Array64]:
        """Yield z of the candidates in chunks of `action_chunk`, (C, D) each."""
        encoder = self.encoder
        size = self.action_chunk or len(candidates)
        split = self._splitting
        part = None if split is None else _context_part(split, context)
        for first in range(0, len(candidates), size):
            piece = slice(first, first + size)
            if split is not None and part is not None and candidates.parts is not None:
                yield split.combine(part, candidates.parts[piece])
            elif split is not None and isinstance(context, EncodedContext):
                features = self._actions(candidates.features[piece])
                yield split.combine(context.part, split.action_part(features))
            else:
                assert not isinstance(context, EncodedContext), "only split encoders are asked"
                yield encoder.encode_batch(context, self._actions(candidates.features[piece]))

    def _shared_features(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Array64:
        """Return z(x), (D,), of an encoder that ignores the action."""
        if (candidates.slots == INLINE_SLOT).any():
            raise ValueError("candidates: this bandit knows actions by their catalogue id alone")
        first = candidates.features[:1]
        if isinstance(context, EncodedContext):
            assert self._splitting is not None, "only split encoders are asked"
            parts_1V = self._splitting.action_part(first)
            return self._splitting.combine(context.part, parts_1V).reshape(-1)
        return self.encoder.encode(context[None], first).reshape(-1)

    def score(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Policy.score`."""
        context = self._ready(context)
        posterior = self.posterior
        if isinstance(posterior, DisjointPosterior):
            z_D = self._shared_features(context, candidates)
            return posterior.mean_std(z_D, candidates.slots)
        pairs = [posterior.mean_std(z_CD) for z_CD in self._encoded(context, candidates)]
        means, stds = zip(*pairs, strict=True)
        return np.concatenate(means), np.concatenate(stds)

    def action_parts(self, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """See `Policy.action_parts`."""
        if self._splitting is not None and self.encoder.uses_action:
            return self._splitting.action_part(self._actions(features))
        return None

    def features(self, contexts: NDArray[Any], actions: NDArray[np.float32]) -> Array64:
        """Return z of N pairs of a context (*X) and an action (A,), (N, D)."""
        return self.encoder.encode(self.scaled(contexts), self._actions(actions))

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
            return  # an encoder that gives no finite features teaches nothing, and stops nothing
        posterior, z_D = self.posterior, z_1D[0]
        if isinstance(posterior, DisjointPosterior):
            if before is None:
                posterior.update(slot, z_D, after)
            elif posterior.slot(slot) is not None:  # else imported, or rebuilt after evictions
                posterior.correct(slot, z_D, before, after, weight)
        elif before is None:
            posterior.update(z_D, after)
        else:
            posterior.correct(z_D, before, after, weight)

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
        replay: TrainingRows,
        chunk: int,
        weights: RowWeights | None = None,
        told: Callable[[str, float], None] | None = None,
    ) -> None:
        """See `Policy.rebuild`: sums over chunks in float64, one factorisation per posterior.

        `told` hears of each chunk.
        """
        dim = self.encoder.feature_dim
        seen, whole = 0, max(1, len(replay.positions())) if told is not None else 1
        by_slot: dict[int, Statistics] = {}
        for rows in replay.scan(chunk):
            z_ND = self.features(rows.contexts, rows.actions)
            good = learnable(z_ND)
            z_ND, rewards = z_ND[good], rows.rewards[good]
            weights_N = None if weights is None else weights(rows.positions[good])
            for slot, mask in self._groups(rows.slots[good]):
                share = None if weights_N is None else weights_N[mask]
                by_slot.setdefault(slot, Statistics(dim)).add(z_ND[mask], rewards[mask], share)
            if told is not None:
                seen += len(rows)
                told("rebuild", seen / whole)
        if isinstance(self.posterior, DisjointPosterior):
            self.posterior = DisjointPosterior.from_statistics(by_slot, self.config, dim=dim)
        else:
            total = by_slot.get(0, Statistics(dim))
            self.posterior = GaussianPosterior.from_statistics(total, self.config)

    def _groups(self, slots: NDArray[np.int64]) -> Iterator[tuple[int, slice | NDArray[np.bool_]]]:
        if self.encoder.uses_action:
            yield 0, slice(None)
            return
        for slot in np.unique(slots):
            yield int(slot), slots == slot

    def configure(self, selection: SelectionSpec) -> None:
        """See `Policy.configure`."""
        self.action_chunk = selection.action_chunk

    def refresh(self, num_rows: int, actions_KA: NDArray[np.float32]) -> None:
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


def _raw(context: NDArray[Any] | EncodedContext) -> NDArray[Any]:
    assert not isinstance(context, EncodedContext), "encoded beforehand are contexts of slow ones"
    return context


def _context_part(encoder: SplitEncoder, context: NDArray[Any] | EncodedContext) -> Array64:
    return context.part if isinstance(context, EncodedContext) else encoder.context_part(context)


def take_prefix(tensors: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the tensors whose name starts with `prefix`, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
