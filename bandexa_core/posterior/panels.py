"""Draws the panels of several decisions from one posterior.

Pure functions, apart from the generators.
Shapes: B decisions, M members, H drawn noise vectors, D features, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bandexa_core.posterior.noise import floored, noise_of
from bandexa_core.posterior.rows import FloatArray
from bandexa_core.posterior.state import State


class OfEach(NamedTuple):
    """a and b of the law of s2 of each candidate, (K,)."""

    a: FloatArray
    b: FloatArray


Shared = tuple[float, float] | float  # a and b of the law of s2, or s2 if it is known


def draw_scores(
    rngs: Sequence[np.random.Generator],
    num: int,
    noise: OfEach | Shared,
    spread_BK: FloatArray,
    scale: float = 1.0,
    *,
    mirrors: bool,
) -> FloatArray:
    """Return sqrt(s2) times spread times eps of independent candidates, (B, M, K).

    Args:
        rngs: One generator for each decision.
        num: Members M.
        noise: The law of s2, which all candidates of a member share, or of each candidate.
        spread_BK: What the deviations of the candidates are in units of s.
        mirrors: Whether members i and i + M/2 have the same eps up to its sign, as those of
            `GaussianPosterior.sample` do. A shared s2 is each member's own; those of each candidate
            are the same for both. An odd number is drawn independently.
        scale: What all of them are multiplied by.
    """
    width, mirrors = spread_BK.shape[1], mirrors and num % 2 == 0
    if mirrors and not isinstance(noise, OfEach):
        eps_BHK, deviations_BM1 = noise_numbers(rngs, num, width, noise, scale)
        eps_BHK *= spread_BK[:, None]
        return mirrored(eps_BHK, deviations_BM1)
    half = num // 2 if mirrors else num
    scores_BMK = np.empty((len(rngs), num, width))
    eps_BHK = scores_BMK[:, :half]
    a, b = noise if isinstance(noise, tuple) else (None, noise)
    gammas = np.ones(eps_BHK.shape if isinstance(noise, OfEach) else (len(rngs), num, 1))
    for row, rng in enumerate(rngs):
        if a is not None:
            rng.standard_gamma(a, out=gammas[row])
        rng.standard_normal(out=eps_BHK[row])
    eps_BHK *= (scale * np.sqrt(noise_of(gammas, b))) * spread_BK[:, None]
    if mirrors:
        np.negative(eps_BHK, out=scores_BMK[:, half:])
    return scores_BMK


def noise_numbers(
    rngs: Sequence[np.random.Generator],
    num: int,
    width: int,
    noise: Shared,
    scale: float,
) -> tuple[FloatArray, FloatArray]:
    """Return eps, (B, H, W), and scale sqrt(s2), (B, M, 1); H is M/2, or an odd M."""
    half = num if num % 2 else num // 2
    eps_BHW = np.empty((len(rngs), half, width))
    gammas_BM1 = np.empty((len(rngs), num, 1))
    shape, rate = noise if isinstance(noise, tuple) else (None, noise)
    for rng, eps_HW, gammas_M1 in zip(rngs, eps_BHW, gammas_BM1, strict=True):
        if shape is not None:
            rng.standard_gamma(shape, out=gammas_M1)
        else:
            gammas_M1.fill(1.0)
        rng.standard_normal(out=eps_HW)
    deviations_BM1 = gammas_BM1 if shape is None or shape >= 1.0 else floored(gammas_BM1)
    np.divide(rate, deviations_BM1, out=deviations_BM1)
    np.sqrt(deviations_BM1, out=deviations_BM1)
    if scale != 1.0:
        deviations_BM1 *= scale
    return eps_BHW, deviations_BM1


def mirrored(eps_BHK: FloatArray, deviations_BM1: FloatArray) -> FloatArray:
    """Return the members' deviations, (B, M, K): mirrored ones have the negative of eps.

    `deviations_BM1` of the mirrored ones get the other sign.
    """
    (num, half, width), members = eps_BHK.shape, deviations_BM1.shape[1]
    if half == members:
        return eps_BHK * deviations_BM1
    np.negative(deviations_BM1[:, half:], out=deviations_BM1[:, half:])
    both_B2H1 = deviations_BM1.reshape(num, 2, half, 1)
    return (eps_BHK[:, None] * both_B2H1).reshape(num, members, width)


def draw_panels(
    state: State,
    rngs: Sequence[np.random.Generator],
    num: int,
    noise: Shared,
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
    eps_BHD, scales_BM1 = noise_numbers(rngs, num, len(mean_D), noise, scale)
    half = eps_BHD.shape[1]
    weights_BMD = np.empty((len(rngs), num, len(mean_D)))
    np.matmul(state.expanded(eps_BHD), state.stored_root.T, out=weights_BMD[:, :half])
    if half < num:
        np.negative(weights_BMD[:, :half], out=weights_BMD[:, half:])
    weights_BMD *= scales_BM1
    weights_BMD += mean_D
    return weights_BMD
