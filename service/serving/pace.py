"""How long rounds take by their encoder, as far as this process has seen some.

What a change of the encoder takes is not said by the rounds of the bandit itself: those of a linear
model take a hundredth of those of a network.
"""

from __future__ import annotations

from typing import NamedTuple

LEAST_ROWS = 500  # where a round's time begins to grow with its rows


class Pace(NamedTuple):
    """A round that was seen: what it took, and the learned values behind it."""

    seconds: float
    num_rows: int


class Paces:
    """The newest rounds by encoder; of these, one of few rows says nothing of one of many."""

    def __init__(self) -> None:
        self._seen: dict[str, Pace] = {}

    def add(self, encoder: str, seconds: float, num_rows: int) -> None:
        """Take note of a round."""
        known = self._seen.get(encoder)
        if known is None or 2 * num_rows >= known.num_rows:
            self._seen[encoder] = Pace(seconds, num_rows)

    def seconds(self, encoder: str, num_rows: int) -> float | None:
        """Return about how long a round of so many rows takes; None: no such round was seen."""
        known = self._seen.get(encoder)
        if known is None:
            return None
        return known.seconds * max(LEAST_ROWS, num_rows) / max(LEAST_ROWS, known.num_rows)
