"""Prior and noise of the Bayesian linear head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bandexa_core.spec.rewards import MAX_REWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class PosteriorSpec:
    """Prior and noise of the Bayesian linear head. None derives a value from the reward range.

    Attributes:
        prior_var: Prior variance of each weight, in squared reward units.
        noise: "nig" learns the noise variance (normal-inverse-gamma); "fixed" takes it as known.
        noise_var: Noise variance in squared reward units: the known one, or the initial guess.
        noise_shape: Weight of that guess: it counts as twice as many rows. Unused when fixed.
        prior_mean: What is expected of an action that nothing is known of, in reward units; None:
            the mean of the first 64 values.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    prior_var: float | None = None
    noise: Literal["nig", "fixed"] = "nig"
    noise_var: float | None = None
    noise_shape: float = 0.1
    prior_mean: float | None = None

    def __post_init__(self) -> None:
        for name in ("prior_var", "noise_var", "noise_shape"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: must be a finite number above 0")
        if self.prior_mean is not None and not abs(self.prior_mean) <= MAX_REWARD:
            raise ValueError(f"prior_mean: must be -{MAX_REWARD:g} to {MAX_REWARD:g}")
