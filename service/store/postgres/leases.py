"""Leases: what one process at a time may do, until a time by the clock of the database.

A lease is a row with an epoch. The epoch grows whenever another holder takes the lease, and when it
is given back. A holder that was paused or cut off does not know that it has lost a lease; so every
write that needs one carries its epoch, and `held` compares that in the same statement. Only row
locks are used, so that it works through any pooler and on any server that speaks the protocol.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

_TAKE = """
INSERT INTO leases AS l VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,
  epoch = l.epoch + (l.holder <> excluded.holder)::int
WHERE l.until <= clock_timestamp() OR l.holder = excluded.holder
RETURNING epoch
"""
_RENEW = """
UPDATE leases SET until = clock_timestamp() + make_interval(secs => $4)
WHERE name = $1 AND holder = $2 AND epoch = $3 RETURNING epoch
"""
_RELEASE = """
UPDATE leases SET holder = '', epoch = epoch + 1, until = clock_timestamp()
WHERE name = $1 AND holder = $2 AND epoch = $3 RETURNING epoch
"""
_FIND = """
SELECT name, holder, epoch, extract(epoch FROM until - clock_timestamp())::float8
FROM leases WHERE name LIKE $1 || '%' ORDER BY name
"""
KEEPER = "keeper"


def training(uid: str) -> str:
    """Return the name of the lease of whoever trains a bandit."""
    return f"train/{uid}"


def held(name: str, epoch: str) -> str:
    """Return a condition of SQL: the lease has that epoch, and keeps it until the commit.

    Put it into the WHERE of a write, in the same statement: `... WHERE {held('$1', '$2')}`. A write
    that it refuses changes no row. The row of the lease is locked against a new holder, who waits
    for the commit.

    Args:
        name: The mark of the parameter with the name of the lease.
        epoch: The mark of the parameter with the epoch that was taken.
    """
    return f"EXISTS (SELECT FROM leases WHERE name = {name} AND epoch = {epoch} FOR SHARE)"


class Database(Protocol):
    """What leases need of a connection: `Session` is one."""

    def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run a statement with PostgreSQL's own marks in a transaction of its own."""


class Lease(NamedTuple):
    """A lease as it is stored.

    Attributes:
        name: What it is for.
        holder: Who has it; empty after it was given back.
        epoch: Grows with every new holder.
        left_s: For how long it still holds; negative: it has ended.
    """

    name: str
    holder: str
    epoch: int
    left_s: float


def process_name() -> str:
    """Return a name for a holder of leases, of which there is never a second one."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Leases:
    """The leases of one holder.

    Args:
        db: A connection; each call is one statement, and commits by itself.
        holder: Who takes them: `process_name()`, unless a process has several holders.
    """

    def __init__(self, db: Database, holder: str) -> None:
        self._db = db
        self.holder = holder

    def lease(self, name: str, ttl_s: float) -> int | None:
        """Take a lease for some seconds; returns its epoch, None where somebody else has it.

        Taking one's own again prolongs it.
        """
        found = self._db.fetch(_TAKE, name, self.holder, ttl_s)
        return int(found[0][0]) if found else None

    def renew(self, name: str, epoch: int, ttl_s: float) -> bool:
        """Hold a lease for some seconds from now on; False: it is lost.

        One that has ended and that nobody has taken since is held on.
        """
        return bool(self._db.fetch(_RENEW, name, self.holder, epoch, ttl_s))

    def release(self, name: str, epoch: int) -> bool:
        """Give a lease back: its epoch is stale from here on; False: it was lost before."""
        return bool(self._db.fetch(_RELEASE, name, self.holder, epoch))

    def found(self, prefix: str = "") -> list[Lease]:
        """Return all leases, of all holders, whose names begin so."""
        return [Lease(*row) for row in self._db.fetch(_FIND, prefix)]
