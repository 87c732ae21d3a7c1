"""The newest rows of all logs, in memory: their followers in this process do not read them back.

The writer collects the rows of its transaction and adds them once that is committed. Readers in the
same process look here first. Reading one row back from the database costs more than applying it,
because each commit empties the page cache of every other connection.
"""

from __future__ import annotations

from bandexa_core.ids import LogPosition
from bandexa_core.log.rows import LearnRow, LogRow

MAX_ROWS = 1024
MAX_BYTES = 4 << 20  # of contexts and features


class LogTail:
    """Written by the writer thread, read by any thread."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], LogRow] = {}  # in the order of their commits
        self._bytes = 0
        self._uncommitted: list[tuple[int, LogRow]] = []

    def add(self, bandit: int, row: LogRow) -> None:
        """Note a row of the running transaction."""
        self._uncommitted.append((bandit, row))

    def commit(self) -> None:
        """Show the rows of the transaction to readers; the oldest rows go where it gets full."""
        rows = self._rows
        for bandit, row in self._uncommitted:
            rows[bandit, row.position] = row
            self._bytes += _size(row)
            while len(rows) > MAX_ROWS or self._bytes > MAX_BYTES:
                self._bytes -= _size(rows.pop(next(iter(rows))))
        self._uncommitted.clear()

    def roll_back(self) -> None:
        """Forget the rows of the transaction."""
        self._uncommitted.clear()

    def read(self, bandit: int, after: LogPosition, up_to: LogPosition) -> list[LogRow] | None:
        """Return the rows in (after, up_to]; None where one of them is not here."""
        if up_to - after > MAX_ROWS:
            return None
        found = []
        for position in range(after + 1, up_to + 1):
            row = self._rows.get((bandit, position))
            if row is None:
                return None
            found.append(row)
        return found


def _size(row: LogRow) -> int:
    return row.context.nbytes + row.action.nbytes if isinstance(row, LearnRow) else 0
