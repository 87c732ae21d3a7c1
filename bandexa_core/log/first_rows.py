"""The first learned rows of a bandit, while they are few: inputs are standardised by them early.

Single-threaded. Nothing of it is stored: a model that starts from a snapshot with learned rows has
none, and its first round reads the log.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from bandexa_core.log.rows import LearnRow
from bandexa_core.replay import Rows


class FirstRows:
    """Learned rows by position, as `LearnedRows`.

    Args:
        most: When there are more, all are dropped.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[int, LearnRow] = {}
        self.are_all = most > 0

    def learn(self, rows: Sequence[LearnRow]) -> None:
        """Note first values."""
        if not self.are_all:
            return
        self._rows.update((row.position, row) for row in rows)
        if len(self._rows) > self._most:
            self.drop()

    def correct(self, row: LearnRow) -> None:
        """Note the new value of a row."""
        if row.origin in self._rows:
            self._rows[row.origin] = replace(self._rows[row.origin], after=row.after)

    def drop(self) -> None:
        """Forget the rows, and note no more."""
        self._rows, self.are_all = {}, False

    def scan(self, chunk: int) -> Iterator[Rows]:
        """See `LearnedRows.scan`."""
        rows = list(self._rows.values())
        for first in range(0, len(rows), chunk):
            part = rows[first : first + chunk]
            yield Rows(
                np.array([row.position for row in part], np.int64),
                np.array([row.slot for row in part], np.int64),
                np.array([row.after for row in part]),
                np.stack([row.action for row in part]),
                np.stack([row.context for row in part]),
            )

    def __len__(self) -> int:
        return len(self._rows)

    def copy(self) -> Self:
        """Return one that goes on by itself."""
        other = copy.copy(self)
        other._rows = dict(self._rows)
        return other
