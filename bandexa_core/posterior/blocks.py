"""Learns several rows at once, by Andrews' form of the square-root update.

Andrews, A square root formulation of the Kalman covariance equations, AIAA J., 1968. A pure
function, apart from the root and the mean, which it changes in place.
Shapes: B rows, D features.
"""

from __future__ import annotations

import numpy as np

from bandexa_core.posterior.rows import FloatArray

# A block with more information about the weights than this (trace of F^T F, which bounds the
# condition number of I + F^T F) is learned row by row, which is robust to rounding.
_MAX_INFORMATION = 1e6


def learn_block(
    root_DD: FloatArray, mean_D: FloatArray, z_BD: FloatArray, r_B: FloatArray
) -> float | None:
    """Learn a block of rows in place, and return y.y; None if it has to be learned row by row.

    With F = S^T Z^T and I + F^T F = L L^T, the update is

        e = r - Z mean    y = L^-1 e    mean += S F L^-T y    b += y.y / 2
        S -= S F L^-T (L + I)^-1 F^T
    """
    f_BD = z_BD @ root_DD
    if not np.vdot(f_BD, f_BD) <= _MAX_INFORMATION:
        return None
    identity = np.eye(len(z_BD))
    lower = np.linalg.cholesky(identity + f_BD @ f_BD.T)
    whitened = np.linalg.inv(lower)
    gain_DB = root_DD @ (f_BD.T @ whitened.T)
    y = whitened @ (r_B - z_BD @ mean_D)
    mean_D += gain_DB @ y
    root_DD -= gain_DB @ np.linalg.solve(lower + identity, f_BD)
    return float(y @ y)
