"""Standardised inputs: each float feature minus its mean, divided by its deviation, and bounded.

The prior and the first steps of training treat all inputs alike, so inputs must be alike. The
constants are frozen in a snapshot (none in snapshot 0) and change only when the posterior is
rebuilt. uint8 contexts are images, scaled to 0..1 by the encoders instead. Pure values.
Legend: N rows, X flattened context features, A action features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.robust import CONSTANT_BOUND, LIVE_BOUND, PARTS, Scale

Array64 = NDArray[np.float64]
# The bound of releases before 0.4: products of inputs stay below the limit of a posterior.
OLD_BOUND = 1e20
_OLD = ("num_rows", "x_mean", "x_std", "a_mean", "a_std")


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Inputs under another scaling, as affine functions of those under this one.

    x' = x_factor x + x_offset and a' = a_factor a + a_offset, elementwise; of inputs within the
    bounds of both.
    """

    x_factor: Array64
    x_offset: Array64
    a_factor: Array64
    a_offset: Array64


@dataclass(frozen=True, slots=True, eq=False)
class InputScaling:
    """The scales of contexts, of X features, and of actions, of A features.

    Attributes:
        num_rows: Learned values behind the constants; 0: the identity.
        scales_contexts: False if contexts are uint8, which are not scaled.
    """

    num_rows: int
    x: Scale
    a: Scale
    scales_contexts: bool = True

    @classmethod
    def identity(
        cls, context_shape: tuple[int, ...], action_dim: int, *, scales_contexts: bool = True
    ) -> InputScaling:
        """Return the scaling that changes nothing."""
        x, a = Scale.identity(math.prod(context_shape)), Scale.identity(action_dim)
        return cls(0, x, a, scales_contexts)

    @property
    def is_old(self) -> bool:
        """Whether a release before 0.4 made it, from plain moments and without a bound."""
        scale = self.x if self.scales_contexts else self.a
        return bool(self.num_rows) and bool((scale.bound == OLD_BOUND).any())

    def updated(self, num_rows: int, x: Scale | None, a: Scale | None) -> InputScaling:
        """Return the scaling by new scales of raw inputs; None retains the present ones."""
        x = self.x if x is None or not self.scales_contexts else x
        return InputScaling(num_rows, x, self.a if a is None else a, self.scales_contexts)

    def renewed(self, x: Scale | None, a: Scale | None) -> InputScaling:
        """Return the scaling with new scales for the features whose present one is outdated."""
        if x is not None and self.scales_contexts:
            x = self.x.where(self.x.outdated_by(x), x)
        if a is not None:
            a = self.a.where(self.a.outdated_by(a), a)
        return self.updated(self.num_rows, x, a)

    def contexts(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return contexts (..., *X), standardised in float64; uint8 ones as they are."""
        if not self.num_rows or not self.scales_contexts:
            return raw
        flat = raw.reshape(-1, len(self.x.mean))
        return _scaled(flat, self.x).reshape(raw.shape)

    def actions(self, raw_KA: NDArray[Any]) -> NDArray[Any]:
        """Return actions (K, A), standardised in float64."""
        return _scaled(raw_KA, self.a) if self.num_rows else raw_KA

    def change_to(self, other: InputScaling) -> Change:
        """Return how inputs under this scaling become those under `other`."""
        return Change(
            self.x.std / other.x.std,
            (self.x.mean - other.x.mean) / other.x.std,
            self.a.std / other.a.std,
            (self.a.mean - other.a.mean) / other.a.std,
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the constants as named arrays."""
        return {"num_rows": np.array(self.num_rows)} | {
            f"{side}_{part}": getattr(scale, part)
            for side, scale in (("x", self.x), ("a", self.a))
            for part in PARTS
        }

    def loaded(self, tensors: dict[str, NDArray[Any]]) -> InputScaling:
        """Return the scaling that `tensors` wrote, for inputs of the same sizes as this one's.

        Those of a release before 0.4 are taken as that release took them.

        Raises:
            ValueError: A tensor is missing, of another shape, or no usable number.
        """
        expected = self.tensors()
        if tensors.keys() == set(_OLD):
            before = InputScaling(
                0, Scale.identity(len(self.x.mean), OLD_BOUND),
                Scale.identity(len(self.a.mean), OLD_BOUND),
            )  # fmt: skip
            tensors = before.tensors() | tensors
        if tensors.keys() != expected.keys():
            raise ValueError("scaling: the snapshot has other tensors")
        tiny = float(np.finfo(np.float64).tiny)
        least = {"num_rows": 0.0} | {
            f"{side}_{part}": 0.0 if part == "clipped" else tiny
            for side in "xa"
            for part in PARTS[1:]
        }
        for name, ours in expected.items():
            theirs = tensors[name]
            if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
                raise ValueError(f"scaling: tensor {name} has another shape or dtype")
            if not np.isfinite(theirs).all() or (theirs < least.get(name, -np.inf)).any():
                raise ValueError(f"scaling: tensor {name} holds an unusable number")
        x, a = (Scale(*(tensors[f"{side}_{part}"] for part in PARTS)) for side in "xa")
        return InputScaling(int(tensors["num_rows"]), x, a, self.scales_contexts)


def _scaled(raw_NF: NDArray[Any], scale: Scale) -> Array64:
    if scale.is_moderate and raw_NF.dtype == np.float32:
        scaled: Array64 = (raw_NF - scale.mean) / scale.std
    else:
        with np.errstate(over="ignore"):  # a deviation may be tiny and the next value huge
            scaled = (raw_NF - scale.mean) / scale.std
    size = np.abs(scaled)
    if np.logical_and.reduce(size <= scale.bound, axis=None):  # `all` takes 1 us longer
        return scaled
    live = (scale.bound == CONSTANT_BOUND) & (size > CONSTANT_BOUND)
    grown = np.minimum(1.0 + np.log(size, out=np.zeros_like(size), where=live), LIVE_BOUND)
    bounded = np.where(live, grown, np.minimum(size, scale.bound))
    bounded[size > scale.far] = 0.0
    return np.copysign(bounded, scaled)
