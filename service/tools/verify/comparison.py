"""Two models compared: a difference is reported where it exceeds what floating point explains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.log.forgetting import Forgetting
from bandexa_core.model import ServingModel
from bandexa_core.policies import NeuralLinearTS, Uniform
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from service.tools.verify.findings import Check

EXACT, SINGLE = 1e-8, 1e-5
_TINY = float(np.finfo(np.float64).tiny)


def tolerance_of(model: ServingModel) -> float:
    """Return how far features, and what is made of them, may differ between two machines."""
    policy = model.policy
    if isinstance(policy, NeuralLinearTS) and policy.module.serving_dtype.itemsize < 8:
        return SINGLE
    return EXACT


def compare_with_sums(check: Check, what: str, found: ServingModel) -> None:
    """Check that mean, root and noise follow from the sums beside them."""
    if isinstance(found.policy, Uniform):
        return
    posterior, tolerance = found.policy.posterior, tolerance_of(found)
    by_slot: dict[int, GaussianPosterior | None] = {}
    if isinstance(posterior, DisjointPosterior):
        by_slot = {slot: posterior.slot(slot) for slot in posterior.slots}
    else:
        by_slot = {0: posterior}
    for slot, each in by_slot.items():
        assert each is not None, "only slots that learned are named"
        fresh = each.copy()
        fresh.refresh()
        _compare_posteriors(
            check, f"{what} against its own sums, slot {slot}", fresh, each, tolerance
        )


def compare_models(check: Check, what: str, expected: ServingModel, found: ServingModel) -> None:
    """Check that two models of one bandit are the same, as far as their arithmetic allows."""
    if expected.progress.num_learned != found.progress.num_learned:
        check.problem(
            f"{what}: {found.progress.num_learned} rows learned instead of"
            f" {expected.progress.num_learned}"
        )
    compare_forgetting(check, what, expected.forgetting, found.forgetting)
    if isinstance(expected.policy, Uniform) or isinstance(found.policy, Uniform):
        return
    ours, theirs = expected.policy.posterior, found.policy.posterior
    tolerance = tolerance_of(found)
    if isinstance(ours, GaussianPosterior) and isinstance(theirs, GaussianPosterior):
        _compare_posteriors(check, what, ours, theirs, tolerance)
    elif isinstance(ours, DisjointPosterior) and isinstance(theirs, DisjointPosterior):
        if ours.slots != theirs.slots:
            check.problem(f"{what}: knows actions in slots {theirs.slots}, not {ours.slots}")
        for slot in ours.slots:
            one, other = ours.slot(slot), theirs.slot(slot)
            if one is not None and other is not None:
                _compare_posteriors(check, f"{what}, slot {slot}", one, other, tolerance)


def compare_forgetting(check: Check, what: str, expected: Forgetting, found: Forgetting) -> None:
    """Check that two models have forgotten the same."""
    same = expected.cell == found.cell and (
        np.array_equal(expected.positions, found.positions)
        and np.array_equal(expected.half_lives, found.half_lives)
    )
    if not same:
        check.problem(f"{what}: what was forgotten differs")


def _compare_posteriors(
    check: Check, what: str, ours: GaussianPosterior, theirs: GaussianPosterior, tolerance: float
) -> None:
    for name, difference in posterior_differences(ours, theirs).items():
        check.differs(difference, tolerance, f"{what}: {name}")


def posterior_differences(ours: GaussianPosterior, theirs: GaussianPosterior) -> dict[str, float]:
    """Return relative differences of two posteriors, by the name of what was compared.

    Covariances and sums of products are measured against the deviations of their two features, the
    mean against its largest entry (or the least deviation, where that is more).
    """
    sigma_DD, other_DD = ours.root @ ours.root.T, theirs.root @ theirs.root.T
    deviation_D = np.sqrt(np.maximum(np.diagonal(sigma_DD), _TINY))
    least = math.sqrt(ours.noise_mean) * float(deviation_D.min())
    sums, others = ours.statistics(), theirs.statistics()
    size_D = np.sqrt(np.maximum(np.diagonal(sums.zz), 0.0))
    size_D = np.where(size_D > 0.0, size_D, 1.0)
    products = float(size_D.max()) * math.sqrt(sums.rr)
    return {
        "mean": relative_difference(ours.mean, theirs.mean, least),
        "covariance": _scaled(sigma_DD, other_DD, deviation_D),
        "noise a": relative_difference(ours.a, theirs.a, 0.0),
        "noise b": relative_difference(ours.b, theirs.b, 0.0),
        "sum z z^T": _scaled(sums.zz, others.zz, size_D),
        "sum r z": relative_difference(sums.zr, others.zr, products),
        "sum r^2": relative_difference(sums.rr, others.rr, 0.0),
        "weight of rows": relative_difference(sums.n, others.n, 0.0),
    }  # fmt: skip


def _scaled(
    ours_DD: NDArray[np.float64], theirs_DD: NDArray[np.float64], size_D: NDArray[np.float64]
) -> float:
    return float((np.abs(theirs_DD - ours_DD) / np.outer(size_D, size_D)).max())


def relative_difference(ours: Any, theirs: Any, least: float) -> float:
    """Return the largest difference over the largest value, `least` where that is more."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if one.shape != other.shape:
        return math.inf
    if not one.size:
        return 0.0
    return float(np.abs(other - one).max()) / max(float(np.abs(one).max()), least, _TINY)
