"""Compares two models; reports differences larger than floating point explains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.log.forgetting import Forgetting
from bandexa_core.model import ServingModel
from bandexa_core.policies import NeuralLinearTS, Uniform
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from service.store.findings import Check

EXACT, SINGLE = 1e-8, 1e-5
_TINY = float(np.finfo(np.float64).tiny)


def tolerance_of(model: ServingModel) -> float:
    """Return the relative tolerance of a model's features and of all that follows from them."""
    policy = model.policy
    if isinstance(policy, NeuralLinearTS) and policy.module.serving_dtype.itemsize < 8:
        return SINGLE
    return EXACT


def compare_with_sums(check: Check, what: str, found: ServingModel) -> None:
    """Check that a snapshot's mean, root and noise follow from its sums."""
    if isinstance(found.policy, Uniform):
        return
    posterior, tolerance = found.policy.posterior, tolerance_of(found)
    by_slot: dict[int, GaussianPosterior | None] = {}
    if isinstance(posterior, DisjointPosterior):
        by_slot = {slot: posterior.slot(slot) for slot in posterior.slots}
    else:
        by_slot = {0: posterior}
    for slot, each in by_slot.items():
        assert each is not None, "only slots that learned are listed"
        fresh = each.copy()
        fresh.refresh()
        _compare_posteriors(
            check, f"{what} against its own sums, slot {slot}", fresh, each, tolerance
        )


def compare_models(check: Check, what: str, expected: ServingModel, found: ServingModel) -> None:
    """Check that two models of one bandit are equal within their tolerance."""
    if expected.progress.num_learned != found.progress.num_learned:
        check.problem(
            f"{what}: {found.progress.num_learned} rows learned instead of"
            f" {expected.progress.num_learned}"
        )
    compare_forgetting(check, what, expected.forgetting, found.forgetting)
    if isinstance(expected.policy, Uniform) or isinstance(found.policy, Uniform):
        return
    first, second = expected.policy.posterior, found.policy.posterior
    tolerance = tolerance_of(found)
    if isinstance(first, GaussianPosterior) and isinstance(second, GaussianPosterior):
        _compare_posteriors(check, what, first, second, tolerance)
    elif isinstance(first, DisjointPosterior) and isinstance(second, DisjointPosterior):
        if first.slots != second.slots:
            check.problem(f"{what}: knows actions in slots {second.slots}, not {first.slots}")
        for slot in first.slots:
            one, other = first.slot(slot), second.slot(slot)
            if one is not None and other is not None:
                _compare_posteriors(check, f"{what}, slot {slot}", one, other, tolerance)


def compare_forgetting(check: Check, what: str, expected: Forgetting, found: Forgetting) -> None:
    """Check that two models have the same state of forgetting."""
    same = expected.cell == found.cell and (
        np.array_equal(expected.positions, found.positions)
        and np.array_equal(expected.half_lives, found.half_lives)
    )
    if not same:
        check.problem(f"{what}: what was forgotten differs")


def _compare_posteriors(
    check: Check, what: str, first: GaussianPosterior, second: GaussianPosterior, tolerance: float
) -> None:
    for name, difference in posterior_differences(first, second).items():
        check.differs(difference, tolerance, f"{what}: {name}")


def posterior_differences(first: GaussianPosterior, second: GaussianPosterior) -> dict[str, float]:
    """Return the relative differences of two posteriors by the name of the compared quantity.

    Covariances and sums of products are relative to the deviations of their two features, the mean
    to its largest entry (or to the smallest deviation, where that is larger).
    """
    sigma_DD, other_DD = first.root @ first.root.T, second.root @ second.root.T
    deviation_D = np.sqrt(np.maximum(np.diagonal(sigma_DD), _TINY))
    least = math.sqrt(first.noise_mean) * float(deviation_D.min())
    sums, others = first.statistics(), second.statistics()
    size_D = np.sqrt(np.maximum(np.diagonal(sums.zz), 0.0))
    size_D = np.where(size_D > 0.0, size_D, 1.0)
    products = float(size_D.max()) * math.sqrt(sums.rr)
    return {
        "mean": relative_difference(first.mean, second.mean, least),
        "covariance": _scaled(sigma_DD, other_DD, deviation_D),
        "noise a": relative_difference(first.a, second.a, 0.0),
        "noise b": relative_difference(first.b, second.b, 0.0),
        "sum z z^T": _scaled(sums.zz, others.zz, size_D),
        "sum r z": relative_difference(sums.zr, others.zr, products),
        "sum r^2": relative_difference(sums.rr, others.rr, 0.0),
        "weight of rows": relative_difference(sums.n, others.n, 0.0),
    }  # fmt: skip


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
