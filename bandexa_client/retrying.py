"""When a call is sent again, and after how long; standard library alone, no state.

Only what may be repeated is: reads, and writes that carry an id by which the service knows them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bandexa_client.errors import BanditError, ServiceUnavailable


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is sent where the service does not answer or asks to come back.

    Between two attempts it waits a random time up to `first_wait_s`, twice that, four times that
    and so on ("full jitter", so that many clients do not come back at once), up to `max_wait_s`,
    and never less than the service asks for in `Retry-After`.

    Attributes:
        attempts: Most attempts, the first included.
        first_wait_s: Bound of the first wait, in seconds.
        max_wait_s: Bound of every wait.
    """

    attempts: int = 4
    first_wait_s: float = 0.1
    max_wait_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        if not 0 < self.first_wait_s <= self.max_wait_s:
            raise ValueError("first_wait_s must be above 0 and at most max_wait_s")

    def wait_s(self, attempt: int, error: BanditError, left_s: float) -> float | None:
        """Return how long to wait after an attempt (from 1) failed; None: do not try again.

        Args:
            attempt: How many attempts were made.
            error: What the last one ended with.
            left_s: Time the call has left; a wait that takes it up is not begun.
        """
        if attempt >= self.attempts or not isinstance(error, ServiceUnavailable):
            return None
        wait = self.pause_s(attempt, error)
        return wait if wait < left_s else None

    def pause_s(self, attempt: int, error: BanditError) -> float:
        """Return a pause after so many attempts."""
        bound = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 60))
        asked = error.retry_after_s if isinstance(error, ServiceUnavailable) else None
        return max(random.uniform(0.0, bound), min(asked or 0.0, self.max_wait_s))


NO_RETRY = Retry(attempts=1)
