"""When a call is sent again, and after how long. It holds no state.

Only calls that may be repeated are: reads, and writes with an id by which the service recognises
them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bandexa_client.errors import BanditError, ServiceUnavailable


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is sent when the service does not answer, or asks to retry later.

    Between two attempts the client waits a random time up to `first_wait_s`, then up to twice that,
    four times that and so on, at most `max_wait_s` ("full jitter": many clients do not return at
    once). It never waits less than the service requests in `Retry-After`, up to `max_wait_s`.

    Attributes:
        attempts: The most attempts, the first included.
        first_wait_s: Upper bound of the first wait, in seconds.
        max_wait_s: Upper bound of every wait, in seconds.

    Raises:
        ValueError: A number is out of range.
    """

    attempts: int = 4
    first_wait_s: float = 0.1
    max_wait_s: float = 5.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        if not 0 < self.first_wait_s <= self.max_wait_s:
            raise ValueError("first_wait_s must be above 0 and at most max_wait_s")

    def wait_s(self, attempt: int, error: BanditError, left_s: float) -> float | None:
        """Return how long to wait after a failed attempt; None: do not try again.

        Args:
            attempt: The number of attempts so far, at least 1.
            error: The error of the last one.
            left_s: Seconds that the call has left; a wait that would use them up is not begun.
        """
        if attempt >= self.attempts or not isinstance(error, ServiceUnavailable):
            return None
        wait = self.pause_s(attempt, error)
        return wait if wait < left_s else None

    def pause_s(self, attempt: int, error: BanditError) -> float:
        """Return a random pause after a number of attempts, in seconds."""
        bound = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 60))
        asked = error.retry_after_s if isinstance(error, ServiceUnavailable) else None
        return max(random.uniform(0.0, bound), min(asked or 0.0, self.max_wait_s))


NO_RETRY = Retry(attempts=1)
