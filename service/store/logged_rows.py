"""The newest learned rows of a log, in the form in which a replay holds them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import LogPosition
from bandexa_core.log.metrics import Weights, weighted_group
from bandexa_core.log.rows import Group, LearnRow
from bandexa_core.replay import Rows
from service.store.reading import LogReader
from service.store.records import BanditRecord


class LoggedRows:
    """The newest learned rows up to a position, like those of a replay that followed the log.

    Attributes:
        are_all: Whether a model at the position has learned these rows and no others.

    Args:
        reader: Reads the log.
        record: The bandit.
        up_to: The position.
        num_rows: How many rows the replay had; older ones were evicted.
        weights: Those of the metrics that values are made of.
    """

    def __init__(
        self,
        reader: LogReader,
        record: BanditRecord,
        up_to: LogPosition,
        num_rows: int,
        weights: Weights | None = None,
    ) -> None:
        self._weights = weights
        self._reader = reader
        self._record = record
        self._up_to = up_to
        self._num_rows = num_rows
        self.are_all = False
        trim = reader.trim(record.key)
        learned = reader.count_learned(record.key, LogPosition(0), up_to)
        self._begins = trim.position
        self._passed_over = learned - trim.learned - num_rows

    def __len__(self) -> int:
        return max(0, self._num_rows)

    @property
    def are_logged(self) -> bool:
        """Whether all of the rows are still in the log."""
        return self._passed_over >= 0

    def evicted_through(self) -> LogPosition:
        """Return a position after all earlier rows and before these."""
        if not self._passed_over:
            return self._begins
        return self._reader.first_learned(self._record.key, self._passed_over, self._up_to)

    def scan(self, chunk: int) -> Iterator[Rows]:
        """See `Replay.scan`; values are those as of the position."""
        values = self._corrections()
        waiting: list[LearnRow] = []
        passed_over = 0
        for group in self._groups():
            for row in group.rows:
                if not isinstance(row, LearnRow) or row.before is not None:
                    continue
                if passed_over < self._passed_over:
                    passed_over += 1
                    continue
                waiting.append(row)
                if len(waiting) == chunk:
                    yield _rows(waiting, values)
                    waiting = []
        if waiting:
            yield _rows(waiting, values)

    def _groups(self) -> Iterator[Group]:
        """Yield the groups of the log without values that are void at the position."""
        groups = self._reader.follow(self._record, self._begins, self._up_to, voids=self._up_to)
        return (weighted_group(group, self._weights) for group in groups)

    def _corrections(self) -> dict[int, float]:
        values: dict[int, float] = {}
        for group in self._groups():
            for row in group.rows:
                if isinstance(row, LearnRow) and row.before is not None:
                    values[row.origin] = row.learned
        return values


def learned_rows(
    reader: LogReader,
    record: BanditRecord,
    up_to: LogPosition,
    num_learned: int,
    weights: Weights | None = None,
) -> LoggedRows:
    """Return all rows up to a position that the log still has, for a model that learned so many."""
    gone = reader.trim(record.key).learned
    learned = reader.count_learned(record.key, LogPosition(0), up_to)
    rows = LoggedRows(reader, record, up_to, learned - gone, weights)
    rows.are_all = not gone and learned == num_learned and not reader.last_import(record.key, up_to)
    return rows


def _rows(batch: list[LearnRow], values: dict[int, float]) -> Rows:
    return Rows(
        positions=np.array([row.position for row in batch], np.int64),
        slots=np.array([row.slot for row in batch], np.int64),
        rewards=np.array([values.get(row.position, row.learned) for row in batch]),
        actions=stacked([row.action for row in batch]),
        contexts=stacked([row.context for row in batch]),
    )
