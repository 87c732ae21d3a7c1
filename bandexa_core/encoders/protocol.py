"""The protocols of encoders: maps z = phi(x, a), the features of the Bayesian linear head.

Legend: N rows, K candidates, D features (the constant 1 included), A action features, V size of
an action part, M weight draws, `*X` the shape of a context. Everything here is numpy; learned
encoders are torch modules behind `ModuleEncoder`. Serving encoders are immutable.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
Raw = NDArray[Any]


class Encoder(Protocol):
    """A frozen feature map."""

    @property
    def feature_dim(self) -> int:
        """D, the constant 1 included."""

    @property
    def uses_action(self) -> bool:
        """False: z depends on the context only, so each action has a separate posterior."""

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """Encode N (context (*X), action (A,)) pairs; returns (N, D)."""

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """Encode one context (*X) with K actions (K, A); returns (K, D).

        The context is processed once, not once per action.
        """


@runtime_checkable
class SplitEncoder(Protocol):
    """An encoder whose action part can be computed once per action and cached.

    `encode_batch(x, actions) == combine(context_part(x), action_part(actions))`.
    """

    def context_part(self, context: Raw) -> Array64:
        """Return the context's part, shape (U,)."""

    def action_part(self, actions: NDArray[np.float32]) -> Array64:
        """Return the actions' parts, (K, A) -> (K, V)."""

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """Return the features z, shape (K, D)."""


class SlowEncoder(Protocol):
    """A split encoder that is too slow for an event loop: contexts are encoded in batches."""

    def context_parts(self, contexts: Raw) -> Array64:
        """Return the parts of several contexts, (B, *X) -> (B, U)."""


@runtime_checkable
class FoldingEncoder(SplitEncoder, Protocol):
    """A split encoder whose z is affine in the action part, so weights fold into a query.

    For every weight vector w: `z . w == v . q + c` with (q, c) = fold(context part, w). Scoring K
    candidates then costs one product with the cached (K, V) matrix, and Thompson sampling over a
    catalogue becomes a maximum inner product search with a sampled query.
    """

    def fold(self, context_part: Array64, weights: Array64) -> tuple[Array64, Array64]:
        """Fold weights (M, D) into queries (M, V) and offsets (M,)."""


@runtime_checkable
class JointEncoder(SplitEncoder, Protocol):
    """A split encoder that encodes several contexts with the same actions in few calls.

    Only draws use it. It may work in float32, so its features differ from those of `encode`, which
    are learned from, by about 1e-6 of the largest of them.
    """

    def combine_many(self, contexts: Raw, action_parts: Array64) -> Array64:
        """Encode B contexts (B, *X) with K action parts (K, V); returns z in columns, (B, D, K).

        The result for a context does not depend on the others, bit for bit.
        """
