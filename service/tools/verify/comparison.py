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
from bandexa_core.posterior.agreement import (
    COMPUTED,
    own_differences,
    posterior_differences,
    rounding,
)
from service.store.findings import Check

EXACT, SINGLE = 1e-8, 1e-5
CANCELLED = 1e-6  # of a centre: what lies below is rounding


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
    posterior = found.policy.posterior
    for slot, by_name in differences.items():
        own = posterior.slot(slot) if isinstance(posterior, DisjointPosterior) else posterior
        assert own is not None, "only slots that learned are compared"
        text = f"{what} against its own sums, slot {slot}"
        _report(check, text, by_name, own, tolerance_of(found))


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
    if first.frame != second.frame:
        first = first.copy()
        first.refresh()  # as the round did which wrote the snapshot; rows alone move it seldom
        differences = zip(first.frame, second.frame, strict=True)
        difference = max(abs(one - other) for one, other in differences)
        size = first.frame.unit + CANCELLED * abs(first.frame.center)
        check.differs(difference / size, tolerance, f"{what}: centre and unit")
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
    _report(check, what, posterior_differences(first, second), second, tolerance)


def _report(
    check: Check,
    what: str,
    differences: dict[str, float],
    posterior: GaussianPosterior,
    tolerance: float,
) -> None:
    """Report differences beyond the tolerance, and beyond what rounding explains."""
    explained = tolerance
    if any(differences[name] > tolerance for name in COMPUTED):
        explained = rounding(posterior)
    for name, difference in differences.items():
        if name in COMPUTED and tolerance < difference <= explained:
            check.notes.append(f"{what}: {name} is not checked, rounding moves it that far")
        else:
            check.differs(difference, tolerance, f"{what}: {name}")
