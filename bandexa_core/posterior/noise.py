"""Owns the law of the noise variance s2 ~ inverse-gamma(a, b): its draws and its mean.

Pure functions; a is the shape, b the rate in squared reward units.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.rows import FloatArray

# Gamma draws with a tiny shape reach 0; without a floor s2, and then weights, would be infinite.
_GAMMA_FLOOR = 1e-150


def noise_of(gammas: FloatArray, b: float | FloatArray) -> FloatArray:
    """Return s2 for draws from the gamma law with shape a."""
    return b / floored(gammas)


def floored(gammas: FloatArray) -> FloatArray:
    """Return gamma draws that can be divided by; with a shape of 1 or more all of them can."""
    return np.maximum(gammas, _GAMMA_FLOOR)


def noise_of_one(gamma: float, b: float) -> float:
    """Return `noise_of` for one draw, in a tenth of the time that arrays take."""
    return b / max(gamma, _GAMMA_FLOOR)


def expected_noise_of_one(a: float, b: float) -> float:
    """Return `expected_noise` for one law, in a tenth of the time that arrays take."""
    return b / (a - 1.0 if a > 1.0 else a)


def expected_noise(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Return E[s2] = b / (a - 1) where a > 1; elsewhere it is infinite, and b / a stands in."""
    shape = np.asarray(a, dtype=np.float64)
    return np.asarray(b, dtype=np.float64) / np.where(shape > 1.0, shape - 1.0, shape)
