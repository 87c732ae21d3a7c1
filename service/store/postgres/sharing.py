"""What the writer of a server heeds where several servers append to the logs of one database."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from bandexa_core.ids import LogPosition
from service.observe.counters import SharedCount
from service.store.postgres.faults import LeaseLost
from service.store.postgres.leases import KEEPER, held
from service.store.postgres.watching import End

if TYPE_CHECKING:
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

    def note(self, heads: dict[int, End]) -> None:
        """Note the ends of logs as they were seen; from any thread."""
        with self._lock:
            self._new |= heads
            self._add(heads)

    def wrote(self, ends: dict[int, tuple[int, bytes]]) -> None:
        """Note the ends of logs that this server has moved."""
        if ends:
            with self._lock:
                self._add({key: End(LogPosition(at), digest) for key, (at, digest) in ends.items()})

    def _add(self, ends: dict[int, End]) -> None:
        for bandit, end in ends.items():
            before = self._seen.get(bandit)
            # An end that went back is of another branch: the writer compares the one before.
            if before is None or end.position > before.position:
                self._seen[bandit] = end

    def moved(self) -> list[tuple[int, LogPosition]]:
        """Return the ends of logs that were seen since the last call."""
        if not self._new:
            return []
        with self._lock:
            new, self._new = self._new, {}
        return [(bandit, end.position) for bandit, end in new.items()]

    def seen(self) -> dict[int, End]:
        """Return the newest ends of logs: the models of this server have no row behind them."""
        with self._lock:
            return dict(self._seen)

    def require(self, db: WritingDatabase) -> None:
        """Require in the running transaction that this server is still the keeper.

        Raises:
            LeaseLost: Another one is.
        """
        if self._epoch is not None and not db.hold(_HELD, (KEEPER, self._epoch)):
            raise LeaseLost("another server is the keeper now")
