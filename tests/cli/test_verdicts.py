"""Whether a bandit is better than an arm, in a sentence: by the interval of the lift alone."""

from __future__ import annotations

import pytest

from service.observe.verdicts import is_better, part_of, verdict


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
    assert verdict(1000, mean, low, high) == said


def test_a_sentence_has_the_figures_behind_it() -> None:
    assert is_better("control", 8000, 0.0512, 0.004, 0.0981) == (
        "Is it better than control? Yes. +0.0512 per decision, 0.004 to 0.0981, of 8,000 values."
    )
    assert is_better("rule", 12, 0.5, None, None) == (
        "Is it better than rule? There are too few values to say."
    )


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.3, "refund: more than control, +0.2 per decision, 0.1 to 0.3, of 400 values"),
        (-0.1, 0.5, "refund: not known to differ from control, "
         "+0.2 per decision, -0.1 to 0.5, of 400 values"),
        (None, None, "refund: too few values to compare it with control"),
    ],
)  # fmt: skip
def test_more_of_a_metric_is_not_called_better(low, high, said) -> None:
    assert part_of("control", "refund", 400, 0.2, low, high) == said
