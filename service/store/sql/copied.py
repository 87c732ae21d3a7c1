"""What a copy of a store between databases consists of: its tables, in the order of their rows.

A row has the values that SQLite stores. What follows from other rows, such as the heads of the
logs, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

CHUNK = 1000  # rows
Progress = Callable[[int, int], None]


class Table(NamedTuple):
    """A table.

    Attributes:
        name: Its name.
        columns: Those that are copied, in order.
        order: The columns that order its rows.
    """

    name: str
    columns: tuple[str, ...]
    order: str

    @property
    def select(self) -> str:
        """The statement that reads it."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} ORDER BY {self.order}"


class Part(NamedTuple):
    """Some rows of a table."""

    table: Table
    rows: list[tuple[Any, ...]]


def _table(name: str, columns: str, order: str) -> Table:
    return Table(name, tuple(columns.split()), order)


TABLES = (
    _table("meta", "key value", "key"),
    _table("bandits", "bandit uid name spec created deleted", "bandit"),
    _table(
        "decisions",
        "key own_id time body_hash context chosen candidates snapshot position propensity activated"
        " explored std schema objects unit arm propensities imported",
        "key",
    ),
    _table("imports", "bandit decisions", "bandit"),
    _table("ledger", "key version rewards activated closed items matures", "key"),
    _table(
        "rewards", "key item reward_id reward seq status time metrics", "key, item, reward_id, seq"
    ),
    _table("windows", "closes key", "closes, key"),
    _table("maturing", "matures key", "matures, key"),
    _table("delays", "bandit delays", "bandit"),
    _table(
        "log",
        "bandit position kind time key item origin before after low high payload ends hash",
        "bandit, position",
    ),
    _table("amendments", "key number item time before after position", "key, number, item"),
    _table("metrics", "bandit name count total", "bandit, name"),
    _table("catalogues", "bandit position change checksum", "bandit"),
    _table("trims", "bandit position hash learned", "bandit"),
    _table(
        "evicted", "bandit origin rank slot value action context checksum metrics", "bandit, origin"
    ),
    _table(
        "rounds",
        "bandit time version position seconds swap_s loss_before loss_after error",
        "bandit, time",
    ),
    _table("audit", "row time bandit by what changes", "row"),
    _table("challengers", "bandit name state", "bandit, name"),
    _table("erasures", "erasure bandit unit ids until", "erasure"),
    _table("erased", "bandit origin", "bandit, origin"),
    _table("relearning", "bandit first changes", "bandit"),
    _table("blanked", "bandit number first last", "bandit, number"),
    _table("sampled", "bandit origin key own_id unit", "bandit, origin"),
)


def in_parts(table: Table, rows: Iterable[Any]) -> Iterator[Part]:
    """Yield rows in parts."""
    part: list[tuple[Any, ...]] = []
    for row in rows:
        part.append(tuple(row))
        if len(part) == CHUNK:
            yield Part(table, part)
            part = []
    if part:
        yield Part(table, part)


def counted(parts: Iterable[Part], total: int, progress: Progress) -> Iterator[Part]:
    """Yield parts, and report how many rows of all have been copied."""
    done = 0
    for part in parts:
        yield part
        done += len(part.rows)
        progress(done, total)
