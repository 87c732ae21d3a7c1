"""How far two posteriors differ, and a posterior from what its own sums give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.posterior.disjoint import DisjointPosterior
from bandexa_core.posterior.gaussian import GaussianPosterior

_TINY = float(np.finfo(np.float64).tiny)
_UNITS = 64.0 * float(np.finfo(np.float64).eps)
# What is computed from the sums; sums themselves, and a, are exact but for their own rounding.
COMPUTED = ("mean", "covariance", "noise b", "sum r^2")


def own_differences(
    posterior: GaussianPosterior | DisjointPosterior,
) -> dict[int, dict[str, float]]:
    """Return by slot how mean, root and noise differ from those that follow from the sums.

    A joint posterior is slot 0. See `posterior_differences`.

    Raises:
        NotPositiveDefiniteError: Some sums are of no rows.
    """
    return differences_by_slot(posterior.from_own_sums(), posterior)


def differences_by_slot(
    own: GaussianPosterior | DisjointPosterior, posterior: GaussianPosterior | DisjointPosterior
) -> dict[int, dict[str, float]]:
    """Return by slot how a posterior differs from `own`, the one of its sums: see above."""
    if isinstance(own, GaussianPosterior):
        assert isinstance(posterior, GaussianPosterior), "of the same kind"
        return {0: posterior_differences(own, posterior)}
    assert isinstance(posterior, DisjointPosterior), "of the same kind"
    found = {}
    for slot in posterior.slots:
        first, second = own.slot(slot), posterior.slot(slot)
        assert second is not None, "only slots that learned are listed"
        prior = GaussianPosterior.prior(second.dim, second.config)  # of sums that were forgotten
        found[slot] = posterior_differences(prior if first is None else first, second)
    return found


def posterior_differences(first: GaussianPosterior, second: GaussianPosterior) -> dict[str, float]:
    """Return the relative differences of two posteriors by the name of the compared quantity.

    Covariances and sums of products are relative to the deviations of their two features, the mean
    to its largest entry (or to the smallest deviation, where that is larger), and the rate b of the
    noise to the sum of squares that it is a difference from. Sums with rewards are relative to
    those of values as large as the centre, too: whole sums of zeros are but their rounding.
    """
    sigma_DD, other_DD = first.root @ first.root.T, second.root @ second.root.T
    deviation_D = np.sqrt(np.maximum(np.diagonal(sigma_DD), _TINY))
    least = math.sqrt(first.noise_mean) * float(deviation_D.min())
    sums, others = first.statistics(), second.statistics()
    size_D = np.sqrt(np.maximum(np.diagonal(sums.zz), 0.0))
    size_D = np.where(size_D > 0.0, size_D, 1.0)
    squares = max(abs(sums.rr), sums.n * first.frame.center**2)
    products = float(size_D.max()) * math.sqrt(squares)
    return {
        "mean": relative_difference(first.mean, second.mean, least),
        "covariance": _scaled(sigma_DD, other_DD, deviation_D),
        "noise a": relative_difference(first.a, second.a, 0.0),
        "noise b": relative_difference(first.b, second.b, 0.5 * squares),
        "sum z z^T": _scaled(sums.zz, others.zz, size_D),
        "sum r z": relative_difference(sums.zr, others.zr, products),
        "sum r^2": relative_difference(sums.rr, others.rr, squares),
        "weight of rows": relative_difference(sums.n, others.n, 0.0),
    }  # fmt: skip


def rounding(posterior: GaussianPosterior) -> float:
    """Return how far rounding alone may move what is computed from the sums, relatively.

    A few units of the last place are amplified by the condition number of the precision, features
    scaled to 1, where all of it is factorised; row by row, by its root, and by how much larger the
    rows are than the prior. Two columns of large values that nearly agree make this large, until
    they are standardised; so do rewards that vary by a tiny share of their size.
    """
    ridge = posterior.config.ridge
    precision_DD = posterior.statistics().zz + ridge * np.eye(posterior.dim)
    size_D = np.sqrt(np.diagonal(precision_DD))
    eigenvalues_D = np.linalg.eigvalsh(precision_DD / np.outer(size_D, size_D))
    if eigenvalues_D[0] <= 0.0:
        return math.inf
    condition = float(eigenvalues_D[-1] / eigenvalues_D[0])
    row_by_row = float(size_D.max()) * math.sqrt(condition / ridge)
    offset = (abs(posterior.frame.center) / posterior.frame.unit) ** 2
    return _UNITS * max(condition, row_by_row, offset)


def _scaled(
    first_DD: NDArray[np.float64], second_DD: NDArray[np.float64], size_D: NDArray[np.float64]
) -> float:
    return float((np.abs(second_DD - first_DD) / np.outer(size_D, size_D)).max())


def relative_difference(first: Any, second: Any, least: float) -> float:
    """Return the largest difference over the largest value (or `least`, where that is larger)."""
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape:
        return math.inf
    if not one.size:
        return 0.0
    return float(np.abs(other - one).max()) / max(float(np.abs(one).max()), least, _TINY)
