"""The writing connection as the operations see it: writes of reports wait, and go as one statement.

The operations insert into the tables of decisions, reports and the log. Those inserts are collected
here. At the end of a group they are one call of `keep_v2` and `append_v1`, one autocommit
statement, so that no lock is held while the database waits for this process. Any other statement
that has to see or follow what was collected opens a transaction first, and the group ends with its
commit. Used on the writer thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from bandexa_core.ids import LogPosition
from service.store.hashing import GENESIS_HASH
from service.store.postgres.connection import Found, Session
from service.store.postgres.faults import LogMoved
from service.store.postgres.statements import as_text

_COLLECTED = re.compile(
    r"\s*INSERT (?:OR REPLACE )?INTO (ledger|rewards|log|windows|maturing|metrics|delays) VALUES\b"
)
_ENDED = re.compile(r"\s*DELETE FROM (windows|maturing) WHERE \w+ = \? AND key = \?\s*$")
_SAMPLE = "UPDATE evicted SET value = ?, metrics = ? WHERE bandit = ? AND origin = ?"
_COLUMNS = {
    "ledger": 7, "rewards": 8, "log": 14, "windows": 2, "maturing": 2, "metrics": 4, "delays": 2,
}  # fmt: skip
_BEGIN_DURABLE = "BEGIN; SET LOCAL synchronous_commit = on"
# A commit waits only for what its own transaction has written: so it writes something.
_COMMIT_DURABLE = "SELECT pg_logical_emit_message(true, 'bandexa', ''); COMMIT"
_KEEP = "SELECT keep_v2($1, $2, $3, $4)"
_APPEND = "SELECT append_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_BOTH = (
    "SELECT keep_v2($1, $2, $3, $4),"
    " append_v1($5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
)  # fmt: skip


class WritingDatabase:
    """See `sql.database.Database`.

    Args:
        session: The connection; replaced after it was lost.
        is_asynchronous: Whether its commits wait for nothing, but for those of transactions.

    Attributes:
        session: As given.
        heads: The ends of the logs as they are committed, where they are known: position, hash.
        moved: Those that the last commit has moved.
        is_durable: Whether the last commit was one of a transaction.
    """

    def __init__(self, session: Session, *, is_asynchronous: bool = False) -> None:
        self.session = session
        self.moved: dict[int, tuple[int, bytes]] = {}
        self.is_durable = False
        self._begin = _BEGIN_DURABLE if is_asynchronous else "BEGIN"
        self._end = _COMMIT_DURABLE if is_asynchronous else "COMMIT"
        self.heads: dict[int, tuple[int, bytes]] = {}
        self._moved: dict[int, tuple[int, bytes]] = {}
        self._sent: set[int] = set()  # ledger rows, within the transaction
        self._in_transaction = False
        self._kinds: dict[str, tuple[str, bool] | None] = {}
        self._clear()

    def _clear(self) -> None:
        self._decisions: list[tuple[Any, ...]] = []
        self._drawn: set[tuple[int, LogPosition, bytes]] = set()
        self._opened: list[tuple[float, int]] = []
        self._waiting: list[tuple[float, int]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._steps: dict[int, tuple[Any, ...]] = {}
        self._versions: dict[int, int] = {}
        self._rewards: list[tuple[Any, ...]] = []
        self._closed: list[tuple[Any, ...]] = []
        self._matured: list[tuple[Any, ...]] = []
        self._totals: list[tuple[Any, ...]] = []
        self._sampled: dict[tuple[int, int], tuple[Any, ...]] = {}  # the newest of each
        self._late: list[tuple[Any, ...]] = []

    # -- as the operations use it -------------------------------------------------------------

    def execute(self, sql: str, parameters: Any = (), /) -> Found:
        """Collect an insert; run any other statement, behind what was collected."""
        if self._collect(sql, (parameters,)):
            return Found((), -1)
        if self._is_waiting or not sql.lstrip().startswith("SELECT"):
            self._enter()
            self._send()
        return self.session.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> None:
        """Collect inserts; run any other statement, behind what was collected."""
        rows = list(parameters)
        if not rows or self._collect(sql, rows):
            return
        self._enter()
        self._send()
        self.session.executemany(sql, rows)

    def hold(self, sql: str, parameters: Any) -> bool:
        """Begin a transaction, and return what a condition is in it."""
        self._enter()
        return bool(self.session.execute(sql, parameters).fetchone()[0])

    def is_live(self, bandit: int) -> bool:
        """Whether a bandit is there, and not deleted."""
        sql = "SELECT 1 FROM bandits WHERE bandit = $1 AND deleted IS NULL"
        return bool(self.session.fetch(sql, bandit))

    def barrier(self) -> None:
        """Make all that was committed before durable with the running transaction."""
        self._enter()
        self._send()
        self.session.script("SET LOCAL synchronous_commit = on")
        self.session.script("SELECT pg_logical_emit_message(true, 'bandexa', '')")

    def close(self) -> None:
        """Close the connection."""
        self.session.close()

    def keep(
        self, rows: list[tuple[Any, ...]], drawn: AbstractSet[tuple[int, LogPosition, bytes]]
    ) -> None:
        """Collect decisions; `commit` returns the keys of those whose id is stored already.

        `drawn`: the log rows that they were drawn at: bandits, positions and hashes.
        """
        self._decisions += rows
        self._drawn |= drawn

    def stepped_from(self, versions: dict[int, int]) -> None:
        """Note the versions of ledger rows as they were read: they must not have moved on.

        Those of rows that this transaction has sent already are not compared.
        """
        for key, version in versions.items():
            if key not in self._sent:
                self._versions.setdefault(key, version)

    def kept(self) -> frozenset[int]:
        """Send the decisions within a transaction; returns the keys of those stored already."""
        self._enter()
        return self._send()

    def commit(self) -> frozenset[int]:
        """Commit the group; returns the keys of decisions whose id is stored already."""
        refused = self._send()
        self.is_durable = self._in_transaction
        if self._in_transaction:
            self.session.script(self._end)
            self._in_transaction = False
        self.heads.update(self._moved)
        self.moved, self._moved = self._moved, {}
        self._sent.clear()
        return refused

    def roll_back(self) -> None:
        """Forget what was collected, and roll a transaction back."""
        self._clear()
        self._sent.clear()
        self.heads.clear()
        self._moved.clear()
        if self._in_transaction:
            self._in_transaction = False
            if not self.session.is_closed:
                self.session.script("ROLLBACK")

    # -- inside -------------------------------------------------------------------------------

    @property
    def _is_waiting(self) -> bool:
        return bool(
            self._decisions or self._rows or self._steps or self._rewards or self._closed
            or self._matured or self._totals or self._sampled or self._late or self._opened
            or self._waiting
        )  # fmt: skip

    def _enter(self) -> None:
        if not self._in_transaction:
            self.session.script(self._begin)
            self._in_transaction = True

    def _collect(self, sql: str, rows: Iterable[Any]) -> bool:
        """Keep the rows of an insert, or of what replaces one; False: it is another statement."""
        kind = self._kinds.get(sql)
        if kind is None and sql not in self._kinds:
            kind = self._kinds[sql] = _kind_of(sql)
        if kind is None:
            return False
        table, is_insert = kind
        if table == "evicted":
            for value, metrics, bandit, origin in rows:
                row = (bandit, origin, 0, 0, value + 0.0, b"", b"", 0, metrics)
                self._sampled[bandit, origin] = row
            return True
        if not is_insert:
            ended = self._closed if table == "windows" else self._matured
            ended += [tuple(row) for row in rows]
            return True
        num = _COLUMNS[table]
        for values in rows:
            for first in range(0, len(values), num):
                self._add(table, tuple(values[first : first + num]))
        return True

    def _add(self, table: str, row: tuple[Any, ...]) -> None:
        if table == "log":
            self._rows.append(row)
        elif table == "ledger":
            self._steps[row[0]] = row
        elif table == "rewards":
            self._rewards.append(row)
        elif table == "windows":
            self._opened.append((row[0], row[1]))
        elif table == "maturing":
            self._waiting.append((row[0], row[1]))
        elif table == "metrics":
            self._totals.append(row)
        else:
            self._late.append(row)

    def _send(self) -> frozenset[int]:
        """Send what was collected, as one statement."""
        if not self._is_waiting:
            return frozenset()
        keep = (self._decisions, self._opened, self._waiting, list(self._drawn))
        append = self._appended()
        try:
            if append is None:
                ((refused,),) = self.session.fetch(_KEEP, *keep)
            elif not self._decisions and not self._opened and not self._waiting:
                self.session.fetch(_APPEND, *append)
                refused = ()
            else:
                ((refused, _),) = self.session.fetch(_BOTH, *keep, *append)
        finally:
            self._clear()
        return frozenset(refused)

    def _appended(self) -> tuple[Any, ...] | None:
        """Return the arguments of `append_v1`, None where there is nothing for it."""
        if not (
            self._rows or self._steps or self._rewards or self._closed or self._matured
            or self._totals or self._sampled or self._late
        ):  # fmt: skip
            return None
        before, after = self._ends()
        keys = list(self._steps)
        if self._in_transaction:
            self._sent.update(keys)
        return (
            before, after, self._rows, list(self._steps.values()),
            [self._versions.get(key) for key in keys], self._rewards, self._closed,
            self._matured, sorted(self._totals, key=_place_of_total),
            list(self._sampled.values()), self._late,
        )  # fmt: skip

    def _ends(self) -> tuple[list[tuple[int, int, bytes]], list[tuple[int, int, bytes]]]:
        """Return the ends of the logs before and after the rows, by bandit."""
        last = {row[0]: (row[1], row[13]) for row in self._rows}
        first = {row[0]: row[1] for row in reversed(self._rows)}
        before = []
        for bandit in sorted(last):
            position, digest = self._head(bandit)
            if position != first[bandit] - 1:  # read behind what the rows were made from
                raise LogMoved(f"the log of bandit {bandit} moved on to {position}")
            before.append((bandit, position, digest))
        self._moved.update(last)
        return before, [(bandit, *last[bandit]) for bandit in sorted(last)]

    def _head(self, bandit: int) -> tuple[int, bytes]:
        known = self._moved.get(bandit) or self.heads.get(bandit)
        if known is None:
            found = self.session.fetch("SELECT position, hash FROM heads WHERE bandit = $1", bandit)
            known = (found[0][0], found[0][1]) if found else (0, GENESIS_HASH)
            self.heads[bandit] = known
        return known


def _place_of_total(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return bandit and name: servers lock the totals of metrics in one order."""
    return row[:2]


def _kind_of(sql: str) -> tuple[str, bool] | None:
    if sql == _SAMPLE:
        return "evicted", False
    if (found := _ENDED.match(sql)) is not None:
        return found[1], False
    found = _COLLECTED.match(sql)
    return None if found is None or "RETURNING" in sql else (found[1], True)


def own_id_text(own_id: str | bytes | None) -> str | None:
    """Return a caller's id as its column has it."""
    text: str | None = as_text(own_id)
    return text
