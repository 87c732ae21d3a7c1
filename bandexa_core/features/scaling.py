"""Standardised inputs: each float feature minus its mean, divided by its standard deviation.

The prior and the first steps of training treat all inputs alike, so inputs must be alike. The
constants are frozen in a snapshot (none in snapshot 0) and change only when the posterior is
rebuilt. uint8 contexts are images, scaled to 0..1 by the encoders instead. Pure values.
Legend: N rows, X flattened context features, A action features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
# A deviation of this share of the mean could come from rounding alone. The feature is centred then,
# and divided by that share if it exceeds 1, so that rounding errors do not grow.
LEAST_DEVIATION = 1e-6
# Products of standardised inputs stay below the limit of a posterior, as those of raw ones do.
MAX_SIZE = 1e20


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Weighted count, means and standard deviations of some features, (F,) each."""

    count: float
    mean_F: Array64
    std_F: Array64

    @classmethod
    def of(cls, chunks: Iterable[tuple[NDArray[Any], Array64 | None]]) -> Moments | None:
        """Return the moments of chunks (N, F) with weights (N,) (None: all 1); None without rows.

        Chunks are merged by Chan, Golub & LeVeque, "Algorithms for computing the sample variance",
        The American Statistician, 1983, which cancels no digits.
        """
        count, mean, squares = 0.0, np.zeros(()), np.zeros(())
        for raw_NF, weights_N in chunks:
            rows_NF = raw_NF.astype(np.float64)
            share_N = np.ones(len(rows_NF)) if weights_N is None else weights_N
            size = float(share_N.sum())
            if size == 0.0:
                continue
            part = share_N @ rows_NF / size
            change = part - mean
            total = count + size
            squares = squares + share_N @ (rows_NF - part) ** 2 + change**2 * (count * size / total)
            mean = mean + change * (size / total)
            count = total
        return cls(count, mean, np.sqrt(squares / count)) if count else None


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Inputs under another scaling, as affine functions of those under this one.

    x' = x_factor x + x_offset and a' = a_factor a + a_offset, elementwise.
    """

    x_factor: Array64
    x_offset: Array64
    a_factor: Array64
    a_offset: Array64


@dataclass(frozen=True, slots=True, eq=False)
class InputScaling:
    """Means and deviations of inputs, (X,) and (A,) each.

    Attributes:
        num_rows: Learned values behind the constants; 0: the identity.
        scales_contexts: False if contexts are uint8, which are not scaled.
    """

    num_rows: int
    x_mean: Array64
    x_std: Array64
    a_mean: Array64
    a_std: Array64
    scales_contexts: bool = True

    @classmethod
    def identity(
        cls, context_shape: tuple[int, ...], action_dim: int, *, scales_contexts: bool = True
    ) -> InputScaling:
        """Return the scaling that changes nothing."""
        x, a = math.prod(context_shape), action_dim
        return cls(0, np.zeros(x), np.ones(x), np.zeros(a), np.ones(a), scales_contexts)

    def updated(self, num_rows: int, x: Moments | None, a: Moments | None) -> InputScaling:
        """Return the scaling by new moments of raw inputs; None retains the present constants."""
        x = x if self.scales_contexts else None
        x_mean, x_std = (self.x_mean, self.x_std) if x is None else _safe(x)
        a_mean, a_std = (self.a_mean, self.a_std) if a is None else _safe(a)
        return InputScaling(num_rows, x_mean, x_std, a_mean, a_std, self.scales_contexts)

    def contexts(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return contexts (..., *X), standardised in float64; uint8 ones as they are."""
        if not self.num_rows or not self.scales_contexts:
            return raw
        flat = raw.reshape(-1, len(self.x_mean))
        return _scaled(flat, self.x_mean, self.x_std).reshape(raw.shape)

    def actions(self, raw_KA: NDArray[Any]) -> NDArray[Any]:
        """Return actions (K, A), standardised in float64."""
        return _scaled(raw_KA, self.a_mean, self.a_std) if self.num_rows else raw_KA

    def raw_moments(self, x: Moments, *, of_context: bool) -> Moments:
        """Return the moments of raw inputs, given those of standardised ones."""
        mean, std = (self.x_mean, self.x_std) if of_context else (self.a_mean, self.a_std)
        return Moments(x.count, mean + std * x.mean_F, std * x.std_F)

    def change_to(self, other: InputScaling) -> Change:
        """Return how inputs under this scaling become those under `other`."""
        return Change(
            self.x_std / other.x_std,
            (self.x_mean - other.x_mean) / other.x_std,
            self.a_std / other.a_std,
            (self.a_mean - other.a_mean) / other.a_std,
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the constants as named arrays."""
        return {
            "num_rows": np.array(self.num_rows), "x_mean": self.x_mean, "x_std": self.x_std,
            "a_mean": self.a_mean, "a_std": self.a_std,
        }  # fmt: skip

    def loaded(self, tensors: dict[str, NDArray[Any]]) -> InputScaling:
        """Return the scaling that `tensors` wrote, for inputs of the same sizes as this one's.

        Raises:
            ValueError: A tensor is missing, of another shape, or no usable number.
        """
        if tensors.keys() != self.tensors().keys():
            raise ValueError("scaling: the snapshot has other tensors")
        tiny = float(np.finfo(np.float64).tiny)
        least = {"num_rows": 0.0, "x_std": tiny, "a_std": tiny}
        for name, ours in self.tensors().items():
            theirs = tensors[name]
            if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
                raise ValueError(f"scaling: tensor {name} has another shape or dtype")
            if not np.isfinite(theirs).all() or (theirs < least.get(name, -np.inf)).any():
                raise ValueError(f"scaling: tensor {name} holds an unusable number")
        return InputScaling(
            int(tensors["num_rows"]), tensors["x_mean"], tensors["x_std"], tensors["a_mean"],
            tensors["a_std"], self.scales_contexts,
        )  # fmt: skip


def _scaled(raw_NF: NDArray[Any], mean_F: Array64, std_F: Array64) -> Array64:
    with np.errstate(over="ignore"):  # a deviation may be tiny and the next value huge
        scaled: Array64 = (raw_NF - mean_F) / std_F
    np.minimum(scaled, MAX_SIZE, out=scaled)  # clip would take 2 us longer
    return np.maximum(scaled, -MAX_SIZE, out=scaled)


def _safe(moments: Moments) -> tuple[Array64, Array64]:
    """Return mean and deviation; a constant feature gets 1 (see `LEAST_DEVIATION`)."""
    least = LEAST_DEVIATION * np.abs(moments.mean_F)
    return moments.mean_F, np.where(moments.std_F > least, moments.std_F, np.maximum(least, 1.0))
