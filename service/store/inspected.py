"""What `bandexa doctor` learns about a database."""

from __future__ import annotations

from typing import NamedTuple


class Inspected(NamedTuple):
    """The state of a database, as a role sees it.

    Attributes:
        engine: Its name and version.
        is_supported: Whether a server can use this version.
        schema: The version of its tables; 0: there are none.
        is_standby: Whether it takes no writes.
        may_create: Whether this role may create the tables.
        lacking: A table that this role may not write; None: there is none, or there are no tables.
        in_use: Whether a server has it open.
        syncs: Whether a commit waits for its disk: `fsync` and `synchronous_commit`.
        num_synchronous: How many standbys a commit waits for.
        longest_s: For how many seconds the oldest transaction of anybody has been open.
        connections: How many connections are open, and may be.
        num_bytes: The size of its tables.
        servers: The names of the leases that servers hold which share it, and their holders.
    """

    engine: str
    is_supported: bool
    schema: int
    is_standby: bool
    may_create: bool
    lacking: str | None
    in_use: bool
    syncs: bool
    num_synchronous: int
    longest_s: float
    connections: tuple[int, int]
    num_bytes: int
    servers: list[tuple[str, str]]
