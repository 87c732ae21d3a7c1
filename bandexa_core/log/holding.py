"""What a frozen bandit has held back: rows that its served model has not learned.

The log has all of them. A model that serves while its bandit is frozen passes over their values;
one that is built (by a round, a relearning) learns them as any other. So whether a rebuild is
pending follows from snapshot and log, as it does for values that became void.
"""

from __future__ import annotations

from typing import NamedTuple

from bandexa_core.ids import LogPosition
from bandexa_core.log.rows import LearnRow


class Held(NamedTuple):
    """The values that a model has passed over since its snapshot.

    Attributes:
        num: How many first values there were.
        first, last: The first and the last row, of corrections, too; 0: there were none.
    """

    num: int = 0
    first: LogPosition = LogPosition(0)
    last: LogPosition = LogPosition(0)

    def with_row(self, row: LearnRow) -> Held:
        """Return that with one more row."""
        num = self.num + (row.before is None)
        return Held(num, self.first or row.position, row.position)

    def has(self, row: LearnRow) -> bool:
        """Whether a row corrects a value that was passed over."""
        return row.before is not None and self.first <= row.origin <= self.last
