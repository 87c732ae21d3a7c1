"""The uniform policy: every candidate with equal probability; learns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionSlot
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.protocol import (
    Ballot,
    Candidates,
    Choice,
    EncodedContext,
    RowWeights,
)
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from bandexa_core.replay import LearnedRows, TrainingRows
from bandexa_core.spec import SelectionSpec


class Uniform:
    """Chooses uniformly at random; its sampled values are the random numbers it ranks by."""

    learns_features = False
    slow_encoder = None

    def scaled(self, contexts: NDArray[Any]) -> NDArray[Any]:
        """See `Policy.scaled`."""
        return contexts

    def features(self, contexts: NDArray[Any], actions: NDArray[np.float32]) -> NDArray[np.float64]:
        """See `Policy.features`: there are none."""
        return np.zeros((len(contexts), 0))

    def scaling_due(self, num_rows: int) -> bool:
        """See `Policy.scaling_due`."""
        return False

    def check_training(self, tensors: dict[str, NDArray[Any]], num_actions: int) -> None:
        """See `Policy.check_training`: nothing is trained."""

    def select(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        *,
        num: int = 1,
        retrieve: int | None = None,
        exploration: Exploration | None = None,
        forced: NDArray[np.int64] | None = None,
    ) -> Choice:
        """See `Policy.select`; the propensity is exact."""
        scores_K = rng.random(len(candidates))
        order = np.argsort(-scores_K, kind="stable").astype(np.int64)
        chosen = order[:num] if forced is None else forced
        retrieved = None
        if retrieve is not None and retrieve < len(candidates):
            retrieved = np.sort(order[:retrieve])
            if forced is not None:
                retrieved = np.union1d(retrieved, forced)
        share = 1.0 / len(candidates)
        propensities = (share,) * num if num > 1 else None
        return Choice(
            chosen, scores_K[chosen], retrieved, share, propensities=propensities,
            all_propensities=partial(np.full, len(candidates), share),
            all_places=lambda places: np.full((places, len(candidates)), share),
        )  # fmt: skip

    def select_many(
        self,
        contexts: Sequence[NDArray[Any] | EncodedContext],
        candidates: Candidates,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration | None = None,
        forced: Sequence[NDArray[np.int64] | None] | None = None,
    ) -> list[Choice]:
        """See `Policy.select_many`."""
        rows = zip(contexts, rngs, forced or [None] * len(rngs), strict=True)
        return [self.select(x, candidates, rng, forced=each) for x, rng, each in rows]

    def ballot(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        exploration: Exploration,
        retrieve: int | None = None,
    ) -> Ballot:
        """See `Policy.ballot`; every candidate is as probable as any other."""
        num = len(candidates)
        return Ballot(rng.random(num), np.full(num, 1.0 / num), 0.0)

    def score(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Policy.score`: it has no opinion, so zeros."""
        return np.zeros(len(candidates)), np.zeros(len(candidates))

    def action_parts(self, features: NDArray[np.float32]) -> None:
        """See `Policy.action_parts`."""

    def learn(
        self,
        context: NDArray[Any],
        action: NDArray[np.float32],
        slot: ActionSlot,
        before: float | None,
        after: float,
        weight: float = 1.0,
        z_1D: NDArray[np.float64] | None = None,
    ) -> None:
        """See `Policy.learn`: nothing is learned."""

    def learn_many(
        self, z_ND: NDArray[np.float64], slots: Sequence[ActionSlot], values: Sequence[float]
    ) -> None:
        """See `Policy.learn_many`: nothing is learned."""

    def copy(self) -> Uniform:
        """See `Policy.copy`: it never changes."""
        return self

    def forgotten(self, factor: float) -> None:
        """See `Policy.forgotten`."""

    def adopt(self, posterior: GaussianPosterior | DisjointPosterior | None) -> None:
        """See `Policy.adopt`."""

    def rebuild(self, replay: TrainingRows, chunk: int, weights: RowWeights | None = None) -> None:
        """See `Policy.rebuild`."""

    def configure(self, selection: SelectionSpec) -> None:
        """See `Policy.configure`."""

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

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Policy.tensors`."""
        return {}

    def load_tensors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """See `Policy.load_tensors`."""
        if tensors:
            raise ValueError(f"snapshot: the uniform policy has no tensor {min(tensors)!r}")
