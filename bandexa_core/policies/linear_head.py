"""A frozen encoder below a Bayesian linear head: what linear, neural and greedy policies share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.protocol import Encoder, FoldingEncoder, SplitEncoder
from bandexa_core.ids import INLINE_SLOT, ActionSlot
from bandexa_core.policies.protocol import Candidates, Choice
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    PosteriorConfig,
    Statistics,
)
from bandexa_core.posterior.rows import MAX_NORM
from bandexa_core.replay import Replay
from bandexa_core.spec import SelectionSpec

Array64 = NDArray[np.float64]
MAX_WEIGHTS = 8193  # 8192 features and the constant: a posterior of 0.5 GB, and its statistics


class LinearHead:
    """Thompson sampling (Agrawal & Goyal, ICML 2013) on encoded features; or the mean, greedily.

    Where the encoder ignores the action the posteriors are disjoint, one per catalogue slot.

    Args:
        encoder: The frozen feature map.
        config: Prior and noise of the head.
        greedy: Act on the posterior mean instead of a draw.
        action_chunk: Encode at most this many candidates at once (None: all).

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
    ) -> None:
        if encoder.feature_dim > MAX_WEIGHTS:
            raise ValueError(f"encoder: {encoder.feature_dim} features, at most {MAX_WEIGHTS} fit")
        self.encoder = encoder
        self.config = config
        self.greedy = greedy
        self.action_chunk = action_chunk
        self.posterior: GaussianPosterior | DisjointPosterior = (
            GaussianPosterior.prior(encoder.feature_dim, config)
            if encoder.uses_action
            else DisjointPosterior.prior(encoder.feature_dim, config)
        )

    def select(
        self,
        context: NDArray[Any],
        candidates: Candidates,
        rng: np.random.Generator,
        *,
        num: int = 1,
        retrieve: int | None = None,
    ) -> Choice:
        """See `Policy.select`. The sampled values come from one joint draw of the weights."""
        scores_K = self._sampled_scores(context, candidates, rng)
        retrieved, offered = None, scores_K
        if retrieve is not None and retrieve < len(candidates):
            retrieved = np.sort(np.argpartition(-scores_K, retrieve - 1)[:retrieve])
            offered = scores_K[retrieved]  # of scores that tie, the choice is a retrieved one
        if num == 1:
            chosen = np.array([int(np.argmax(offered))], np.int64)
        else:
            chosen = np.argsort(-offered, kind="stable")[:num].astype(np.int64)
        # max returns a NaN where there is one
        if not (np.isfinite(scores_K.max()) and np.isfinite(offered[chosen]).all()):
            raise ValueError("context: the encoder gives no finite features for it")
        index = chosen if retrieved is None else retrieved[chosen]
        return Choice(index, offered[chosen], retrieved)

    def _sampled_scores(
        self, context: NDArray[Any], candidates: Candidates, rng: np.random.Generator
    ) -> Array64:
        posterior = self.posterior
        if isinstance(posterior, DisjointPosterior):
            z_D = self._shared_features(context, candidates)
            if self.greedy:
                return posterior.mean_std(z_D, candidates.slots)[0]
            sampled_1K = posterior.sample_scores(rng, z_D, candidates.slots, 1)
            return sampled_1K.reshape(-1)
        weights_D = posterior.mean if self.greedy else posterior.sample(rng, 1)[0]
        return self._weighted(context, candidates, weights_D)

    def _weighted(
        self, context: NDArray[Any], candidates: Candidates, weights_D: Array64
    ) -> Array64:
        """Return z . w for every candidate, (K,)."""
        encoder = self.encoder
        if isinstance(encoder, FoldingEncoder):
            parts_KV = candidates.parts
            if parts_KV is None:
                parts_KV = encoder.action_part(candidates.features)
            query_1V, offset_1 = encoder.fold(encoder.context_part(context), weights_D[None])
            scores_K: Array64 = parts_KV @ query_1V[0]
            scores_K += offset_1[0]
            return scores_K
        chunks = [z_CD @ weights_D for z_CD in self._encoded(context, candidates)]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def _encoded(self, context: NDArray[Any], candidates: Candidates) -> Iterator[Array64]:
        """Yield z of the candidates in chunks of `action_chunk`, (C, D) each."""
        encoder = self.encoder
        size = self.action_chunk or len(candidates)
        split = encoder if isinstance(encoder, SplitEncoder) else None
        part = None if split is None else split.context_part(context)
        for first in range(0, len(candidates), size):
            piece = slice(first, first + size)
            if split is not None and part is not None and candidates.parts is not None:
                yield split.combine(part, candidates.parts[piece])
            else:
                yield encoder.encode_batch(context, candidates.features[piece])

    def _shared_features(self, context: NDArray[Any], candidates: Candidates) -> Array64:
        """Return z(x), (D,), of an encoder that ignores the action."""
        if (candidates.slots == INLINE_SLOT).any():
            raise ValueError("candidates: this bandit knows actions by their catalogue id alone")
        return self.encoder.encode(context[None], candidates.features[:1]).reshape(-1)

    def score(
        self, context: NDArray[Any], candidates: Candidates
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Policy.score`."""
        posterior = self.posterior
        if isinstance(posterior, DisjointPosterior):
            z_D = self._shared_features(context, candidates)
            return posterior.mean_std(z_D, candidates.slots)
        pairs = [posterior.mean_std(z_CD) for z_CD in self._encoded(context, candidates)]
        means, stds = zip(*pairs, strict=True)
        return np.concatenate(means), np.concatenate(stds)

    def action_parts(self, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """See `Policy.action_parts`."""
        if isinstance(self.encoder, SplitEncoder) and self.encoder.uses_action:
            return self.encoder.action_part(features)
        return None

    def learn(
        self,
        context: NDArray[Any],
        action: NDArray[np.float32],
        slot: ActionSlot,
        before: float | None,
        after: float,
    ) -> None:
        """See `Policy.learn`."""
        z_1D = self.encoder.encode(context[None], action[None])
        if not _teaches(z_1D).all():
            return  # an encoder that gives no finite features teaches nothing, and stops nothing
        posterior, z_D = self.posterior, z_1D[0]
        if isinstance(posterior, DisjointPosterior):
            if before is None:
                posterior.update(slot, z_D, after)
            elif posterior.slot(slot) is not None:  # else imported, or rebuilt after evictions
                posterior.correct(slot, z_D, before, after)
        elif before is None:
            posterior.update(z_D, after)
        else:
            posterior.correct(z_D, before, after)

    def rebuild(self, replay: Replay, chunk: int) -> None:
        """See `Policy.rebuild`: sums over chunks in float64, one factorisation per posterior."""
        dim = self.encoder.feature_dim
        by_slot: dict[int, Statistics] = {}
        for rows in replay.scan(chunk):
            z_ND = self.encoder.encode(rows.contexts, rows.actions)
            good = _teaches(z_ND)
            z_ND, rewards = z_ND[good], rows.rewards[good]
            for slot, mask in self._groups(rows.slots[good]):
                by_slot.setdefault(slot, Statistics(dim)).add(z_ND[mask], rewards[mask])
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

    def refresh(self) -> None:
        """See `Policy.refresh`."""
        self.posterior.refresh()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Policy.tensors`; the posterior's state under "posterior/"."""
        return {f"posterior/{name}": t for name, t in self.posterior.to_tensors().items()}

    def load_tensors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """See `Policy.load_tensors`."""
        mine = take_prefix(tensors, "posterior/")
        loaded = type(self.posterior).from_tensors(mine, self.config)
        if loaded.dim != self.encoder.feature_dim:
            raise ValueError(
                f"posterior: {loaded.dim} weights for {self.encoder.feature_dim} features"
            )
        self.posterior = loaded


def _teaches(z_ND: Array64) -> NDArray[np.bool_]:
    """Return which rows a posterior can take, (N,); NaN compares as false."""
    learnable: NDArray[np.bool_] = np.abs(z_ND).max(axis=1) <= MAX_NORM / z_ND.shape[1] ** 0.5
    return learnable


def take_prefix(tensors: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the tensors whose name starts with `prefix`, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
