"""How fast the database grows, and when the disk will be full of it.

Samples come every half minute. A rate is that between the oldest and the newest of them, over a day
at most and ten minutes at least; what retention removes counts, so it falls to 0 in a server whose
limits hold. Limits that will hold say more than the rate: such a disk is never full of decisions.
"""

from __future__ import annotations

import math
from collections import deque

SPAN_S = 86400.0
LEAST_S = 600.0
SAMPLES = 288  # one each five minutes of a day


class Growth:
    """The size of the database over time."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self._newest: tuple[float, int] | None = None

    def add(self, time_s: float, num_bytes: int) -> None:
        """Add a sample; `time_s`: by a clock that never goes back."""
        samples = self._samples
        if not samples or time_s - samples[-1][0] >= SPAN_S / SAMPLES:
            samples.append((time_s, num_bytes))
        self._newest = time_s, num_bytes

    @property
    def rate(self) -> float | None:
        """Bytes a second; None: it is not known yet."""
        if self._newest is None or self._newest[0] - self._samples[0][0] < LEAST_S:
            return None
        (begun, first), (ended, last) = self._samples[0], self._newest
        return (last - first) / (ended - begun)

    def full_in_s(
        self, free_bytes: int, max_bytes: int | None, max_age_s: float | None
    ) -> float | None:
        """Return in how many seconds the disk is full; infinite: not of decisions.

        Args:
            free_bytes: What can be written to the disk.
            max_bytes: The limit of the database, or None.
            max_age_s: The limit of the age of decisions, or None.

        Returns:
            None: It is not known yet.
        """
        rate = self.rate
        if rate is None:
            return None
        num_bytes = 0 if self._newest is None else self._newest[1]
        if rate <= 0.0 or (max_bytes is not None and max_bytes - num_bytes <= free_bytes):
            return math.inf
        if max_age_s is not None and rate * max_age_s <= free_bytes:
            return math.inf
        return free_bytes / rate
