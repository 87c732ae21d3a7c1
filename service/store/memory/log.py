"""The log of one bandit: its groups in order, less the rows that retention removed.

Learn rows that one commit appends one after the other form a group, up to `MAX_GROUP` of them; any
other row is a group of its own. The hash follows `hashing`, as in every store.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey, LogPosition
from bandexa_core.log.bounds import MEMORY
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.rows import ConfigRow, ErasedRow, Group, LearnRow, LogRow, VoidRow
from bandexa_core.spec import BanditSpec
from service.store.hashing import (
    AS_BLOCK,
    GENESIS_HASH,
    KIND_LEARN,
    KIND_VOID,
    MAX_GROUP,
    ROW_BY_ROW,
    group_hash,
    leaf_hash,
    learned_content,
    rule_of,
    void_content,
)


class LearnedRow(NamedTuple):
    """A learn row, with the decision and the chosen action whose value it learned."""

    row: LearnRow
    key: DecisionKey
    item: int


class ChangeRow(NamedTuple):
    """A row of another kind, with what its hash covers."""

    row: LogRow
    payload: bytes


class HeldVoid(NamedTuple):
    """A row that voids the value of a chosen action."""

    row: VoidRow
    key: DecisionKey
    item: int


HeldRow = LearnedRow | ChangeRow | HeldVoid


class HeldGroup(NamedTuple):
    """The rows of a group, its rule, and the hash of the log up to its end."""

    rows: tuple[HeldRow, ...]
    rule: int
    hash: bytes

    @property
    def position(self) -> LogPosition:
        """The position of the last row."""
        return self.rows[-1].row.position

    def group(self) -> Group:
        """Return the group as readers get it."""
        return Group(tuple(map(_readable, self.rows)), self.rule == AS_BLOCK, self.hash)


def _readable(held: HeldRow) -> LogRow:
    """Return a row as readers get it."""
    row = held.row
    if isinstance(row, LearnRow) and not row.context.size:
        return ErasedRow(row.position, row.time)
    return row


class HeldLog:
    """A log.

    Attributes:
        head: The position of the newest row, 0 for an empty log.
        groups: The groups that are complete, in order.
    """

    def __init__(self) -> None:
        self.head = LogPosition(0)
        self.groups: list[HeldGroup] = []
        self._hash = GENESIS_HASH  # up to the newest complete group
        self._open: list[LearnedRow] = []  # rows that wait for the end of their group
        self._leaves: list[bytes] = []
        self._config_rows: list[ConfigRow] = []
        self._configurations: Configurations | None = None

    # -- appending ----------------------------------------------------------------------------

    def next(self) -> LogPosition:
        """Return the position of the next row."""
        return LogPosition(self.head + 1)

    def learned(self, held: LearnedRow) -> None:
        """Append a learn row; its position is `next()`."""
        row = held.row
        content = learned_content(held.key, held.item, row)
        self._open.append(held)
        self._leaves.append(leaf_hash((row.position, KIND_LEARN, row.time, *content)))
        self.head = row.position
        if len(self._open) == MAX_GROUP:
            self.end_group()

    def changed(self, kind: int, held: ChangeRow) -> None:
        """Append a row of another kind; its position is `next()`."""
        self.end_group()
        row = held.row
        leaf = leaf_hash((row.position, kind, row.time, held.payload))
        self._add((held,), ROW_BY_ROW, [leaf])
        self.head = row.position
        if isinstance(row, ConfigRow):
            self._config_rows.append(row)
            self._configurations = None

    def voided(self, held: HeldVoid) -> None:
        """Append a row that voids a value; its position is `next()`."""
        self.end_group()
        row = held.row
        content = void_content(held.key, held.item, row)
        self._add((held,), ROW_BY_ROW, [leaf_hash((row.position, KIND_VOID, row.time, *content))])
        self.head = row.position

    def end_group(self) -> None:
        """End the open group, if there is one: at the end of a commit, or to read its rows."""
        if self._open:
            self._add(tuple(self._open), rule_of(len(self._open)), self._leaves)
            self._open, self._leaves = [], []

    def _add(self, rows: tuple[HeldRow, ...], rule: int, leaves: list[bytes]) -> None:
        self._hash = group_hash(self._hash, rule, leaves)
        self.groups.append(HeldGroup(rows, rule, self._hash))

    def remove(self, is_gone: Callable[[HeldRow], bool]) -> None:
        """Remove rows; of a group all or none are gone."""
        self.groups = [group for group in self.groups if not is_gone(group.rows[0])]

    def erase(self, key: DecisionKey, name: DecisionId) -> None:
        """Blank the contexts and features of a decision's rows; no group is open."""

        def blank(held: HeldRow) -> HeldRow:
            if not isinstance(held, LearnedRow) or held.key != key:
                return held
            nothing = held.row.action[:0]
            row = replace(held.row, decision_id=name, context=nothing, action=nothing)
            return held._replace(row=row)

        self.groups = [group._replace(rows=tuple(map(blank, group.rows))) for group in self.groups]

    # -- reading ------------------------------------------------------------------------------

    def between(self, after: int, up_to: int) -> list[HeldGroup]:
        """Return the groups that end in (after, up_to]."""
        first = bisect_right(self.groups, after, key=lambda group: group.position)
        last = bisect_right(self.groups, up_to, key=lambda group: group.position)
        return self.groups[first:last]

    def at(self, position: int) -> HeldRow | None:
        """Return the row at a position; None where it is not in the log."""
        at = bisect_left(self.groups, position, key=lambda group: group.position)
        rows = self.groups[at].rows if at < len(self.groups) else ()
        return next((held for held in rows if held.row.position == position), None)

    def hash_at(self, position: int) -> bytes | None:
        """Return the hash up to a position; None where no group of the log ends there."""
        at = bisect_left(self.groups, position, key=lambda group: group.position)
        if at < len(self.groups) and self.groups[at].position == position:
            return self.groups[at].hash
        return None

    def rows(self, after: int = 0, up_to: int | None = None) -> Iterator[HeldRow]:
        """Yield the rows of complete groups in (after, up_to], in order."""
        for held in chain.from_iterable(group.rows for group in self.groups):
            if held.row.position > after and (up_to is None or held.row.position <= up_to):
                yield held

    def learn_rows(self, after: int = 0, up_to: int | None = None) -> Iterator[LearnedRow]:
        """Yield the learn rows in (after, up_to], in order."""
        return (held for held in self.rows(after, up_to) if isinstance(held, LearnedRow))

    def newest_values(self) -> list[float]:
        """Return the newest first values, oldest first, before any row of an open group.

        Those that are void are left out.
        """
        end = self.groups[-1].position if self.groups else 0
        void = {held.row.origin for held in self.voids()}
        rows = (held.row for held in self.learn_rows(after=end - MEMORY))
        return [row.after for row in rows if row.before is None and row.position not in void]

    def voids(self, after: int = 0, up_to: int | None = None) -> Iterator[HeldVoid]:
        """Yield the rows in (after, up_to] that void values, in order."""
        return (held for held in self.rows(after, up_to) if isinstance(held, HeldVoid))

    def configurations(
        self, created: BanditSpec, up_to: LogPosition | None = None
    ) -> Configurations:
        """Return the configurations of the bandit, up to a position; None: up to the end."""
        if up_to is not None:
            return Configurations(
                created, [row for row in self._config_rows if row.position <= up_to]
            )
        if self._configurations is None:
            self._configurations = Configurations(created, self._config_rows)
        return self._configurations

    def changes(self, after: int = 0, up_to: int | None = None) -> Iterator[ChangeRow]:
        """Yield the rows of other kinds in (after, up_to], in order."""
        return (held for held in self.rows(after, up_to) if isinstance(held, ChangeRow))
