"""What the modules of this folder need of a database: statements that SQLite's driver takes.

Marks of parameters are `?`, numbered ones `?1`. Every statement of this folder is understood by
SQLite and by PostgreSQL; where they differ, the store of each has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Rows(Protocol):
    """The rows of a statement.

    Attributes:
        rowcount: How many rows a statement changed.
    """

    @property
    def rowcount(self) -> int:
        """How many rows a statement changed."""

    def fetchone(self) -> Any:
        """Return the next row, None where there is none."""

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""

    def close(self) -> None:
        """Drop the rows that were not taken."""

    def __iter__(self) -> Iterator[Any]:
        """Return the rows one by one."""


class Database(Protocol):
    """A connection."""

    def execute(self, sql: str, parameters: Any = (), /) -> Rows:
        """Run a statement."""

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> object:
        """Run a statement once for each of the parameters."""

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
