"""Two posteriors of the same rows agree, also where their sums are rounding alone."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.posterior import DisjointPosterior, PosteriorConfig
from bandexa_core.posterior.agreement import differences_by_slot
from bandexa_core.posterior.frame import Frame
from bandexa_core.posterior.statistics import Statistics

CONFIG = PosteriorConfig(
    prior_var=1.0, noise_var=0.1, pooled=True, learns_center=True, learns_unit=True
)


@pytest.mark.parametrize("center", [0.3, 1000.3])
def test_a_slot_whose_rewards_are_all_zero_agrees_with_its_sums(center: float) -> None:
    rng = np.random.default_rng(5)
    z_ND = rng.normal(size=(40, 6))
    z_ND[:, -1] = 1.0
    frame = Frame(center, 0.4, 64.0, 1.0)
    row_by_row = DisjointPosterior(6, CONFIG, frame=frame)
    sums = {slot: Statistics(6) for slot in (0, 1)}
    for number, z_D in enumerate(z_ND):
        slot, value = number % 2, 0.0 if number % 2 else center + float(z_D[0])
        row_by_row.update(slot, z_D, value)
        sums[slot].add(z_D[None], np.array([value]))
    at_once = DisjointPosterior.from_statistics(sums, CONFIG, frame=frame)

    row_by_row.reframe(at_once.frame)
    found = differences_by_slot(at_once, row_by_row)

    assert max(value for slot in found.values() for value in slot.values()) < 1e-8


def test_one_row_with_another_reward_is_a_difference() -> None:
    z_ND = np.random.default_rng(6).normal(size=(20, 4))
    z_ND[:, -1] = 1.0
    frame = Frame(0.3, 0.4, 64.0, 1.0)
    posteriors = []
    for last in (0.0, 1e-4):
        posterior = DisjointPosterior(4, CONFIG, frame=frame)
        for number, z_D in enumerate(z_ND):
            posterior.update(0, z_D, last if number == 19 else 0.0)
        posterior.reframe(frame)
        posteriors.append(posterior)

    found = differences_by_slot(*posteriors)[0]

    assert found["sum r z"] > 1e-6
