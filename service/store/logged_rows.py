"""The newest learned rows of a log, in the form in which a replay holds them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import LogPosition
from bandexa_core.log.metrics import Weights, weighted_group
from bandexa_core.log.rows import LearnRow
from bandexa_core.replay import Rows
from service.store.reading import LogReader
from service.store.records import BanditRecord

REMEMBERED_BYTES = 64 << 20  # rows that take more are read at each scan
ROW_BYTES = 700  # of a row beside its context and features


class LoggedRows:
    """The newest learned rows up to a position, like those of a replay that followed the log.

    A value may be corrected by a later row, so that all rows are read before the first is returned.
    Where they fit into some memory they are remembered: the log is read once for any number of
    scans.

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
        self._values: dict[int, float] | None = None  # that were corrected, by position
        self._rows: list[LearnRow] | None = None  # all of them, where they are remembered

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

    def scan(self, chunk: int, of: tuple[int, int] = (0, 1)) -> Iterator[Rows]:
        """See `TrainingRows.scan`; values are those as of the position."""
        if self._values is None:
            self._values = self._read()
        rows = iter(self._first_values() if self._rows is None else self._rows)
        first, every = of
        number = 0
        while part := list(itertools.islice(rows, chunk)):
            if number % every == first:
                yield _rows(part, self._values)
            number += 1

    def _read(self) -> dict[int, float]:
        """Read the log once: return corrected values, and remember the rows if they fit."""
        values: dict[int, float] = {}
        rows: list[LearnRow] | None = []
        num_bytes = passed_over = 0
        for row in self._learn_rows():
            if row.before is not None:
                values[row.origin] = row.learned
                continue
            passed_over += 1
            if rows is None or passed_over <= self._passed_over:
                continue
            rows.append(row)
            num_bytes += ROW_BYTES + row.context.nbytes + row.action.nbytes
            if num_bytes > REMEMBERED_BYTES:
                rows = None
        self._rows = rows
        return values

    def _first_values(self) -> Iterator[LearnRow]:
        first = (row for row in self._learn_rows() if row.before is None)
        return itertools.islice(first, max(0, self._passed_over), None)

    def _learn_rows(self) -> Iterator[LearnRow]:
        """Yield the learn rows of the log without values that are void at the position."""
        groups = self._reader.follow(self._record, self._begins, self._up_to, voids=self._up_to)
        for group in groups:
            for row in weighted_group(group, self._weights).rows:
                if isinstance(row, LearnRow):
                    yield row


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
