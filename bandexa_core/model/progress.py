"""How far a model has learned: what the schedule of rounds depends on."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """Row counts that the schedule depends on; a snapshot's manifest contains them.

    Attributes:
        num_learned: Decisions (decision and action pairs) whose value was learned so far.
        trained_rows: `num_learned` at the last training round, 0 before the first.
        inherited_rows: `num_learned` of an imported snapshot. No round is due before this bandit
            has learned as many rows itself, since a rebuild reads only the rows of this bandit.
    """

    num_learned: int = 0
    trained_rows: int = 0
    inherited_rows: int = 0

    def may_train(self, num_learned: int) -> bool:
        """Whether a round at `num_learned` rows would use as many rows as an import had."""
        return num_learned - self.inherited_rows >= self.inherited_rows

    def after(self, num: int) -> Progress:
        """Return the counts with so many values more."""
        return self._replace(num_learned=self.num_learned + num)
