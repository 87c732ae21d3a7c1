"""Draws the panels of several decisions from one posterior.

A pure function, apart from the generators.
Shapes: B decisions, M members, H drawn noise vectors, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandexa_core.posterior.noise import noise_of
from bandexa_core.posterior.rows import FloatArray
from bandexa_core.posterior.state import State


def draw_panels(
    state: State,
    rngs: Sequence[np.random.Generator],
    num: int,
    noise: tuple[float, float] | float,
    scale: float = 1.0,
) -> FloatArray:
    """Return weights (B, M, D) for M = `num` above 1; see `GaussianPosterior.sample`.

    Args:
        state: The root and the mean.
        rngs: One generator for each decision.
        num: Members M; if it is even, half of them mirror the others.
        noise: a and b of the law of s2, or s2 if it is known.
        scale: what deviations from the mean are multiplied by.
    """
    mean_D = state.mean
    half = num if num % 2 else num // 2
    eps_BHD = np.empty((len(rngs), half, len(mean_D)))
    gammas_BM = np.ones((len(rngs), num))
    shape, rate = noise if isinstance(noise, tuple) else (None, noise)
    for row, rng in enumerate(rngs):
        if shape is not None:
            rng.standard_gamma(shape, out=gammas_BM[row])
        rng.standard_normal(out=eps_BHD[row])
    scales_BM = scale * np.sqrt(noise_of(gammas_BM, rate))
    weights_BMD = np.empty((len(rngs), num, len(mean_D)))
    np.matmul(state.expanded(eps_BHD), state.stored_root.T, out=weights_BMD[:, :half])
    if half < num:
        np.negative(weights_BMD[:, :half], out=weights_BMD[:, half:])
    weights_BMD *= scales_BM[:, :, None]
    weights_BMD += mean_D
    return weights_BMD
