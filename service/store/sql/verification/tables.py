"""Reads the tables row by row, as they are, without trusting them.

Used by one thread. Each call is a short transaction, or part of the one that `moment` holds open,
so that rows of several tables belong together although a server writes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import DecisionKey
from bandexa_core.log.configurations import Configurations
from service.store.errors import StoreDamaged
from service.store.identity import DecisionIds, bandit_of, first_key
from service.store.records import BanditRecord, Trim
from service.store.sql.database import Database
from service.store.sql.evicted import trim_of
from service.store.sql.log_rows import LOG_ROWS, StoredRow, config_rows

_LEDGER = """
SELECT l.key, l.version, l.rewards, l.activated, l.closed, l.items, d.own_id, d.chosen, d.position,
  d.activated, d.propensities, l.matures, d.imported IS NOT NULL
FROM ledger AS l LEFT JOIN decisions AS d ON d.key = l.key
WHERE l.key > ? ORDER BY l.key LIMIT ?
"""
_REWARDS = """
SELECT key, item, reward, seq, status, metrics FROM rewards WHERE key > ? AND key <= ?
ORDER BY key, seq
"""
_AMENDMENTS = """
SELECT key, number, item, before, after, position FROM amendments WHERE key > ? AND key <= ?
ORDER BY key, number, item
"""
_WINDOWS = """
SELECT w.closes, w.key, d.key IS NOT NULL, l.closed FROM windows AS w
LEFT JOIN decisions AS d ON d.key = w.key LEFT JOIN ledger AS l ON l.key = w.key
WHERE (w.closes, w.key) > (?, ?) ORDER BY w.closes, w.key LIMIT ?
"""
_MATURING = """
SELECT m.key FROM maturing AS m
LEFT JOIN decisions AS d ON d.key = m.key LEFT JOIN ledger AS l ON l.key = m.key
WHERE d.key IS NULL OR l.closed IS NOT NULL OR l.matures IS NOT NULL ORDER BY m.key
"""
_NOT_CLOSED = """
SELECT d.key, d.position FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key
WHERE d.key > ? AND d.key < ? AND l.closed IS NULL AND length(d.context) > 0
ORDER BY d.key LIMIT ?
"""
_LAST_KEY = (1 << 63) - 1


class LedgerFound(NamedTuple):
    """A ledger row, with its decision.

    Attributes:
        version: How many steps it counts.
        num_rewards: How many rewards it counts.
        activated, closed: Times, None where that did not happen.
        items: As they are stored.
        decision_id: None where there is no such decision.
        chosen, decided_at: Those of the decision; `decided_at` is its position.
        active: Whether rewards count from the start.
        propensities: Those of all candidates, as they are stored.
        matured: A time, None where it was not mature before its window closed.
        imported: Whether the decision was made elsewhere.
    """

    key: DecisionKey
    version: int
    num_rewards: int
    activated: float | None
    closed: float | None
    items: bytes
    decision_id: str | None
    chosen: bytes | None
    decided_at: int | None
    active: bool
    propensities: bytes | None
    matured: float | None
    imported: bool

    @property
    def bandit(self) -> int:
        """The key of its bandit."""
        return bandit_of(self.key)


class RewardFound(NamedTuple):
    """A reported reward; `seq` is its number among those of the decision, from 1."""

    key: DecisionKey
    item: int
    reward: float
    seq: int
    status: str
    metrics: bytes | None


class AmendmentFound(NamedTuple):
    """What an administrator did to a value; see `Amendment`."""

    key: DecisionKey
    number: int
    item: int
    before: float | None
    after: float | None
    position: int | None


class WindowFound(NamedTuple):
    """An open window: whether its decision is stored, and when the ledger says it was closed."""

    closes: float
    key: DecisionKey
    has_decision: bool
    closed: float | None


class FirstRow(NamedTuple):
    """The log row that an item of the ledger names as the first to learn its value."""

    key: int | None
    item: int | None
    before: float | None
    after: float | None


class Tables:
    """A read-only view of the tables.

    Args:
        connection: Is used for nothing else, and closed with the view.
        ids: Reads the ids of the store's decisions.
    """

    def __init__(self, connection: Database, ids: Callable[[], DecisionIds]) -> None:
        self._db = connection
        self._read_ids = ids

    @cached_property
    def _ids(self) -> DecisionIds:
        return self._read_ids()

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Read one state of the database until the exit."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    # -- the log ------------------------------------------------------------------------------

    def log_rows(self, bandit: int, after: int, most: int) -> list[StoredRow]:
        """Return the next rows of a log after a position."""
        rows = self._db.execute(LOG_ROWS, (bandit, after, _LAST_KEY, most)).fetchall()
        return [StoredRow._make(row) for row in rows]

    def trim(self, bandit: int) -> Trim:
        """Return where the log of a bandit begins."""
        return trim_of(self._db, bandit)

    def name(self, row: StoredRow) -> str:
        """Return the decision id of a learn row; its key where there is no such decision."""
        if row.chosen is None:
            return f"at key {row.key}"
        return self._ids.name(DecisionKey(row.key), row.own_id)

    def ledger_items(self, key: int) -> bytes | None:
        """Return the items of a decision's ledger row as they are stored, None without one."""
        found = self._db.execute("SELECT items FROM ledger WHERE key = ?", (key,)).fetchone()
        return None if found is None else bytes(found[0])

    def metrics_at(self, bandit: int, position: int) -> bytes | None:
        """Return the metrics of the learn row at a position, as they are stored."""
        found = self._db.execute(
            "SELECT payload FROM log WHERE bandit = ? AND position = ? AND kind = 1",
            (bandit, position),
        ).fetchone()
        return None if found is None else found[0]

    def first_row(self, bandit: int, position: int) -> FirstRow:
        """Return the learn row at a position; all None where there is none."""
        found = self._db.execute(
            "SELECT key, item, before, after FROM log WHERE bandit = ? AND position = ?"
            " AND kind = 1",
            (bandit, position),
        ).fetchone()
        return FirstRow(None, None, None, None) if found is None else FirstRow._make(found)

    # -- the ledger and rewards ---------------------------------------------------------------

    def ledger(self, after: int, most: int) -> list[LedgerFound]:
        """Return the next ledger rows after a key."""
        found = []
        for row in self._db.execute(_LEDGER, (after, most)).fetchall():
            own_id, chosen, decided_at, active, propensities, matured, imported = row[6:]
            name = None if chosen is None else self._ids.name(DecisionKey(row[0]), own_id)
            ending = (
                name, chosen, decided_at, bool(active), propensities, matured, bool(imported)
            )  # fmt: skip
            found.append(LedgerFound._make((*row[:6], *ending)))
        return found

    def rewards(self, after: int, up_to: int | None) -> list[RewardFound]:
        """Return the rewards of the decisions with keys in (after, up_to]; None: all later ones."""
        rows = self._db.execute(_REWARDS, (after, _LAST_KEY if up_to is None else up_to))
        return [RewardFound._make(row) for row in rows.fetchall()]

    def amendments(self, after: int, up_to: int | None) -> list[AmendmentFound]:
        """Return the amendments of the decisions with keys in (after, up_to]; see `rewards`."""
        rows = self._db.execute(_AMENDMENTS, (after, _LAST_KEY if up_to is None else up_to))
        return [AmendmentFound._make(row) for row in rows.fetchall()]

    def void_row(self, bandit: int, position: int | None) -> tuple[int, int, int, float] | None:
        """Return key, item, origin and value of the row at a position that voids a value."""
        found = self._db.execute(
            "SELECT key, item, origin, before FROM log WHERE bandit = ? AND position = ?"
            " AND kind = 5",
            (bandit, position),
        ).fetchone()
        return None if found is None else (found[0], found[1], found[2], found[3])

    def voided_by(self, bandit: int, origin: int) -> int | None:
        """Return the position of the row that voids the value first learned at `origin`."""
        found = self._db.execute(
            "SELECT position FROM log WHERE bandit = ? AND origin = ? AND kind = 5",
            (bandit, origin),
        ).fetchone()
        return None if found is None else int(found[0])

    def windows(self, after: tuple[float, int], most: int) -> list[WindowFound]:
        """Return the next open windows after (closes, key)."""
        rows = self._db.execute(_WINDOWS, (*after, most)).fetchall()
        return [
            WindowFound(closes, DecisionKey(key), bool(known), closed)
            for closes, key, known, closed in rows
        ]

    def wrongly_maturing(self) -> list[DecisionKey]:
        """Return what waits to be mature although it is closed, mature already, or gone."""
        return [DecisionKey(key) for (key,) in self._db.execute(_MATURING)]

    def open_windows(self, bandit: int) -> NDArray[np.int64]:
        """Return the keys of a bandit's decisions with an open window."""
        bounds = first_key(bandit), first_key(bandit + 1)
        rows = self._db.execute("SELECT key FROM windows WHERE key >= ? AND key < ?", bounds)
        return np.fromiter((key for (key,) in rows), np.int64)

    def not_closed(self, bandit: int, after: int, most: int) -> NDArray[np.int64]:
        """Return the next decisions of a bandit whose window was not closed: keys, positions.

        It is (N, 2), in the order of keys.
        """
        after = max(after, first_key(bandit) - 1)
        rows = self._db.execute(_NOT_CLOSED, (after, first_key(bandit + 1), most))
        return np.array(rows.fetchall(), np.int64).reshape(-1, 2)

    def configurations(self, record: BanditRecord) -> Configurations:
        """Return the configurations of a bandit; where a change is damaged, the first one.

        The damage itself is found in the log.
        """
        try:
            return Configurations(record.spec, config_rows(self._db, record.key))
        except StoreDamaged:
            return Configurations(record.spec)
