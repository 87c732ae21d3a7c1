"""Owns the configuration of a posterior: the prior over weights and over the noise variance.

A plain frozen value: read in every process, changed in none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 1e-20
_LARGEST = 1e20


def clipped(value: float, limits: tuple[float, float] | None) -> float:
    """Return a value, or the limit that it is beyond."""
    return value if limits is None else min(max(value, limits[0]), limits[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class PosteriorConfig:
    """The prior over weights and noise, before the first row.

    Attributes:
        prior_var: prior variance of each weight, in squared reward units (not in units of s2).
        noise: "nig" learns the noise variance (normal-inverse-gamma), "fixed" takes it as known.
        noise_var: noise variance in squared reward units: known (fixed), or the guess b0/a0 (nig).
        noise_shape: a0, the weight of that guess: it counts as 2 * a0 rows. Unused when fixed.
        pooled: whether the slots of a disjoint posterior share one noise variance.
        center: what the prior expects of every action, in reward units; above 0 or below, the last
            feature must be the constant 1.
        calibrated: whether a learned encoder's noise is corrected by the errors on later rows; see
            `policies.calibration`.
        learns_center, learns_unit: whether the centre is learned, and the unit of the variances;
            see `frame`.
        clipped_to: where values are clipped to before they are learned; None: as they are.

    Raises:
        ValueError: a number is not finite, or lies outside [1e-20, 1e20]; the field is named.
    """

    prior_var: float = 1.0
    noise: Literal["nig", "fixed"] = "nig"
    noise_var: float = 0.1
    noise_shape: float = 1.0
    pooled: bool = False
    calibrated: bool = False
    center: float = 0.0
    learns_center: bool = False
    learns_unit: bool = False
    clipped_to: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.noise not in ("nig", "fixed"):
            raise ValueError(f"noise must be 'nig' or 'fixed', got {self.noise!r}")
        for name in ("prior_var", "noise_var", "noise_shape"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number, got {value!r}")
            # In this range no product of the posterior comes near overflow.
            if not (math.isfinite(value) and _SMALLEST <= value <= _LARGEST):
                raise ValueError(f"{name} must be finite, > 0 and in [1e-20, 1e20], got {value!r}")
        if not abs(self.center) <= _LARGEST:
            raise ValueError(f"center must be finite and at most 1e20 in size, got {self.center!r}")

    def clipped(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values as they are learned."""
        return values if self.clipped_to is None else np.clip(values, *self.clipped_to)

    def clipped_one(self, value: float) -> float:
        """Return a value as it is learned."""
        return clipped(value, self.clipped_to)

    @property
    def learns_frame(self) -> bool:
        """Whether centre or unit is learned."""
        return self.learns_center or self.learns_unit

    @property
    def ridge(self) -> float:
        """Prior precision of each weight in units of 1/s2: noise_var / prior_var."""
        return self.noise_var / self.prior_var

    @property
    def prior_rate(self) -> float:
        """b0 of the inverse-gamma prior over s2: noise_shape * noise_var."""
        return self.noise_shape * self.noise_var
