"""Fixed feature maps in float64, for the linear policies and the baselines.

An image or other array context is flattened; uint8 contexts are scaled to 0..1.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.protocol import Array64, Encoder, Raw
from bandexa_core.features.scaling import Change


def flat64(contexts: Raw, num_axes: int) -> Array64:
    """Return contexts with their last `num_axes` axes flattened, as float64, uint8 over 255."""
    lead = contexts.shape[: contexts.ndim - num_axes]
    flat = contexts.reshape(*lead, math.prod(contexts.shape[contexts.ndim - num_axes :]))
    out = flat.astype(np.float64)
    if contexts.dtype == np.uint8:
        out /= 255.0
    return out


class FixedEncoder(Encoder, Protocol):
    """A fixed map: inputs that change affinely change its features linearly."""

    def features_under(self, change: Change) -> Array64:
        """Return T, (D, D), with phi(x', a') = T phi(x, a) for the inputs after `change`."""


class PerActionEncoder:
    """z = [x; 1]: every action has its own posterior over the context.

    Exact for the block features [e_a (x) (x; 1)] and far cheaper than one dense posterior.
    """

    uses_action = False

    def __init__(self, context_shape: tuple[int, ...], action_dim: int) -> None:
        del action_dim  # an action is identified by its slot here; its features are not used
        self.feature_dim = math.prod(context_shape) + 1

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`; `actions` is ignored."""
        z_ND = np.empty((len(contexts), self.feature_dim))
        z_ND[:, :-1] = contexts.reshape(len(contexts), self.feature_dim - 1)
        if contexts.dtype == np.uint8:
            z_ND[:, :-1] /= 255.0
        z_ND[:, -1] = 1.0
        return z_ND

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode_batch`."""
        return np.repeat(self.encode(context[None], actions[:1]), len(actions), axis=0)

    def features_under(self, change: Change) -> Array64:
        """See `FixedEncoder.features_under`."""
        return _affine(change.x_factor, change.x_offset, self.feature_dim)


class ConcatEncoder:
    """z = [x; a; 1]: linear in context and action, no interaction between them."""

    uses_action = True

    def __init__(self, context_shape: tuple[int, ...], action_dim: int) -> None:
        self._num_axes = len(context_shape)
        self._dx = math.prod(context_shape)
        self._da = action_dim
        self.feature_dim = self._dx + self._da + 1

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        x_NX = flat64(contexts, self._num_axes)
        return np.concatenate([x_NX, actions.astype(np.float64), np.ones((len(x_NX), 1))], axis=1)

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode_batch`."""
        return self.combine(self.context_part(context), self.action_part(actions))

    def context_part(self, context: Raw) -> Array64:
        """Return x as float64, (X,)."""
        return flat64(context, self._num_axes)

    def action_part(self, actions: NDArray[np.float32]) -> Array64:
        """Return a as float64, (K, A)."""
        return actions.astype(np.float64)

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """Return [x; a; 1], (K, D)."""
        z_KD = np.empty((len(action_parts), self.feature_dim))
        z_KD[:, : self._dx] = context_part
        z_KD[:, self._dx : self._dx + self._da] = action_parts
        z_KD[:, -1] = 1.0
        return z_KD

    def features_under(self, change: Change) -> Array64:
        """See `FixedEncoder.features_under`."""
        factors = np.concatenate([change.x_factor, change.a_factor])
        offsets = np.concatenate([change.x_offset, change.a_offset])
        return _affine(factors, offsets, self.feature_dim)

    def images(self, contexts: Array64, columns_DN: Array64) -> Array64:
        """Fold columns of weights into queries, (V), and offsets for each context, (B, V + 1, N).

        The result for a context does not depend on the others, bit for bit.

        Args:
            contexts: Context parts, (B, X).
            columns_DN: N vectors of weights.
        """
        images_BWN = np.empty((len(contexts), self._da + 1, columns_DN.shape[1]))
        images_BWN[:, :-1] = self._queries(contexts, columns_DN)
        np.matmul(contexts[:, None], columns_DN[: self._dx], out=images_BWN[:, -1:])
        images_BWN[:, -1] += columns_DN[-1]
        return images_BWN

    def _queries(self, contexts: Array64, columns_DN: Array64) -> Array64:
        """Return the queries of `images`, (B, V, N), or (V, N) if they do not depend on it."""
        return columns_DN[self._dx : self._dx + self._da]

    def fold(self, context_part: Array64, weights: Array64) -> tuple[Array64, Array64]:
        """Q = w_a, c = w_x . x + w_1."""
        queries = weights[:, self._dx : self._dx + self._da]
        return queries, weights[:, : self._dx] @ context_part + weights[:, -1]


class _ProductsEncoder(ConcatEncoder):
    """z = [x; a; some products x_i a_j; 1]."""

    def _with_products(
        self, matrix_DD: Array64, change: Change, i_P: NDArray[np.int_], j_P: NDArray[np.int_]
    ) -> Array64:
        """Fill in the rows of the products x_i a_j, the features after x and a."""
        rows = self._dx + self._da + np.arange(len(i_P))
        x_factor, x_offset = change.x_factor[i_P], change.x_offset[i_P]
        a_factor, a_offset = change.a_factor[j_P], change.a_offset[j_P]
        matrix_DD[rows, rows] = x_factor * a_factor
        matrix_DD[rows, i_P] = x_factor * a_offset
        matrix_DD[rows, self._dx + j_P] = x_offset * a_factor
        matrix_DD[rows, -1] = x_offset * a_offset
        return matrix_DD


class InteractionsEncoder(_ProductsEncoder):
    """z = [x; a; x * a; 1] with the elementwise product.

    Raises:
        ValueError: Context and action differ in size.
    """

    def __init__(self, context_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(context_shape, action_dim)
        if self._dx != action_dim:
            raise ValueError(
                f"encoder: interactions need as many action features ({action_dim}) "
                f"as context features ({self._dx})"
            )
        self.feature_dim = 3 * self._dx + 1

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        x_NX = flat64(contexts, self._num_axes)
        a_NA = actions.astype(np.float64)
        return np.concatenate([x_NX, a_NA, x_NX * a_NA, np.ones((len(x_NX), 1))], axis=1)

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """Return [x; a; x * a; 1], (K, D)."""
        d = self._dx
        z_KD = np.empty((len(action_parts), self.feature_dim))
        z_KD[:, :d] = context_part
        z_KD[:, d : 2 * d] = action_parts
        np.multiply(action_parts, context_part, out=z_KD[:, 2 * d : 3 * d])
        z_KD[:, -1] = 1.0
        return z_KD

    def features_under(self, change: Change) -> Array64:
        """See `FixedEncoder.features_under`."""
        inner = np.arange(self._dx)
        return self._with_products(super().features_under(change), change, inner, inner)

    def _queries(self, contexts: Array64, columns_DN: Array64) -> Array64:
        d = self._dx
        queries_BVN: Array64 = contexts[:, :, None] * columns_DN[2 * d : 3 * d]
        queries_BVN += columns_DN[d : 2 * d]
        return queries_BVN

    def fold(self, context_part: Array64, weights: Array64) -> tuple[Array64, Array64]:
        """Q = w_a + w_xa * x, c = w_x . x + w_1."""
        d = self._dx
        queries = weights[:, d : 2 * d] + weights[:, 2 * d : 3 * d] * context_part
        return queries, weights[:, :d] @ context_part + weights[:, -1]


class BilinearEncoder(_ProductsEncoder):
    """z = [x; a; x (x) a; 1] with the outer product: every interaction of the two.

    D grows with the product of the sizes, so it suits tens of features each, not hundreds.

    Raises:
        ValueError: D would be above 4096.
    """

    def __init__(self, context_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(context_shape, action_dim)
        self.feature_dim += self._dx * action_dim
        if self.feature_dim > 4096:
            raise ValueError(
                f"encoder.name: bilinear would have {self.feature_dim} features, 4096 at most"
            )

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        x_NX = flat64(contexts, self._num_axes)
        a_NA = actions.astype(np.float64)
        products = (x_NX[:, :, None] * a_NA[:, None, :]).reshape(len(x_NX), self._dx * self._da)
        return np.concatenate([x_NX, a_NA, products, np.ones((len(x_NX), 1))], axis=1)

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """Return [x; a; x (x) a; 1], (K, D)."""
        linear = self._dx + self._da
        z_KD = np.empty((len(action_parts), self.feature_dim))
        z_KD[:, : self._dx] = context_part
        z_KD[:, self._dx : linear] = action_parts
        products = context_part[None, :, None] * action_parts[:, None, :]
        z_KD[:, linear:-1] = products.reshape(len(action_parts), self._dx * self._da)
        z_KD[:, -1] = 1.0
        return z_KD

    def features_under(self, change: Change) -> Array64:
        """See `FixedEncoder.features_under`."""
        i_P, j_P = np.divmod(np.arange(self._dx * self._da), self._da)
        return self._with_products(super().features_under(change), change, i_P, j_P)

    def _queries(self, contexts: Array64, columns_DN: Array64) -> Array64:
        linear, num = self._dx + self._da, columns_DN.shape[1]
        products = columns_DN[linear:-1].reshape(self._dx, self._da * num)
        queries_BVN: Array64 = np.matmul(contexts[:, None], products).reshape(-1, self._da, num)
        queries_BVN += columns_DN[self._dx : linear]
        return queries_BVN

    def fold(self, context_part: Array64, weights: Array64) -> tuple[Array64, Array64]:
        """Q = w_a + x W, c = w_x . x + w_1, with W the (X, A) matrix of interaction weights."""
        linear = self._dx + self._da
        matrices = weights[:, linear:-1].reshape(len(weights), self._dx, self._da)
        queries = weights[:, self._dx : linear] + np.einsum("x,mxa->ma", context_part, matrices)
        return queries, weights[:, : self._dx] @ context_part + weights[:, -1]


def _affine(factors: Array64, offsets: Array64, dim: int) -> Array64:
    """Return the (dim, dim) matrix that scales and shifts the first features; the last is 1."""
    matrix_DD = np.zeros((dim, dim))
    first = np.arange(len(factors))
    matrix_DD[first, first] = factors
    matrix_DD[first, -1] = offsets
    matrix_DD[-1, -1] = 1.0
    return matrix_DD
