"""The delays of the rewards of all bandits, and the ages at which decisions are mature.

Used where decisions and steps are stored. What changes in a transaction is stored in it; after a
rollback it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bandexa_core.log.delays import Delays, DelayState
from bandexa_core.spec import RewardSpec

SOON = ("applied", "aggregated", "pending")  # rewards whose delays count


class DelaysOfBandits:
    """The delays of bandits. Single-threaded.

    Args:
        stored: Returns all that is stored, by the keys of the bandits.
    """

    def __init__(self, stored: Callable[[], Mapping[int, DelayState]] = dict) -> None:
        self._stored = stored
        self._known: dict[int, Delays] | None = None
        self._changed: set[int] = set()
        self._ages: dict[int, float] = {}  # not returned yet

    def _all(self) -> dict[int, Delays]:
        if self._known is None:
            self._known = {key: Delays(state) for key, state in self._stored().items()}
            ages = {key: each.age_s for key, each in self._known.items()}
            self._ages = {key: age for key, age in ages.items() if age is not None}
        return self._known

    def add(self, bandit: int, delay_s: float, now: float) -> None:
        """Count the delay of a reward that is stored at a service time."""
        delays = self._all().setdefault(bandit, Delays())
        before = delays.age_s
        delays.add(delay_s, now)
        self._changed.add(bandit)
        if delays.age_s is not None and delays.age_s != before:
            self._ages[bandit] = delays.age_s

    def age(self, bandit: int, rules: RewardSpec) -> float | None:
        """Return the age at which a decision is mature that is made now; None: at the close."""
        window, age = rules.reward_window_s, rules.maturity
        if window is None or not rules.waits:
            return None
        if age == "auto":
            known = self._all().get(bandit)
            age = None if known is None else known.age_s
        return age if isinstance(age, int | float) and age < window else None

    def new_ages(self) -> dict[int, float]:
        """Return the learned ages that have changed since the last call, or all of them at first.

        They have the keys of the bandits.
        """
        self._all()
        found, self._ages = self._ages, {}
        return found

    def changed(self) -> list[tuple[int, DelayState]]:
        """Return what has to be stored, once."""
        found = [(key, self._all()[key].state) for key in sorted(self._changed)]
        self._changed.clear()
        return found

    def forget(self, bandit: int | None = None) -> None:
        """Drop those of a deleted bandit; or what is held of all, to be read again."""
        if bandit is None:
            self._known = None
            self._changed.clear()
        elif self._known is not None:
            self._known.pop(bandit, None)
            self._ages.pop(bandit, None)
            self._changed.discard(bandit)
