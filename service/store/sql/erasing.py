"""Erases decisions: blanks what could identify somebody, a few decisions per transaction.

Runs on the writer thread, inside its transaction. An erased decision retains its key, its time, the
chosen actions of the catalogue and numbers, so that counts and the hash chain of the log stay true.
Its context, features, candidates, unit and the caller's ids are overwritten (`secure_delete`).

A row of `erasures` says what is asked for until all of it is done, so that the next start finishes
what a kill interrupted. `relearning` names the bandits whose models were learned from erased rows
and are not rebuilt yet; `erased` has the positions of those rows. `blanked` stays: it says when
learn rows were blanked, so that it is known of every snapshot whether it was learned from them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from bandexa_core.ids import DecisionId, DecisionKey, LogPosition
from service.store.identity import (
    MOST_PLACE,
    DecisionIds,
    bandit_of,
    first_key,
    key_at,
    place_of,
)
from service.store.records import Blanked, ErasedPart, Erasure, Relearning
from service.store.sql.codec import blank_chosen, unpack_items
from service.store.sql.database import Database
from service.store.sql.evicted import leave_sample, trim_of

AT_ONCE = 50  # decisions
BYTES_AT_ONCE = 64 << 10  # and one decision more
REWARDS_AT_ONCE = 500

_FOUND = """
SELECT d.key, d.own_id, d.chosen, l.items, length(d.context),
  length(d.context) + coalesce(length(d.candidates), 0) + coalesce(length(d.objects), 0)
  + coalesce(length(d.propensities), 0)
FROM decisions AS d LEFT JOIN ledger AS l ON l.key = d.key WHERE
"""
_OF_UNIT = f"""
{_FOUND} d.unit = ? AND (d.key & {MOST_PLACE}) <= ? AND d.key >= ? AND d.key < ? LIMIT {AT_ONCE}
"""
_BLANK = """
UPDATE decisions SET own_id = NULL, body_hash = NULL, context = ?, chosen = ?, candidates = NULL,
  schema = NULL, objects = NULL, unit = NULL, propensities = NULL,
  imported = CASE WHEN imported IS NULL THEN imported ELSE ? END WHERE key = ?
"""
_REWARDS = f"""
SELECT key, item, reward_id, reward, seq FROM rewards
WHERE key = ? AND (reward_id <> '' OR metrics IS NOT NULL) LIMIT {REWARDS_AT_ONCE}
"""
_BLANK_REWARD = """
UPDATE rewards SET reward_id = ''
WHERE key = ? AND item = ? AND reward_id = ? AND reward = ? AND seq = ?
"""
_UNLEARNED = "INSERT INTO erased VALUES (?, ?) ON CONFLICT DO NOTHING"
_ALL_KEYS = (0, (1 << 63) - 1)


class _Found(NamedTuple):
    key: DecisionKey
    own_id: str | bytes | None
    chosen: bytes
    items: bytes | None
    context_bytes: int
    num_bytes: int


class Erasing:
    """The operations of an erasure.

    Args:
        connection: The writing connection.
        ids: The ids of decisions.
        is_live: Whether the bandit of a key is not deleted.
    """

    def __init__(
        self, connection: Database, ids: DecisionIds, is_live: Callable[[int], bool]
    ) -> None:
        self._db = connection
        self._ids = ids
        self._is_live = is_live

    def begin(
        self, bandit: int | None, unit: bytes | None, ids: tuple[DecisionId, ...], until: float
    ) -> Erasure:
        """Store what is to be erased, before anything is."""
        (number,) = self._db.execute(
            "INSERT INTO erasures (bandit, unit, ids, until) VALUES (?, ?, ?, ?) RETURNING erasure",
            (bandit, unit, msgpack.packb(ids), until),
        ).fetchone()
        return Erasure(number, bandit, unit, ids, until)

    def part(self, erasure: Erasure, start: int) -> ErasedPart:
        """Erase some decisions; with the last of them the request for it is removed, too."""
        decisions = defaultdict[int, list[DecisionId]](list)
        blanked = defaultdict[int, list[int]](list)
        listed = (
            self._of_unit(erasure) if erasure.unit is not None else self._of_ids(erasure, start)
        )
        more = len(listed) == AT_ONCE
        num_bytes = done = 0
        for found in listed:
            if num_bytes > BYTES_AT_ONCE:
                more = True
                break
            if found is not None and not self._blank_rewards(found.key):
                more = True
                break
            done += 1
            if found is not None:
                num_bytes += found.num_bytes
                bandit = bandit_of(found.key)
                decisions[bandit].append(self._ids.name(found.key, found.own_id))
                self._blank(found)
                blanked[bandit] += self._unlearn(bandit, found)
        samples, more_samples = self._erase_samples(erasure, start, done, blanked)
        more = more or more_samples
        if not more:
            self._db.execute("DELETE FROM erasures WHERE erasure = ?", (erasure.number,))
        marks = [
            self._relearn(bandit, min(positions), max(positions))
            for bandit, positions in blanked.items()
            if positions and self._is_live(bandit)
        ]
        return ErasedPart(dict(decisions), samples, tuple(marks), start + done, more)

    # -- what is to be erased -----------------------------------------------------------------

    def _of_unit(self, erasure: Erasure) -> list[_Found | None]:
        newest = place_of(key_at(0, erasure.until))
        rows = self._db.execute(_OF_UNIT, (erasure.unit, newest, *_range(erasure)))
        return [_Found._make(row) for row in rows.fetchall()]

    def _of_ids(self, erasure: Erasure, start: int) -> list[_Found | None]:
        """Return the next decisions of the list; None for one that is not to be erased (again)."""
        listed: list[_Found | None] = []
        low, high = _range(erasure)
        for decision_id in erasure.ids[start : start + AT_ONCE]:
            column, value = self._ids.place(decision_id)
            row = self._db.execute(f"{_FOUND} d.{column} = ?", (value,)).fetchone()
            found = None if row is None else _Found._make(row)
            if found is not None and (not found.context_bytes or not low <= found.key < high):
                found = None
            listed.append(found)
        return listed

    # -- blanking -----------------------------------------------------------------------------

    def _blank(self, found: _Found) -> None:
        name = self._ids.name(found.key, found.own_id)
        chosen = blank_chosen(name, found.chosen)
        self._db.execute(_BLANK, (b"", chosen, b"", found.key))

    def _blank_rewards(self, key: DecisionKey) -> bool:
        """Blank the callers' ids of some rewards; False: there may be others."""
        rows = self._db.execute(_REWARDS, (key,)).fetchall()
        self._db.executemany(_BLANK_REWARD, rows)
        return len(rows) < REWARDS_AT_ONCE

    def _unlearn(self, bandit: int, found: _Found) -> list[int]:
        """Note which rows taught the values of a decision; returns the first and latest ones.

        Those of values that are void by now are among them: older snapshots have learned them. They
        have left the sample already.
        """
        items = () if found.items is None else unpack_items(found.items)
        void = self._void_origins(bandit, found.key)
        positions = [int(item.origin) for item in items if item.origin and item.origin not in void]
        for position in positions:
            leave_sample(self._db, bandit, position)
        positions += void
        for position in positions:
            if position > trim_of(self._db, bandit).position:
                self._db.execute(
                    "INSERT INTO erased VALUES (?, ?) ON CONFLICT DO NOTHING", (bandit, position)
                )
        return [*positions, *(int(item.latest) for item in items if item.origin)]

    def _void_origins(self, bandit: int, key: DecisionKey) -> list[int]:
        """Return where values of a decision were learned first that became void since."""
        rows = self._db.execute(
            "SELECT l.origin FROM amendments AS a"
            " JOIN log AS l ON l.bandit = ? AND l.position = a.position AND l.kind = 5"
            " WHERE a.key = ?",
            (bandit, key),
        )
        return [origin for (origin,) in rows]

    def _erase_samples(
        self, erasure: Erasure, start: int, done: int, blanked: dict[int, list[int]]
    ) -> tuple[int, bool]:
        """Remove sampled rows whose decision left the store; returns how many, and if more are."""
        low, high = _range(erasure)
        if erasure.unit is not None:
            rows = self._db.execute(
                "SELECT bandit, origin, key FROM sampled"
                " WHERE unit = ? AND key >= ? AND key < ? LIMIT ?",
                (erasure.unit, low, high, AT_ONCE),
            ).fetchall()
        else:
            places = [self._ids.place(each) for each in erasure.ids[start : start + done]]
            rows = [
                row
                for column, value in places
                for row in self._db.execute(
                    f"SELECT bandit, origin, key FROM sampled WHERE {column} = ?", (value,)
                ).fetchall()
            ]
        chosen = [row for row in rows if low <= row[2] < high]
        for bandit, position, _ in chosen:
            leave_sample(self._db, bandit, position)
            blanked[bandit].append(position)
        return len(chosen), erasure.unit is not None and len(chosen) == AT_ONCE

    # -- models -------------------------------------------------------------------------------

    def _relearn(self, bandit: int, first: int, last: int) -> Relearning:
        """Note that a bandit's model has to be rebuilt without the rows from `first` on."""
        (number,) = self._db.execute(
            "SELECT 1 + coalesce(max(number), 0) FROM blanked WHERE bandit = ?", (bandit,)
        ).fetchone()
        self._db.execute(
            "DELETE FROM blanked WHERE bandit = ? AND first >= ? AND last <= ?",
            (bandit, first, last),
        )
        self._db.execute("INSERT INTO blanked VALUES (?, ?, ?, ?)", (bandit, number, first, last))
        row = self._db.execute(
            "INSERT INTO relearning VALUES (?, ?, ?) ON CONFLICT (bandit) DO UPDATE SET"
            " first = CASE WHEN relearning.first < excluded.first THEN relearning.first"
            " ELSE excluded.first END, changes = excluded.changes RETURNING first",
            (bandit, first, number),
        ).fetchone()
        return Relearning(bandit, LogPosition(row[0]), number)

    def relearned(self, mark: Relearning) -> None:
        """Note that the model was rebuilt; nothing where more was erased since it was begun."""
        self._db.execute(
            "DELETE FROM relearning WHERE bandit = ? AND changes = ?", (mark.bandit, mark.changes)
        )


def open_erasures(db: Any) -> list[Erasure]:
    """Return the erasures that are not done."""
    rows = db.execute("SELECT erasure, bandit, unit, ids, until FROM erasures ORDER BY erasure")
    return [
        Erasure(number, bandit, unit, tuple(map(DecisionId, msgpack.unpackb(ids))), until)
        for number, bandit, unit, ids, until in rows.fetchall()
    ]


def open_relearning(db: Any) -> list[Relearning]:
    """Return the bandits whose models have to be rebuilt."""
    rows = db.execute("SELECT bandit, first, changes FROM relearning ORDER BY bandit")
    return [Relearning(bandit, LogPosition(first), changes) for bandit, first, changes in rows]


def blanked_times(db: Any, bandit: int | None) -> list[Blanked]:
    """Return when learn rows were blanked, of one bandit or of all."""
    rows = db.execute(
        "SELECT bandit, number, first, last FROM blanked WHERE bandit = coalesce(?, bandit)"
        " ORDER BY bandit, number",
        (bandit,),
    )
    return [Blanked._make(row) for row in rows]


def _range(erasure: Erasure) -> tuple[int, int]:
    if erasure.bandit is None:
        return _ALL_KEYS
    return first_key(erasure.bandit), first_key(erasure.bandit + 1)
