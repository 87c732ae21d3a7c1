"""How much exploration, or control, a question needs: a rule of thumb.

To see a difference d between two values by the rows that are of one of them, with rewards of the
variance v, takes about

    n = 10 v / (q d^2)

rows, q the share of the log that the rows of interest have: of a control group, or of one action as
exploration alone chooses it. The 10 is what intervals that may be looked at all the time need, for
alpha = .05. So n rows need the share q = 10 v / (n d^2), and a floor, a probability of a uniform
choice among K actions, needs epsilon = K q.

A floor that falls as 1 / sqrt(rows) beyond some row is worth less than it begins with: a row that
was chosen with probability q_t counts with the weight 1 / q_t, so that n rows are worth those of
the harmonic mean of their q_t.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FACTOR = 10.0
MOST_ROWS = 10**15  # no log ever has as many


class Needed(NamedTuple):
    """What the question needs.

    Attributes:
        share: The share of the log that the rows of interest need to have, with as many rows; above
            1: not with so few.
        rows: How many rows it needs with the share that they have now; None where they have none,
            or where it needs more than `MOST_ROWS`.
    """

    share: float
    rows: int | None


def needed(variance: float, difference: float, num: int, share: float) -> Needed:
    """Return the share that `num` rows need, and the number of rows that a share needs.

    Args:
        variance: Of the rewards.
        difference: The difference to be seen, in the unit of rewards.
        num: The rows of the log.
        share: Of the rows of interest now.
    """
    square = difference**2
    rows_at_all = FACTOR * variance / square if square else math.inf
    never = share <= 0.0 or rows_at_all > share * MOST_ROWS
    return Needed(rows_at_all / max(num, 1), None if never else max(1, round(rows_at_all / share)))


def lasting(first: int, num: int, steady: int) -> float:
    """Return what a falling floor is worth, as a share of what it begins with.

    It is the harmonic mean of min(1, sqrt(steady / m)) over the rows m from `first` to
    `first + num`.

    Args:
        first: The rows that there are already.
        num: The rows that are asked about.
        steady: The row beyond which the floor falls.
    """
    end = first + max(num, 1)
    flat = min(end, steady) - min(first, steady)
    fallen: float = (float(max(end, steady)) ** 1.5 - float(max(first, steady)) ** 1.5) / (
        1.5 * math.sqrt(steady)
    )
    return (end - first) / (flat + fallen)


def rows_of_falling(wanted: float, share: float, first: int, steady: int) -> int | None:
    """Return after how many rows a falling floor has shown what a steady one shows at once.

    Args:
        wanted: The rows that a share of 1 needs, 10 v / d^2.
        share: The share that the floor begins with.
        first: The rows that there are already.
        steady: The row beyond which the floor falls.

    Returns:
        The number of rows; None: a floor of 0 never does, nor does one that takes more than
        `MOST_ROWS`.
    """

    def is_enough(num: int) -> bool:
        return num * share * lasting(first, num, steady) >= wanted

    if share <= 0.0 or not is_enough(MOST_ROWS):
        return None
    most = 1
    while not is_enough(most):
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if is_enough(middle) else (middle, most)
    return most
