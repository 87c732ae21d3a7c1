"""What steps of an administrator did to a decision; plain values."""

from __future__ import annotations

from typing import Literal, NamedTuple

from bandexa_core.ids import ActionId
from bandexa_core.log.contract import Change, CorrectionStatus
from service.serving.recent import Rows
from service.store.protocol import Reportable


class Voided(NamedTuple):
    """What voiding a decision did.

    Attributes:
        values: The values that became void, and how many rewards made each.
        rows: What was logged: a row for each of them that had been learned.
    """

    values: tuple[tuple[float, int], ...]
    rows: Rows

    @classmethod
    def of(cls, decision: Reportable, change: Change, rows: Rows) -> Voided:
        """Return what a change of a decision did."""
        items = decision.state.items
        found = [(each.before, items[each.item].num) for each in change.amended]
        return cls(tuple((value, num) for value, num in found if value is not None), rows)


class Corrected(NamedTuple):
    """What a correction did: its status, whose value it is, and the value before and after.

    "stored": the bandit has failed, and learns it once it is recovered.
    """

    status: CorrectionStatus | Literal["stored"]
    action: ActionId
    before: float | None
    after: float
    rows: Rows
