"""The rows of a bandit's log: everything that changes its model, in one sequence of positions.

Five kinds of rows exist: a value was learned, the catalogue changed, the configuration changed, a
snapshot was imported, a value became void. A row whose decision was erased is read as a sixth kind:
nothing is learned from it; and so is one whose value is void, where a model is built without it.
A row carries everything that is needed to apply it, so that applying reads neither a clock nor the
store. A served model is the fold of these rows over a snapshot.

The store writes a row in the transaction of its cause and never changes it; retention may delete
the oldest rows. Positions of a bandit start at 1, have no gaps and are never reused. Rows are
applied in the order of their positions, and those of one group together.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.bounds import clip
from bandexa_core.log.catalogue import CatalogueChange

Metrics = tuple[tuple[str, float], ...]  # by name, in the order of the names


class LearnRow(msgspec.Struct, frozen=True, gc=False):
    """The value of one chosen action changed, or became known.

    Attributes:
        position: Position in the log.
        time: Service time of the transaction, seconds since the epoch: without the clock's jumps.
        decision_id: The decision that chose the action.
        origin: Position of the first learn row of this decision and action, which is the row itself
            unless it corrects an earlier value.
        before: The value before, as it was reported; None when none was known.
        after: The value from here on, as it was reported.
        context: The raw context, in the bandit's shape and dtype.
        action: Raw features of the chosen action at the time of the decision, float32 (A,).
        slot: Catalogue slot of the action; -1 for an inline candidate outside the catalogue.
        low, high: The bounds that values are clipped to before they are learned; None: unbounded.
            A correction has those of its origin, so that it removes what was learned there.
        metrics, metrics_before: The metrics that `after` and `before` were made of; None: of none.
    """

    position: LogPosition
    time: float
    decision_id: DecisionId
    origin: LogPosition
    before: float | None
    after: float
    context: NDArray[Any]
    action: NDArray[np.float32]
    slot: ActionSlot
    low: float | None = None
    high: float | None = None
    metrics: Metrics | None = None
    metrics_before: Metrics | None = None

    @property
    def learned(self) -> float:
        """What is learned as the value from here on."""
        return clip(self.after, self.low, self.high)

    @property
    def learned_before(self) -> float | None:
        """What was learned as the value before; None when none was known."""
        return None if self.before is None else clip(self.before, self.low, self.high)


class CatalogueRow(msgspec.Struct, frozen=True, gc=False):
    """Actions were added, changed, enabled or retired."""

    position: LogPosition
    time: float
    change: CatalogueChange


class ConfigRow(msgspec.Struct, frozen=True, gc=False):
    """The configuration changed; `configurations` knows the forms of `spec`, a JSON object."""

    position: LogPosition
    time: float
    spec: dict[str, Any]


class ImportRow(msgspec.Struct, frozen=True, gc=False):
    """The imported snapshot `version`, built at this row's position, replaced the model."""

    position: LogPosition
    time: float
    version: SnapshotVersion


class VoidRow(msgspec.Struct, frozen=True, gc=False):
    """A learned value became void: snapshots from here on are built without it.

    A model that has learned it is unchanged, but has to be replaced; see `ServingModel.void_from`.

    Attributes:
        origin: Position of the first learn row of the value.
        before: The value, as it was reported.
        low, high: See `LearnRow`.
        metrics: Those that the value was made of; None: of none.
    """

    position: LogPosition
    time: float
    origin: LogPosition
    before: float
    low: float | None = None
    high: float | None = None
    metrics: Metrics | None = None

    @property
    def learned(self) -> float:
        """What was learned as the value."""
        return clip(self.before, self.low, self.high)


class ErasedRow(msgspec.Struct, frozen=True, gc=False):
    """A value was learned that was erased since, or is void; nothing is learned from it."""

    position: LogPosition
    time: float


LogRow = LearnRow | ErasedRow | CatalogueRow | ConfigRow | ImportRow | VoidRow


class Group(NamedTuple):
    """Rows that were appended together and are applied together: decisions are drawn at its end.

    Attributes:
        rows: Learn rows, with erased ones among them, or a single row of another kind; in order.
        as_block: The rule that the log prescribes for applying them. True: all features are
            computed at once, and consecutive first values are learned as a block. False: row by
            row. The two differ by rounding, so that every replay follows the rule in the log.
        hash: The hash of the log up to its end; None where it was not read.
    """

    rows: tuple[LogRow, ...]
    as_block: bool = False
    hash: bytes | None = None

    @property
    def position(self) -> LogPosition:
        """The position of the last row."""
        return self.rows[-1].position


def row_by_row(row: LogRow) -> Group:
    """Return the group of one row."""
    return Group((row,))


def without(group: Group, void: AbstractSet[LogPosition]) -> Group:
    """Return a group in which the rows of values are erased whose first rows are `void`."""
    if not void:
        return group
    rows = tuple(
        ErasedRow(row.position, row.time)
        if isinstance(row, LearnRow) and row.origin in void
        else row
        for row in group.rows
    )
    return group._replace(rows=rows)


def learn_rows(group: Group) -> Sequence[LearnRow]:
    """Return the learn rows of a group, without those that were erased."""
    return [row for row in group.rows if isinstance(row, LearnRow)]
