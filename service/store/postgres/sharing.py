"""What the writer of a server heeds where several servers append to the logs of one database."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from bandexa_core.ids import LogPosition
from service.observe.counters import SharedCount
from service.store.postgres.faults import LeaseLost
from service.store.postgres.leases import KEEPER, held

if TYPE_CHECKING:
    from service.store.postgres.watching import End
    from service.store.postgres.writing import WritingDatabase

_HELD = f"SELECT {held('?1', '?2')}"


class Sharing:
    """The logs that others have appended to, and the lease that administration needs.

    Args:
        epoch: Of the keeper's lease; None: this server is not the keeper, and administers nothing.
        diverged: Counts how often the models of this server were of another branch of the log.

    Attributes:
        diverged: As given.
        overtaken: How many groups were written again because another server was faster.
    """

    def __init__(self, epoch: int | None, diverged: SharedCount) -> None:
        self.overtaken = 0
        self.diverged = diverged
        self._epoch = epoch
        self._seen: dict[int, End] = {}
        self._new: dict[int, End] = {}
        self._lock = threading.Lock()

    def note(self, heads: dict[int, End]) -> bool:
        """Note the ends of logs as they were seen; from any thread.

        Returns:
            Whether one went back: the database may have lost rows.
        """
        went_back = False
        with self._lock:
            self._new |= heads
            for bandit, end in heads.items():
                before = self._seen.get(bandit)
                # An end that went back is of another branch: the writer compares the one before.
                if before is None or end.position > before.position:
                    self._seen[bandit] = end
                elif end != before:
                    went_back = True
        return went_back

    def moved(self) -> list[tuple[int, LogPosition]]:
        """Return the ends of logs that were seen since the last call."""
        if not self._new:
            return []
        with self._lock:
            new, self._new = self._new, {}
        return [(bandit, end.position) for bandit, end in new.items()]

    def seen(self) -> list[tuple[int, End]]:
        """Return the newest ends of logs: the models of this server have no row behind them."""
        with self._lock:
            return list(self._seen.items())

    def require(self, db: WritingDatabase) -> None:
        """Require in the running transaction that this server is still the keeper.

        Raises:
            LeaseLost: Another one is.
        """
        if self._epoch is not None and not db.hold(_HELD, (KEEPER, self._epoch)):
            raise LeaseLost("another server is the keeper now")
