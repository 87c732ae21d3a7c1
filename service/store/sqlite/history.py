"""Reads stored decisions from a file: see `service.store.sql.history`."""

from __future__ import annotations

from pathlib import Path

from service.store.sql.history import SqlHistory
from service.store.sqlite.connection import connect_reader
from service.store.sqlite.tables import decision_ids, stand_in


class History(SqlHistory):
    """See `DecisionHistory`."""

    def __init__(self, path: Path) -> None:
        connection = connect_reader(path)
        stand_in(connection)
        super().__init__(connection, lambda: decision_ids(connection))
