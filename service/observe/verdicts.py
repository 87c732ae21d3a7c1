"""What the interval of a lift says, in words: pure functions, which import next to nothing.

Widths shrink with the root of the number of values, so that an interval which cannot tell yet says
about how many values will.
"""

from __future__ import annotations

import math

UNKNOWN = "There are too few values to say."


def verdict(num: int, mean: float | None, low: float | None, high: float | None) -> str:
    """Return whether a lift is one, and if that is not known, about how many values tell."""
    if mean is None or low is None or high is None:
        return UNKNOWN
    if low > 0 or high < 0:
        return "Yes." if low > 0 else "No, it is worse."
    reach = mean - low if mean > 0 else high - mean
    times = (reach / mean) ** 2 if mean else math.inf
    if not 1 < times < 100:
        return "Not known yet."
    many = float(f"{num * times:.1e}")
    return f"Not known yet. If it stays like this, about {many:,.0f} values will tell."


def is_better(arm: str, num: int, mean: float | None, low: float | None, high: float | None) -> str:
    """Return the question whether a bandit is better than an arm, with its answer."""
    said = f"Is it better than {arm}? {verdict(num, mean, low, high)}"
    if mean is None or low is None or high is None:
        return said
    return f"{said} {_figures(num, mean, low, high)}."


def part_of(
    arm: str, part: str, num: int, mean: float | None, low: float | None, high: float | None
) -> str:
    """Return what a lift by a metric or in a segment says: whether more is better is not known."""
    if mean is None or low is None or high is None:
        return f"{part}: too few values to compare it with {arm}"
    word = "more than" if low > 0 else "less than" if high < 0 else "not known to differ from"
    return f"{part}: {word} {arm}, {_figures(num, mean, low, high)}"


def _figures(num: int, mean: float, low: float, high: float) -> str:
    return f"{mean:+.3g} per decision, {low:.3g} to {high:.3g}, of {num:,} values"
