"""Finds what is old enough for retention: positions, times, bandits.

Each takes a few seeks of an index, however many rows there are.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping

from bandexa_core.ids import DecisionKey, LogPosition
from service.store.hashing import KIND_CATALOGUE, KIND_LEARN, MAX_GROUP
from service.store.identity import TIME_BITS, first_key, key_at, place_of, time_of
from service.store.sql.database import Database
from service.store.sql.evicted import trim_of

_FIRST_LEARNED = f"""
SELECT position FROM log WHERE bandit = ?1 AND kind = {KIND_LEARN} AND before IS NULL
AND position NOT IN (SELECT origin FROM erased WHERE bandit = ?1)
AND position NOT IN (SELECT origin FROM log WHERE bandit = ?1 AND kind = 5 AND position <= ?2)
ORDER BY position LIMIT 1 OFFSET ?3
"""
# Some seeks per bandit, in one statement: ten thousand bandits take some 50 ms.
_WITH_OLD_ROWS = f"""
SELECT bandit FROM bandits AS b WHERE deleted IS NULL AND (
  (SELECT key FROM decisions WHERE key >= b.bandit << :bits AND key < (b.bandit + 1) << :bits
   ORDER BY key LIMIT 1) < (b.bandit << :bits) + :place
  OR (SELECT time FROM log AS l WHERE l.bandit = b.bandit AND kind = {KIND_LEARN}
      ORDER BY position LIMIT 1) < :before
  OR (SELECT sum(length(payload)) FROM log AS l
      WHERE l.bandit = b.bandit AND kind = {KIND_CATALOGUE} AND kind <> 1) > :bytes)
"""


def first_learned(db: Database, bandit: int, number: int, up_to: LogPosition) -> LogPosition:
    """Return the position of the n-th (from 1) first value that is in the log.

    Values that were erased, or that a row up to `up_to` voids, do not count.
    """
    (position,) = db.execute(_FIRST_LEARNED, (bandit, up_to, number - 1)).fetchone()
    return LogPosition(position)


def last_before(db: Database, bandit: int, time: float) -> LogPosition:
    """Return where the last group ends of which all rows are older than `time`; in a transaction.

    Args:
        db: A connection.
        bandit: The bandit.
        time: A service time.
    """
    (head,) = db.execute("SELECT max(position) FROM log WHERE bandit = ?", (bandit,)).fetchone()
    trim = int(trim_of(db, bandit).position)
    older, newer = trim, (head or 0) + 1
    while newer - older > 1:  # positions have no gaps, and service time only grows
        middle = (older + newer) // 2
        found = db.execute(
            "SELECT time FROM log WHERE bandit = ? AND position = ?", (bandit, middle)
        ).fetchone()
        if found is not None and found[0] < time:
            older = middle
        else:
            newer = middle
    (end,) = db.execute(
        "SELECT max(position) FROM log"
        " WHERE bandit = ? AND position < ? AND position > ? AND ends <> 0",
        (bandit, newer, max(newer - 2 * MAX_GROUP, trim)),
    ).fetchone()
    return LogPosition(end or 0)


def with_old_rows(db: Database, before: float, change_bytes: int) -> set[int]:
    """Return the bandits with rows older than `before`, or so many bytes of catalogue changes."""
    place = place_of(key_at(0, before))
    wanted = {"bits": TIME_BITS, "place": place, "before": before, "bytes": change_bytes}
    return {bandit for (bandit,) in db.execute(_WITH_OLD_ROWS, wanted).fetchall()}


def decision_time(
    db: Database, number: int, after: Mapping[int, DecisionKey], behind: float
) -> float | None:
    """Return the service time of the n-th oldest decision (from 0); see `LogReader`."""
    bandits = db.execute("SELECT bandit FROM bandits WHERE deleted IS NULL").fetchall()
    starts = [
        (key, max(after.get(key, 0), key_at(key, behind) if behind >= 0 else 0))
        for (key,) in bandits
    ]
    times = heapq.merge(*(_times(db, key, start) for key, start in starts))
    return next(itertools.islice(times, number, None), None)


def _times(db: Database, bandit: int, after: int) -> Iterator[float]:
    for (key,) in db.execute(
        "SELECT key FROM decisions WHERE key > ? AND key < ? ORDER BY key",
        (max(after, first_key(bandit) - 1), first_key(bandit + 1)),
    ):
        yield time_of(key)
