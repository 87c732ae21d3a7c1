"""Migrates schema 4 (releases 0.1 and 0.2) to schema 5.

Decisions get a key, and their ids stay what they were. Log rows keep their hashes, and each is a
group of its own, so that snapshots still belong to the log. Outcomes, activations and closed
windows become ledger rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from bandexa_core.ids import LogPosition
from bandexa_core.log import contract
from bandexa_core.spec import BanditSpec, RewardSpec
from service.store.errors import StoreDamaged
from service.store.identity import TIME_BITS, pack_own_id
from service.store.sql.codec import LEGACY, NEW_ITEM, StoredItem, chosen_ids, pack_items
from service.store.sqlite.tables import create_tables

_OLD = ("decisions", "rewards", "windows", "log", "outcomes", "activations")
_KEY = f"(d.bandit << {TIME_BITS}) | d.rowid"
_COPIES = (
    f"""
    INSERT INTO decisions SELECT {_KEY}, pack_own_id(decision_id), time, body_hash, context, chosen,
      candidates, snapshot, position, propensity, activated, explored, std, NULL, NULL, NULL, NULL,
      NULL, NULL
    FROM old_decisions AS d ORDER BY d.bandit, d.rowid
    """,
    f"""
    INSERT INTO rewards SELECT {_KEY}, r.item, coalesce(r.reward_id, ''), r.reward,
      row_number() OVER (PARTITION BY r.decision_id ORDER BY r.rowid), r.status, r.time, NULL
    FROM old_rewards AS r JOIN old_decisions AS d ON d.decision_id = r.decision_id
    """,
    f"""
    INSERT INTO log SELECT l.bandit, l.position, l.kind, l.time, {_KEY}, l.item, l.origin, l.before,
      l.after, NULL, NULL, l.payload, {LEGACY}, l.hash
    FROM old_log AS l LEFT JOIN old_decisions AS d ON d.decision_id = l.decision_id
    ORDER BY l.bandit, l.position
    """,
)
_OPEN = """
old_windows AS w JOIN old_decisions AS d ON d.decision_id = w.decision_id WHERE w.closed IS NULL
"""
_POSTPONED = f"""
SELECT max(w.closes - (d.time + (
  SELECT json_extract(spec, '$.rewards.reward_window_s') FROM bandits AS b
  WHERE b.bandit = d.bandit))) FROM {_OPEN}
"""
_REPORTED = f"""
SELECT {_KEY}, d.decision_id, d.bandit, d.chosen, a.time, w.closed FROM old_decisions AS d
LEFT JOIN old_activations AS a ON a.decision_id = d.decision_id
LEFT JOIN old_windows AS w ON w.decision_id = d.decision_id
WHERE a.time IS NOT NULL OR w.closed IS NOT NULL
  OR EXISTS (SELECT 1 FROM old_outcomes AS o WHERE o.decision_id = d.decision_id)
  OR EXISTS (SELECT 1 FROM old_rewards AS r WHERE r.decision_id = d.decision_id)
ORDER BY d.bandit, d.rowid
"""


def migrate(db: sqlite3.Connection) -> None:
    """Migrate the tables, in the caller's transaction."""
    for table in _OLD:
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    db.execute("DROP INDEX log_changes")
    db.create_function("pack_own_id", 1, pack_own_id, deterministic=True)
    create_tables(db)
    for statement in _COPIES:
        db.execute(statement)
    _copy_windows(db)
    db.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, NULL)", _ledger(db))
    for table in _OLD:
        db.execute(f"DROP TABLE old_{table}")


def _copy_windows(db: sqlite3.Connection) -> None:
    """Copy the open windows, in service time (see `windows`).

    Schema 4 postponed each by the time that nobody watched. In service time a window closes no
    later than its length after the decision: the offset is at least what any was postponed by.
    """
    (postponed,) = db.execute(_POSTPONED).fetchone()
    offset = postponed + 1.0 if postponed is not None and postponed > 0.0 else 0.0
    db.execute(f"INSERT INTO windows SELECT w.closes - ?, {_KEY} FROM {_OPEN}", (offset,))
    if offset:
        db.execute("INSERT INTO meta VALUES ('service_time_offset', ?)", (offset,))


def _ledger(db: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    rules = _rules(db)
    for key, name, bandit, chosen, activated, closed in db.execute(_REPORTED):
        rewards = db.execute(
            "SELECT item, reward, status FROM old_rewards WHERE decision_id = ? ORDER BY rowid",
            (name,),
        ).fetchall()
        outcomes = db.execute(
            "SELECT item, origin, value, latest FROM old_outcomes WHERE decision_id = ?", (name,)
        ).fetchall()
        items = [NEW_ITEM] * _num_items(name, chosen, (row[0] for row in (*rewards, *outcomes)))
        for item, reward, status in rewards:
            if status in contract.COUNTED and item < len(items):
                items[item] = _counted(items[item], reward, rules[bandit])
        for item, origin, value, latest in outcomes:
            if item < len(items):
                state = replace(items[item].state, value=value)
                items[item] = StoredItem(state, LogPosition(origin), LogPosition(latest))
        version = len(rewards) + (activated is not None) + (closed is not None)
        yield key, version, len(rewards), activated, closed, pack_items(items)


def _rules(db: sqlite3.Connection) -> dict[int, RewardSpec]:
    """Return how each bandit takes rewards.

    Raises:
        StoreDamaged: A configuration is not what was written.
    """
    rules = {}
    for bandit, name, spec in db.execute("SELECT bandit, name, spec FROM bandits").fetchall():
        try:
            rules[bandit] = BanditSpec.from_json(json.loads(spec)).rewards
        except (ValueError, TypeError, LookupError) as error:
            raise StoreDamaged(
                f"bandit {name}: its configuration is not what was written"
            ) from error
    return rules


def _num_items(name: str, chosen: bytes, reported: Iterable[int]) -> int:
    """Return how many actions a decision chose; a damaged one, as many as were reported on.

    What is damaged before the migration is so after it: its bandit alone cannot be served, and
    verification finds it.
    """
    try:
        return len(chosen_ids(name, chosen))
    except StoreDamaged:
        return max(reported, default=-1) + 1


def _counted(item: StoredItem, reward: float, rules: RewardSpec) -> StoredItem:
    return replace(item, state=contract.counted(item.state, reward, rules))
