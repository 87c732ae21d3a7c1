"""How much exploration, or control, a question needs: a rule of thumb.

To see a difference d between two values by the rows that are of one of them, with rewards of the
variance v, takes about

    n = 10 v / (q d^2)

rows, q the share of the log that the rows of interest have: of a control group, or of one action as
exploration alone chooses it. The 10 is what intervals that may be looked at all the time need, for
alpha = .05. So n rows need the share q = 10 v / (n d^2), and a floor, a probability of a uniform
choice among K actions, needs epsilon = K q.
"""

from __future__ import annotations

from typing import NamedTuple

FACTOR = 10.0


class Needed(NamedTuple):
    """What the question needs.

    Attributes:
        share: The share of the log that the rows of interest need to have, with as many rows; above
            1: not with so few.
        rows: How many rows it needs with the share that they have now; None where they have none.
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
    rows_at_all = FACTOR * variance / difference**2
    return Needed(
        rows_at_all / max(num, 1), None if share <= 0.0 else max(1, round(rows_at_all / share))
    )
