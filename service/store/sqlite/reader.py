"""Reads bandits and logs from a file: see `service.store.sql.reader`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from service.store.identity import DecisionIds
from service.store.sql.reader import SqlReader
from service.store.sql.tail import LogTail
from service.store.sqlite.connection import connect_reader
from service.store.sqlite.schema import current_epoch
from service.store.sqlite.tables import decision_ids, stand_in


class StoreReader(SqlReader):
    """See `LogReader`.

    Args:
        path: The database.
        tail: The newest rows in memory, in the process that writes them.
    """

    def __init__(self, path: Path, tail: LogTail | None = None) -> None:
        self._db = connect_reader(path)
        stand_in(self._db)
        super().__init__(self._db, tail)

    def epoch(self) -> int:
        """See `LogReader.epoch`."""
        return current_epoch(self._db)

    @cached_property
    def ids(self) -> DecisionIds:
        """The ids of the store's decisions."""
        return decision_ids(self._db)

    def used_bytes(self) -> int:
        """See `LogReader.used_bytes`."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)
