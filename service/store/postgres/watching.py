"""Notices what other servers append to a database: new log rows, bandits, and snapshots.

A thread asks for the ends of the logs: soon again while rows come, less often while none do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from service.store.address import PostgresUrl
from service.store.errors import StoreUnreadable
from service.store.postgres.connection import ReadConnection

log = logging.getLogger(__name__)
BUSY_S, IDLE_S = 0.005, 0.1
ANSWERS_WITHIN_S = 2.0  # else a network that drops everything goes unnoticed for a minute
OTHERS_S = 0.1  # between looks at bandits and snapshots
_HEADS = "SELECT bandit, position, hash FROM heads"
_BANDITS = "SELECT count(*), max(bandit), count(deleted) FROM bandits"
_SERVED = """
SELECT b.uid, max(r.version) FROM rounds AS r JOIN bandits AS b ON b.bandit = r.bandit
WHERE b.deleted IS NULL AND r.error IS NULL AND r.version IS NOT NULL GROUP BY b.uid
"""


class End(NamedTuple):
    """The end of a log: the position of its newest row, and the hash of all rows."""

    position: LogPosition
    hash: bytes


class Seen(NamedTuple):
    """What has changed since the last look.

    Attributes:
        heads: The new ends of logs, by the keys of their bandits: position and hash.
        bandits: Whether bandits were created or deleted.
        served: The newest snapshots of rounds, where there are new ones.
        went_back: Whether a log ends before a row that this process has seen, or has written.
    """

    heads: dict[int, End]
    bandits: bool
    served: dict[BanditUid, SnapshotVersion]
    went_back: bool


class Watcher:
    """Asks the database.

    Args:
        url: The database.
        known: Returns the newest ends of logs that this process knows of.
        seen: Receives what has changed, on the thread.
        lost: Called on the thread when the database does not answer, with the moment of its last
            answer: `time.monotonic()`.
        found: Called on the thread when it answers again.
    """

    def __init__(
        self,
        url: PostgresUrl,
        known: Callable[[], dict[int, End]],
        seen: Callable[[Seen], None],
        lost: Callable[[float], None],
        found: Callable[[], None],
    ) -> None:
        self._known, self._seen, self._lost, self._found = known, seen, lost, found
        self._db = ReadConnection(url, ANSWERS_WITHIN_S)
        self._heads: dict[int, End] = {}
        self._bandits: tuple[int, ...] = ()
        self._served: dict[BanditUid, SnapshotVersion] = {}
        self._others_due = 0.0
        self._is_lost = False
        self._back: set[tuple[int, End]] = set()  # ends that were before the known ones
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()
        self._db.close()

    def _watch(self) -> None:
        wait_s, answered_at = IDLE_S, time.monotonic()
        while not self._ended.is_set():
            try:
                moved = self._look()
            except StoreUnreadable as error:
                if not self._is_lost:
                    log.warning("the database does not answer: %s", error)
                    self._is_lost = True
                    self._lost(answered_at)
                moved = False
            else:
                answered_at = time.monotonic()
                if self._is_lost:
                    self._is_lost = False
                    self._found()
            wait_s = BUSY_S if moved else min(2 * wait_s, IDLE_S)
            self._ended.wait(wait_s)

    def _look(self) -> bool:
        """Report what has changed; returns whether a log has."""
        known = self._known()  # before the look: what is known has been committed
        ends = [
            (bandit, End(LogPosition(position), digest))
            for bandit, position, digest in self._db.execute(_HEADS).fetchall()
        ]
        heads = {bandit: end for bandit, end in ends if self._heads.get(bandit) != end}
        bandits, served = False, {}
        if (now := time.monotonic()) >= self._others_due:
            self._others_due = now + OTHERS_S
            found = tuple(self._db.execute(_BANDITS).fetchone())
            bandits, self._bandits = found != self._bandits, found
            newest = {
                BanditUid(uid): SnapshotVersion(version)
                for uid, version in self._db.execute(_SERVED).fetchall()
            }
            served = {uid: v for uid, v in newest.items() if self._served.get(uid) != v}
            self._served = newest
        back = {
            (bandit, end)
            for bandit, end in ends
            if (before := known.get(bandit)) is not None
            and end != before
            and end.position <= before.position
        }
        went_back, self._back = bool(back - self._back), back
        self._heads |= heads
        if heads or bandits or served or went_back:
            with suppress(RuntimeError):  # the loop of the server has ended
                self._seen(Seen(heads, bandits, served, went_back))
        return bool(heads)
