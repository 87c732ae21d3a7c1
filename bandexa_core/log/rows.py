"""The rows that change a bandit's model, in the one sequence of positions it has.

Rows carry all that applying them needs: no clock, no look-up. The store makes and keeps them.
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
    """The value of one chosen action became `after`; it was `before` (None: not known yet).

    Attributes:
        origin: Position of the first learn row of this decision and action (its own, if first):
            what a correction corrects.
        context: The raw context, in the bandit's shape and dtype.
        action: Raw features of the chosen action at the time of the decision, float32 (A,).
        slot: Its catalogue slot, -1 for an inline candidate that is not in the catalogue.
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
    """Actions were added or changed."""

    position: LogPosition
    time: float
    change: CatalogueChange


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """The changeable part of the configuration became `spec` (JSON-able)."""

    position: LogPosition
    time: float
    spec: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImportRow:
    """The model was replaced by the imported snapshot `version`, built at this very position."""

    position: LogPosition
    time: float
    version: SnapshotVersion


LogRow = LearnRow | CatalogueRow | ConfigRow | ImportRow
