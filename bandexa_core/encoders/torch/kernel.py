"""The features of a Gaussian process: rewards as products of what contexts and actions have.

Nystrom features (Williams and Seeger, "Using the Nystrom Method to Speed Up Kernel Machines", NIPS
2000): M pairs of the replay are landmarks, and z = k(., landmarks) K^(-1/2). A linear posterior
over z is that of the process, as far as the landmarks span it. Nothing is trained by gradients:
a round fits the kernel (`encoders.evidence`) and draws landmarks.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bandexa_core.encoders.evidence import NUM_WEIGHTS, Kernel, fit_kernel
from bandexa_core.encoders.protocol import Raw
from bandexa_core.encoders.sharing import MOST_VALUES, SharedValues
from bandexa_core.encoders.torch.dense import Array64, flat64, float64_of, with_constant
from bandexa_core.encoders.torch.fitted import FittedModule, Sample
from bandexa_core.encoders.torch.mlp import check_sizes
from bandexa_core.encoders.torch.module import flatten

LANDMARKS, FEATURES = 384, 160
_LEAST_SHARE = 1e-6  # of the largest eigenvalue: below it a direction is rounding
LEAST_OFFERED = 2
SAME = 1e-6  # by which sums of two actions may differ that have the same features
_FIRST_VARIANCE = 0.05  # what the first rows may vary by, as a share of the noise


class KernelEncoder(FittedModule):
    """F features of a product kernel.

    Args:
        context_shape: Shape of a context, flattened here.
        action_dim: A, at least 1.
        landmarks: M, the pairs that the kernel is compared with.
        features: F, the directions of most variance among them.
    """

    x_mean: Tensor
    x_scale: Tensor
    x_landmarks: Tensor
    a_mean: Tensor
    a_scale: Tensor
    a_landmarks: Tensor
    a_marks: Tensor
    a_hash: Tensor
    weights: Tensor
    projection: Tensor
    shared_x: Tensor
    shared_a: Tensor
    shared_features: Tensor
    shared_shift: Tensor

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        landmarks: int = LANDMARKS,
        features: int = FEATURES,
    ) -> None:
        super().__init__()
        check_sizes("landmarks", [landmarks])
        check_sizes("features", [features])
        if features > landmarks:
            raise ValueError("features: at most as many as landmarks")
        if not action_dim:
            raise ValueError("action_dim: the kernel encoder needs actions with features")
        self.output_dim, self._num_landmarks = features, landmarks
        size_x, size_a = math.prod(context_shape), action_dim
        # Before the first round, landmarks are random directions: products of random projections
        # have the product of inner products as their mean.
        self._hold(
            x_mean=torch.zeros(size_x),
            x_scale=torch.full((size_x,), size_x**-0.5),
            x_landmarks=torch.empty(landmarks, size_x).normal_(),
            a_mean=torch.zeros(size_a),
            a_scale=torch.full((size_a,), size_a**-0.5),
            a_landmarks=torch.empty(landmarks, size_a).normal_(),
            a_marks=torch.zeros(landmarks),
            a_hash=torch.from_numpy(_hash_weights(size_a)),
            weights=torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]),
            projection=torch.zeros(landmarks, features).fill_diagonal_(
                (_FIRST_VARIANCE / features) ** 0.5
            ),
            shared_x=torch.zeros(MOST_VALUES),
            shared_a=torch.zeros(MOST_VALUES),
            shared_features=torch.zeros(MOST_VALUES, features),
            shared_shift=torch.zeros(features),
        )

    def fit(self, sample: Sample) -> dict[str, float]:
        """Fit the kernel to rows, and draw the landmarks from them; see `FittedModule.fit`."""
        rng = np.random.Generator(np.random.Philox(key=sample.seed))
        x_NX, a_NA, offered_KA = sample.x.rows, sample.a.rows, sample.offered
        if len(offered_KA) < LEAST_OFFERED:
            offered_KA = a_NA
        shared = SharedValues.fitted(sample.shared, x_NX, offered_KA)
        fields = sample.x.fields, sample.a.fields
        rows = shared.of(x_NX, a_NA)
        kernel = fit_kernel(x_NX, a_NA, rows, sample.rewards, offered_KA, fields, rng)
        marks = rng.permutation(len(x_NX))[: self._num_landmarks]
        of_a = a_NA[marks]
        # Every other landmark is a pair that may be offered: what was chosen is of few actions.
        of_a[::2] = offered_KA[rng.integers(len(offered_KA), size=len(of_a[::2]))]
        self._install(kernel, shared, x_NX[marks], of_a)
        self.num_rows.fill_(sample.num_rows)
        return {"noise_share": kernel.noise, "signal_share": float(kernel.weights.sum())}

    def _install(
        self,
        kernel: Kernel,
        shared: SharedValues,
        x_MX: NDArray[np.float64],
        a_MA: NDArray[np.float64],
    ) -> None:
        """Take a fitted kernel, and landmarks, of which there may be fewer than M."""
        x, a = kernel.x.scaled(x_MX), kernel.a.scaled(a_MA)
        marks = a_MA @ _hash_weights(a_MA.shape[1])
        b, c, d, f, g = weights = kernel.weights[:NUM_WEIGHTS]
        of_shared, shared_MP = kernel.weights[NUM_WEIGHTS:], shared.of(x_MX, a_MA)
        of_x, of_a, equal = x @ x.T, a @ a.T, (np.abs(marks[:, None] - marks) < SAME).astype(float)
        values, vectors = np.linalg.eigh(
            b * of_x + c * of_a + d * equal + of_x * (f * of_a + g * equal)
            + (shared_MP * of_shared) @ shared_MP.T
        )  # fmt: skip
        good = values > _LEAST_SHARE * max(float(values[-1]), 1e-300)
        values, vectors = values[good][::-1], vectors[:, good][:, ::-1]
        values, vectors = values[: self.output_dim], vectors[:, : self.output_dim]
        projection = np.zeros((self._num_landmarks, self.output_dim))
        projection[: len(x), : len(values)] = vectors / np.sqrt(values * kernel.noise)
        # A pair's number is affine in the products of its columns, and so are the features.
        features_PF = of_shared[:, None] * (shared_MP.T @ projection[: len(x)])
        scaled_PF = shared.scale[:, None] * features_PF
        self._fill(
            x_mean=kernel.x.mean, x_scale=kernel.x.scale, x_landmarks=x,
            a_mean=kernel.a.mean, a_scale=kernel.a.scale, a_landmarks=a,
            a_marks=marks, weights=weights, projection=projection,
            shared_x=shared.x, shared_a=shared.a,
            shared_features=scaled_PF[shared.pair], shared_shift=shared.mean @ scaled_PF,
        )  # fmt: skip

    def context_part(self, contexts: Tensor) -> Tensor:
        """s(x, landmarks) and the columns of values that actions may have, too, (N, M + J)."""
        raw = flatten(contexts, torch.float64)
        of_x = ((raw - self.x_mean) * self.x_scale) @ self.x_landmarks.T
        return torch.cat([of_x, raw[:, self.shared_x.long()]], dim=1)

    def action_part(self, actions: Tensor) -> Tensor:
        """[c s + d e; b + f s + g e] of actions and landmarks, and J columns, (K, 2M + J)."""
        raw = actions.to(torch.float64)
        of_a = ((raw - self.a_mean) * self.a_scale) @ self.a_landmarks.T
        equal = ((raw @ self.a_hash)[:, None] - self.a_marks).abs() < SAME
        b, c, d, f, g = self.weights
        parts = c * of_a + d * equal, b + f * of_a + g * equal, raw[:, self.shared_a.long()]
        return torch.cat(parts, dim=1)

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """Join parts, (N or 1, M + J) and (N, 2M + J) -> (N, F)."""
        size = self._num_landmarks
        products = context_parts * action_parts[:, size:]
        kernel = action_parts[:, :size] + products[:, :size]
        shared = products[:, size:] @ self.shared_features - self.shared_shift
        return kernel @ self.projection + shared


class KernelServing:
    """Serves a kernel encoder in numpy: the same map."""

    uses_action = True

    def __init__(self, module: KernelEncoder) -> None:
        self.feature_dim = module.output_dim + 1
        mean, scale = float64_of(module.x_mean), float64_of(module.x_scale)
        of_x = np.ascontiguousarray((float64_of(module.x_landmarks) * scale).T)
        self._of_x, self._x_shift = of_x, mean @ of_x
        mean, scale = float64_of(module.a_mean), float64_of(module.a_scale)
        of_a = np.ascontiguousarray((float64_of(module.a_landmarks) * scale).T)
        self._of_a, self._a_shift = of_a, mean @ of_a
        self._hash, self._marks = float64_of(module.a_hash), float64_of(module.a_marks)
        self._weights = float64_of(module.weights)
        shared = float64_of(module.shared_features)
        used = shared.any(axis=1)  # the buffers have room for more
        self._shared_x = float64_of(module.shared_x)[used].astype(np.intp)
        self._shared_a = float64_of(module.shared_a)[used].astype(np.intp)
        self._projection = np.concatenate([float64_of(module.projection), shared[used]])
        self._shift = float64_of(module.shared_shift)

    def context_part(self, context: Raw) -> Array64:
        """See `SplitEncoder.context_part`."""
        part: Array64 = self._context_parts(context[None])[0]
        return part

    def _context_parts(self, contexts: Raw) -> Array64:
        raw = flat64(contexts)
        return np.concatenate([raw @ self._of_x - self._x_shift, raw[:, self._shared_x]], axis=1)

    def action_part(self, actions: NDArray[np.float32]) -> Array64:
        """See `SplitEncoder.action_part`."""
        raw = actions.astype(np.float64)
        of_a = raw @ self._of_a - self._a_shift
        equal = np.abs((raw @ self._hash)[:, None] - self._marks) < SAME
        b, c, d, f, g = self._weights
        parts = c * of_a + d * equal, b + f * of_a + g * equal, raw[:, self._shared_a]
        return np.concatenate(parts, axis=1)

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """See `SplitEncoder.combine`."""
        return self._combine(context_part, action_parts)

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        return self._combine(self._context_parts(contexts), self.action_part(actions))

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode_batch`."""
        return self.combine(self.context_part(context), self.action_part(actions))

    def _combine(self, context_parts: Array64, action_parts: Array64) -> Array64:
        size = len(self._marks)
        kernel = context_parts * action_parts[:, size:]
        kernel[:, :size] += action_parts[:, :size]
        return with_constant(kernel @ self._projection - self._shift)


def _hash_weights(size: int) -> NDArray[np.float64]:
    """Return fixed weights, by which sums of features differ from action to action."""
    return np.random.Generator(np.random.Philox(key=1)).standard_normal(size)
