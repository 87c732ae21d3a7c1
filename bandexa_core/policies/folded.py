"""Draws of several decisions under a fixed map of context and action, whose weights fold.

With a context, weights of D features become a query over the features of an action, and an offset
that all candidates share: V + 1 numbers that are normal as the weights are. They are what is drawn,
by the folded root of the weights' covariance, or, where there are many weights, by a root of their
own: `bilinear` has 289 weights for contexts and actions of 16, and 17 such numbers. The law is that
of drawn weights. Only the generators change.
Legend: B decisions, K candidates, M members, H those that are not mirrored, D features, V size of
an action part, W = V + 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.fixed import ConcatEncoder
from bandexa_core.policies.draws import JointDraw
from bandexa_core.policies.panel import Exploration
from bandexa_core.posterior import GaussianPosterior
from bandexa_core.posterior.panels import mirrored, noise_numbers

Array64 = NDArray[np.float64]
# Weights for each number that is drawn up to which the folded root draws them: the normal numbers
# take less time than a factorisation then.
MOST_NUMBERS = 4
LEAST_PIVOT = 1e-8  # of a variance: what is left of it when the ones before are known


def draw_queries(
    encoder: ConcatEncoder,
    posterior: GaussianPosterior,
    x_BX: Array64,
    parts_KV: Array64,
    rngs: Sequence[np.random.Generator],
    exploration: Exploration,
    encode_s: float,
) -> JointDraw:
    """Draw the panels of B decisions, one generator for each; the posterior has its matrix."""
    matrix_DN = posterior.matrix
    assert matrix_DN is not None, "no moves wait"
    images_BWN = encoder.images(x_BX, matrix_DN)
    root_BWD, mean_BW = images_BWN[:, :, :-1], images_BWN[:, :, -1]
    num_queries, dim = root_BWD.shape[1:]
    factor_BWN = root_BWD if dim <= MOST_NUMBERS * num_queries else _lower_roots(root_BWD)
    eps_BHN, deviations_BM1 = noise_numbers(
        rngs, exploration.panel, factor_BWN.shape[2], posterior.noise_law, exploration.scale
    )
    queries_BHW = np.matmul(eps_BHN, factor_BWN.transpose(0, 2, 1))
    scores_BMK = mirrored(np.matmul(queries_BHW[:, :, :-1], parts_KV.T), deviations_BM1)
    means_BK = np.matmul(mean_BW[:, None, :-1], parts_KV.T)[:, 0]
    scores_BMK += means_BK[:, None]
    shared_B = queries_BHW[:, 0, -1] * deviations_BM1[:, 0, 0]
    offsets_B = mean_BW[:, -1] + shared_B + posterior.frame.center

    def std(row: int, index: int) -> float:
        f_D = parts_KV[index].dot(root_BWD[row, :-1]) + root_BWD[row, -1]
        return math.sqrt(posterior.noise_mean * float(f_D.dot(f_D)))

    winners_BM, offsets = scores_BMK.argmax(axis=2), offsets_B.tolist()
    return JointDraw(
        scores_BMK[:, 0], winners_BM, means_BK, offsets, std, encode_s, lambda row: scores_BMK[row]
    )


def _lower_roots(root_BWD: Array64) -> Array64:
    """Return L with L L^T = R R^T for each R, (B, W, W).

    By the factorisation of the products, or where that would lose digits, of the root itself. Which
    one depends on a decision alone.
    """
    gram_BWW = np.matmul(root_BWD, root_BWD.transpose(0, 2, 1))
    try:
        lower_BWW = np.linalg.cholesky(gram_BWW)
    except np.linalg.LinAlgError:  # of one of them
        lower_BWW = np.zeros_like(gram_BWW)
        for row, gram_WW in enumerate(gram_BWW):
            try:
                lower_BWW[row] = np.linalg.cholesky(gram_WW)
            except np.linalg.LinAlgError:
                continue
    good_BW = _diagonals(lower_BWW) ** 2 > LEAST_PIVOT * _diagonals(gram_BWW)
    if not good_BW.all():
        for index in np.flatnonzero(~good_BW.all(axis=1)).tolist():
            lower_BWW[index] = np.asarray(np.linalg.qr(root_BWD[index].T, mode="r")).T
    return lower_BWW


def _diagonals(matrices_BWW: Array64) -> Array64:
    """Return the diagonals, (B, W), as a view: `np.diagonal` takes 2 us to make one."""
    num, width, _ = matrices_BWW.shape
    return matrices_BWW.reshape(num, width * width)[:, :: width + 1]
