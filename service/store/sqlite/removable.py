"""What retention may remove: asked by readers before, and by the writer as it removes it."""

from __future__ import annotations

import sqlite3

from bandexa_core.ids import DecisionKey, LogPosition
from service.store.hashing import MAX_GROUP
from service.store.identity import first_key
from service.store.protocol import Dropped
from service.store.records import BanditRecord
from service.store.sqlite.codec import unpack_items
from service.store.sqlite.evicted import trim_of

DROP_CHUNK = 500
_OLD_DECISIONS = """
SELECT d.key, d.time, l.closed, l.items, length(d.context)
FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key
WHERE d.key > ? AND d.key < ? ORDER BY d.key LIMIT ?
"""


def last_removable(db: sqlite3.Connection, bandit: int, up_to: LogPosition) -> LogPosition:
    """Return the last position up to which log rows may go; one at the trim point: none may.

    The newest row of a log never goes.
    """
    head = db.execute("SELECT max(position) FROM log WHERE bandit = ?", (bandit,)).fetchone()
    return LogPosition(min(up_to, (head[0] or 0) - 1))


def group_end(
    db: sqlite3.Connection, bandit: int, after: LogPosition, up_to: LogPosition
) -> LogPosition | None:
    """Return the last position in (after, up_to] at which a group ends, and has a hash."""
    (end,) = db.execute(
        "SELECT max(position) FROM log WHERE bandit = ? AND position > ? AND position <= ?"
        " AND ends <> 0",
        (bandit, max(after, up_to - 2 * MAX_GROUP), up_to),
    ).fetchone()
    return None if end is None else LogPosition(end)


def has_removable_rows(db: sqlite3.Connection, bandit: int, up_to: LogPosition) -> bool:
    """Whether a log has rows up to a position that may go."""
    trim, last = trim_of(db, bandit).position, last_removable(db, bandit, up_to)
    return last > trim and group_end(db, bandit, trim, last) is not None


def removable_decisions(
    db: sqlite3.Connection, bandit: BanditRecord, before: float, after: DecisionKey
) -> tuple[list[DecisionKey], Dropped]:
    """Return some decisions that no remaining log row refers to, and what removing them answers.

    Args:
        db: A connection.
        bandit: The bandit.
        before: Only decisions made before it, in seconds since the epoch.
        after: Where the last call ended; 0 for the first call.
    """
    trim = trim_of(db, bandit.key).position
    has_windows = bandit.spec.rewards.reward_window_s is not None
    found = db.execute(
        _OLD_DECISIONS,
        (max(after, first_key(bandit.key) - 1), first_key(bandit.key + 1), DROP_CHUNK),
    ).fetchall()
    old = [row for row in found if row[1] < before]
    keys = [
        DecisionKey(key)
        for key, _, closed, items, is_whole in old  # an erased one is never closed
        if not (has_windows and closed is None and is_whole) and not _is_logged(items, trim)
    ]
    more = len(found) == DROP_CHUNK and bool(old)
    last = DecisionKey(found[-1][0]) if found else after
    return keys, Dropped(len(keys), last, more)


def has_removable_decisions(db: sqlite3.Connection, bandit: BanditRecord, before: float) -> bool:
    """Whether a bandit has decisions made before a time that may go."""
    last, more = DecisionKey(0), True
    while more:
        keys, dropped = removable_decisions(db, bandit, before, last)
        if keys:
            return True
        last, more = dropped.last, dropped.more
    return False


def _is_logged(items: bytes | None, trim: LogPosition) -> bool:
    """Whether a log row after `trim` learned a value of a decision."""
    return items is not None and any(item.latest > trim for item in unpack_items(items))
