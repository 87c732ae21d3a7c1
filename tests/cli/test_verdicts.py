"""Whether a bandit is better than an arm, in a sentence: by the interval of the lift alone."""

from __future__ import annotations

import pytest

from bandexa_client import Estimate
from service.cli.admin import verdict


@pytest.mark.parametrize(
    ("mean", "low", "high", "said"),
    [
        (0.1, 0.01, 0.19, "Yes."),
        (-0.1, -0.19, -0.01, "No, it is worse."),
        # Half as wide an interval takes four times as many values.
        (0.1, -0.1, 0.3, "Not known yet. If it stays like this, about 4,000 values will tell."),
        (-0.1, -0.3, 0.1, "Not known yet. If it stays like this, about 4,000 values will tell."),
        (0.001, -0.1, 0.1, "Not known yet."),
        (0.0, -0.1, 0.1, "Not known yet."),
        (0.1, None, None, "There are too few values to say."),
    ],
)
def test_the_interval_says_whether_it_is_better(mean, low, high, said) -> None:
    assert verdict(Estimate(num=1000, mean=mean, low=low, high=high)) == said
