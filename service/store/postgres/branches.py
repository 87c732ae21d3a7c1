"""Tells whether a database still has the rows that a process has followed.

A database that is restored from a backup, or whose standby takes over that was behind, goes on from
an earlier row: the log has branched. A model of the lost branch must decide nothing more. `keep_v2`
refuses what it decides; after an outage the ends of the logs are compared here.
"""

from __future__ import annotations

from collections.abc import Iterable

from service.store.postgres.connection import Session

WHY_LOST = "it was restored, or a standby that was behind took over; models are built anew"
_HASH = """
SELECT hash FROM log WHERE bandit = $1 AND position = $2 UNION ALL
SELECT hash FROM trims WHERE bandit = $1 AND position = $2
"""
_IS_TRIMMED = "SELECT 1 FROM trims WHERE bandit = $1 AND position > $2"
_IS_LIVE = "SELECT 1 FROM bandits WHERE bandit = $1 AND deleted IS NULL"


def lost_row(session: Session, ends: Iterable[tuple[int, tuple[int, bytes]]]) -> int | None:
    """Return the position of a row that the log of a live bandit does not have; None: it has all.

    What retention has removed is not looked for: other servers may have appended, and trimmed, much
    since this one did.

    Args:
        session: A connection.
        ends: Rows that were there, by the keys of their bandits: positions and hashes.
    """
    for bandit, (position, digest) in ends:
        found = session.fetch(_HASH, bandit, position)
        if found and found[0][0] == digest:
            continue
        if not found and session.fetch(_IS_TRIMMED, bandit, position):
            continue
        if session.fetch(_IS_LIVE, bandit):
            return position
    return None
