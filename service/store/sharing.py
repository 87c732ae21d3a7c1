"""What a server sees of the others where several servers share a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from service.observe.counters import SharedCount
from service.store.protocol import EventStore
from service.store.records import BanditRecord


@dataclass(slots=True)
class Changes:
    """What was announced in one turn.

    Attributes:
        heads: The newest positions of logs, by the keys of their bandits.
        bandits: Whether bandits were created or deleted.
        served: The snapshots that rounds have published and that are served now.
        settle: Numbers to be given back once all of this, and what was announced before, is served.
        show: Numbers to be given back with the metrics of this process.
    """

    heads: dict[int, LogPosition] = field(default_factory=dict)
    bandits: bool = False
    served: dict[BanditUid, SnapshotVersion] = field(default_factory=dict)
    settle: list[int] = field(default_factory=list)
    show: list[int] = field(default_factory=list)


class Member(Protocol):
    """A server among those that share a database.

    Attributes:
        number: Its number, from 0 on.
        servers: How many servers may share it.
        live: How many serve now, this one included.
        secret: What only the servers of the database know.
        keeper_url: Where the keeper is reached; None: there is none now, or it is this one.
        diverged: How often this server has built its models anew, because the database has lost
            rows that they had learned.
    """

    number: int
    servers: int
    live: int
    diverged: SharedCount
    secret: str
    keeper_url: str | None

    @property
    def is_keeper(self) -> bool:
        """Whether this server is the keeper."""

    def end(self) -> None:
        """Give its place up."""


class SharingStore(EventStore, Protocol):
    """The store of a server that shares its database."""

    @property
    def overtaken(self) -> int:
        """How many groups were written again because another server was faster."""


class FollowedStore(EventStore, Protocol):
    """A store to which other processes, or other servers, append as well, and which says so."""

    def watch(self, changed: Callable[[Changes], None], found: Callable[[], None]) -> None:
        """Call `changed` with what others append; `found` once the store is back."""

    def lost_s(self) -> float:
        """Return for how many seconds the store has been away; 0 while it is there."""

    def remember(self, record: BanditRecord) -> None:
        """Hold a live bandit in memory."""

    def forget(self, key: int) -> None:
        """Forget a bandit that was deleted."""

    def settled(self, number: int) -> None:
        """Give the number of an announcement back; see `Changes.settle`."""

    def counted(self, counts: list[Any]) -> None:
        """Report what was answered."""

    def show(self, number: int, text: bytes) -> None:
        """Give the metrics of this process; see `Changes.show`."""
