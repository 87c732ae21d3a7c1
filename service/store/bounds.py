"""The bounds of the first values of all bandits; used where learn rows are made.

A bandit's window of values is no part of a snapshot: rows have their bounds in the log, so that
whoever applies them needs no window. It is filled from the newest rows of the log when the first
value after a start, or after a rollback, is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bandexa_core.log.bounds import UNBOUNDED, Bounds, RewardBounds
from bandexa_core.spec import BanditSpec


class BoundsOfBandits:
    """The windows of bandits. Single-threaded.

    Args:
        newest: Returns the newest first values in the log of a bandit, oldest first; at most
            `MEMORY` of them count.
    """

    def __init__(self, newest: Callable[[int], Iterable[float]]) -> None:
        self._newest = newest
        self._windows: dict[int, RewardBounds] = {}

    def take(self, bandit: int, spec: BanditSpec, value: float) -> Bounds:
        """Return the bounds of the next first value of a bandit, and count it.

        `spec`: by which it is bounded, see `Configurations.bounding`; `forget` after its changes.
        """
        if not spec.clips_outliers:
            return UNBOUNDED
        window = self._windows.get(bandit)
        if window is None:
            window = RewardBounds(spec.reward_range, self._newest(bandit))
            self._windows[bandit] = window
        return window.take(value)

    def forget(self, bandit: int | None = None) -> None:
        """Drop the window of one bandit or of all."""
        if bandit is None:
            self._windows.clear()
        else:
            self._windows.pop(bandit, None)
