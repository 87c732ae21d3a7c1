"""The rows of a bandit's log: everything that changes its model, in one sequence of positions.

Four kinds of rows exist: a value was learned, the catalogue changed, the configuration changed, a
snapshot was imported. A row carries everything that is needed to apply it, so that applying reads
neither a clock nor the store. A served model is the fold of these rows over a snapshot.

The store writes a row in the transaction of its cause and never changes it; retention may delete
the oldest rows. Positions of a bandit start at 1, have no gaps and are never reused. Rows are
applied in the order of their positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import CatalogueChange


@dataclass(frozen=True, slots=True)
class LearnRow:
    """The value of one chosen action changed, or became known.

    Attributes:
        position: Position in the log.
        time: Unix time of the transaction, in seconds.
        decision_id: The decision that chose the action.
        origin: Position of the first learn row of this decision and action, which is the row itself
            unless it corrects an earlier value.
        before: The value before; None when none was known.
        after: The value from here on.
        context: The raw context, in the bandit's shape and dtype.
        action: Raw features of the chosen action at the time of the decision, float32 (A,).
        slot: Catalogue slot of the action; -1 for an inline candidate outside the catalogue.
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


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """Actions were added, changed, enabled or retired."""

    position: LogPosition
    time: float
    change: CatalogueChange


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """The changeable part of the configuration became `spec`, a JSON object."""

    position: LogPosition
    time: float
    spec: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImportRow:
    """The imported snapshot `version`, built at this row's position, replaced the model."""

    position: LogPosition
    time: float
    version: SnapshotVersion


LogRow = LearnRow | CatalogueRow | ConfigRow | ImportRow
