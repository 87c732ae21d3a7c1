"""How long the start of a process waits that has ended and is started again."""

FIRST_S, MAX_S = 0.05, 5.0
STEADY_S = 10.0  # a process that lived as long is started again at once


def backoff_s(before_s: float, lived_s: float) -> float:
    """Return the wait before the next start: twice the last one, while the process ends early.

    Args:
        before_s: The wait before the last start, seconds; `FIRST_S` at first.
        lived_s: How long the process lived.
    """
    return FIRST_S if lived_s > STEADY_S else min(2 * before_s, MAX_S)
