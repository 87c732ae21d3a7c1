"""Compares two models; reports differences larger than floating point explains."""

from __future__ import annotations

import numpy as np

from bandexa_core.log.forgetting import Forgetting
from bandexa_core.model import ServingModel
from bandexa_core.policies import NeuralLinearTS, Uniform
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    NotPositiveDefiniteError,
)
from bandexa_core.posterior.agreement import own_differences, posterior_differences
from service.store.findings import Check

EXACT, SINGLE = 1e-8, 1e-5


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
    try:
        differences = own_differences(found.policy.posterior)
    except NotPositiveDefiniteError as error:
        check.problem(f"{what} against its own sums: {error}")
        return
    for slot, by_name in differences.items():
        for name, difference in by_name.items():
            text = f"{what} against its own sums, slot {slot}: {name}"
            check.differs(difference, tolerance_of(found), text)


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
