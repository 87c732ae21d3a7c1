"""What retention may remove: asked by readers before, and by the writer as it removes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from bandexa_core.ids import DecisionKey, LogPosition
from bandexa_core.log.configurations import Configurations
from service.store.hashing import MAX_GROUP
from service.store.identity import first_key, is_older
from service.store.records import BanditRecord
from service.store.sql.codec import unpack_items
from service.store.sql.database import Database
from service.store.sql.evicted import trim_of

DROP_CHUNK = 500
_COLUMNS = "d.key, d.time, l.closed, l.items, length(d.context), d.position"
_OLD_DECISIONS = f"""
SELECT {_COLUMNS} FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key
WHERE d.key > ? AND d.key < ? ORDER BY d.key LIMIT ?
"""
_HELD_BACK = f"""
SELECT DISTINCT {_COLUMNS} FROM log AS r
JOIN ledger AS l ON l.key = r.key JOIN decisions AS d ON d.key = r.key
WHERE r.bandit = ? AND r.kind = 1 AND r.position <= ? AND r.key <= ?
"""


class OldDecision(NamedTuple):
    """A decision that may have to go.

    Attributes:
        key: Its key.
        time: When it was made.
        closed: When its reward window was closed, or None.
        items: Its packed items, if something was reported about it.
        content: The size of its context; an erased decision has none.
        position: Of the model that made it.
    """

    key: DecisionKey
    time: float
    closed: float | None
    items: bytes | None
    content: int | None
    position: int


def last_removable(db: Database, bandit: int, up_to: LogPosition) -> LogPosition:
    """Return the last position up to which log rows may go; one at the trim point: none may.

    The newest row of a log never goes.
    """
    head = db.execute("SELECT max(position) FROM log WHERE bandit = ?", (bandit,)).fetchone()
    return LogPosition(min(up_to, (head[0] or 0) - 1))


def group_end(
    db: Database, bandit: int, after: LogPosition, up_to: LogPosition
) -> LogPosition | None:
    """Return the last position in (after, up_to] at which a group ends, and has a hash."""
    (end,) = db.execute(
        "SELECT max(position) FROM log WHERE bandit = ? AND position > ? AND position <= ?"
        " AND ends <> 0",
        (bandit, max(after, up_to - 2 * MAX_GROUP), up_to),
    ).fetchone()
    return None if end is None else LogPosition(end)


def has_removable_rows(db: Database, bandit: int, up_to: LogPosition) -> bool:
    """Whether a log has rows up to a position that may go."""
    trim, last = trim_of(db, bandit).position, last_removable(db, bandit, up_to)
    return last > trim and group_end(db, bandit, trim, last) is not None


def old_decisions(
    db: Database,
    bandit: BanditRecord,
    known: Configurations,
    before: DecisionKey,
    after: DecisionKey,
    most: int = DROP_CHUNK,
) -> list[OldDecision]:
    """Return the oldest decisions behind `after`, up to the first one that is young or open.

    Args:
        db: A connection.
        bandit: The bandit.
        known: Its configurations.
        before: The smallest key that stays.
        after: The key behind which they begin.
        most: How many at most.
    """
    start, end = max(after, first_key(bandit.key) - 1), min(before, first_key(bandit.key + 1))
    found = db.execute(_OLD_DECISIONS, (start, end, most)).fetchall()
    return list(
        itertools.takewhile(
            lambda row: is_older(row.key, row.time, before) and not _is_open(known, row),
            map(OldDecision._make, found),
        )
    )


def held_back(
    db: Database, bandit: BanditRecord, up_to: LogPosition, through: DecisionKey
) -> list[OldDecision]:
    """Return the decisions up to a key that learn rows up to a position refer to."""
    found = db.execute(_HELD_BACK, (bandit.key, up_to, through)).fetchall()
    return list(map(OldDecision._make, found))


def removable(
    known: Configurations, decisions: Iterable[OldDecision], trim: LogPosition
) -> list[tuple[DecisionKey]]:
    """Return the keys of those that neither a window nor a log row after `trim` needs."""
    return [
        (each.key,)
        for each in decisions
        if not _is_open(known, each) and not _is_logged(each.items, trim)
    ]


def _is_open(known: Configurations, decision: OldDecision) -> bool:
    """Whether its reward window is open, if it has one; an erased one is never closed."""
    has_window = known.rules(decision.position).reward_window_s is not None
    return has_window and decision.closed is None and bool(decision.content)


def _is_logged(items: bytes | None, trim: LogPosition) -> bool:
    """Whether a log row after `trim` learned a value of a decision."""
    return items is not None and any(item.latest > trim for item in unpack_items(items))
