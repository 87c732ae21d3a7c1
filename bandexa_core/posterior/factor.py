"""Owns the one factorisation: from a precision matrix to a square root of its inverse.

Pure; runs at a rebuild and at a refresh, never for a single row.
"""

from __future__ import annotations

import numpy as np
import torch

from bandexa_core.posterior.rows import FloatArray

# Eigenvalues of a scaled precision (unit diagonal) below minus this are no rounding error.
_INDEFINITE = 1e-6


class NotPositiveDefiniteError(ValueError):
    """The statistics can not come from any rows: zz + ridge I is not positive definite."""


def inverse_root(zz: FloatArray, ridge: float) -> FloatArray:
    """Return a root S, shape (D, D), with S S^T = (zz + ridge I)^-1.

    S = L^-T for P = zz + ridge I = L L^T. Every squared pivot of L is at least the smallest
    eigenvalue of P, hence at least `ridge`. A smaller one (or a failed factorisation) says that
    float64 has rounded the ridge away, as it does for collinear features with zz/ridge near 1e16.
    Then the eigenvalues of P are taken, scaled to a unit diagonal, and cut off from below by the
    bound they obey in exact arithmetic, so any sum of finite rows gives a usable root.

    Raises:
        NotPositiveDefiniteError: zz is no sum of outer products of finite rows.
    """
    precision = zz + ridge * np.eye(zz.shape[0])
    if not np.isfinite(precision).all():
        raise NotPositiveDefiniteError("the statistics contain numbers that are not finite")
    # A torch copy: its memory is aligned alike every time, on which MKL's last bit may depend.
    lower, info = torch.linalg.cholesky_ex(torch.tensor(precision, device="cpu"))
    if int(info) == 0 and float(lower.diagonal().square().min()) >= 0.5 * ridge:
        identity = torch.eye(len(zz), dtype=torch.float64, device="cpu")
        root = torch.linalg.solve_triangular(lower.mT, identity, upper=True)
        return np.ascontiguousarray(root.numpy())
    return _eigen_root(precision, ridge)


def _eigen_root(precision: FloatArray, ridge: float) -> FloatArray:
    """Return the root by eigenvalues, cut off at their exact lower bound."""
    diagonal = np.diagonal(precision)
    if diagonal.min() < 0.5 * ridge:
        raise NotPositiveDefiniteError("zz has a negative diagonal: no rows add up to it")
    scale = 1.0 / np.sqrt(diagonal)
    scaled = torch.tensor(precision * scale * scale[:, None], device="cpu")
    eigenvalues, vectors = torch.linalg.eigh(scaled)
    if float(eigenvalues[0]) < -_INDEFINITE:
        raise NotPositiveDefiniteError(
            f"zz has a negative eigenvalue ({float(eigenvalues[0]):.3g} of a scaled precision): "
            "no rows add up to it"
        )
    # P >= ridge I gives D^-1/2 P D^-1/2 >= ridge / max(D).
    eigenvalues.clamp_(min=ridge / float(diagonal.max()))
    root = (vectors / eigenvalues.sqrt()).numpy() * scale[:, None]
    return np.ascontiguousarray(root)
