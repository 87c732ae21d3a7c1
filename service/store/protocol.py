"""The interface of an event store: append, follow, look up, history, trim.

Appends are queued in call order, committed in groups, and answered by a callback on the event loop,
in order, once the commit is as durable as the setting demands. A callback receives either the
result or the exception, never both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, Self, TypeVar

from bandexa_core.ids import BanditUid, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.contract import ActivationStatus, RewardStatus
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow, LogRow
from bandexa_core.replay import Evicted
from bandexa_core.spec import BanditSpec
from service.observe.counters import WriterTimes
from service.store.records import (
    BanditRecord,
    DecisionRecord,
    DecisionSummary,
    RewardReport,
    RoundRecord,
    StoredAnswer,
    StoredDecision,
    Trim,
)

T = TypeVar("T")
BEGINNING = LogPosition(0)
Durability = Literal["commit", "os"]
Done = Callable[[T | None, Exception | None], None]


class Logged(NamedTuple):
    """A learn row that was appended to a bandit's log."""

    position: LogPosition
    time: float
    decision_id: DecisionId
    before: float | None
    after: float


@dataclass(frozen=True, slots=True)
class RewardOutcome:
    """The effect of a reward. `row`: its learn row; None where nothing was learned."""

    uid: BanditUid
    status: RewardStatus
    row: Logged | None


@dataclass(frozen=True, slots=True)
class Learned:
    """A learn row that follows from a closed window, not from a reward."""

    uid: BanditUid
    row: Logged


@dataclass(frozen=True, slots=True)
class Dropped:
    """The effect of one `drop_decisions`.

    Attributes:
        num: How many decisions were removed.
        last_row: Where the search ended: the next call's `after_row`.
        more: Whether there should be a next call.
    """

    num: int
    last_row: int
    more: bool


@dataclass(frozen=True, slots=True)
class Activation:
    """The effect of an activation. `rows`: what was learned from rewards that came before it."""

    uid: BanditUid
    status: ActivationStatus
    num_actions: int
    rows: tuple[Logged, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """What was learned by closing windows. `more`: other windows are due already."""

    learned: tuple[Learned, ...]
    more: bool


class Reader(Protocol):
    """A read-only view of the store; used by one thread at a time, closed by its opener.

    Every call is its own short transaction. Every call raises `StoreUnreadable` where the database
    cannot be read.
    """

    def close(self) -> None:
        """Close it; calling it again does nothing."""

    def __enter__(self) -> Self:
        """Return the reader."""

    def __exit__(self, *exc: object) -> None:
        """Close the reader."""


class LogReader(Reader, Protocol):
    """Reads bandits and their logs: models are loaded from it, retention plans with it.

    `bandit` is the key of a `BanditRecord`. All positions are of that bandit's log.
    """

    def epoch(self) -> int:
        """Return the epoch of the newest opening of the store."""

    def used_bytes(self) -> int:
        """Return how many bytes of the database hold data; its file may be larger."""

    def bandits(self) -> list[BanditRecord]:
        """Return the bandits that are not deleted, by name; specs as they were created."""

    def deleted(self) -> list[BanditUid]:
        """Return the uids of the deleted bandits."""

    def answer(self, decision_id: DecisionId) -> StoredAnswer | None:
        """Return what answered a decision's select, None without such a decision."""

    # -- the log ------------------------------------------------------------------------------

    def head(self, bandit: int) -> LogPosition:
        """Return the position of the newest row, 0 for an empty log."""

    def trim(self, bandit: int) -> Trim:
        """Return where the log begins: retention removed the learn rows up to there."""

    def hash_at(self, bandit: int, position: LogPosition) -> bytes | None:
        """Return the hash of the log up to `position`; None where that row is not in the log."""

    def follow(
        self, record: BanditRecord, after: LogPosition, up_to: LogPosition, chunk: int = 512
    ) -> Iterator[list[LogRow]]:
        """Yield the rows in (after, up_to] in order, in lists of at most `chunk`.

        Raises:
            LogTrimmed: Retention removed rows after `after`, perhaps while they were read.
            StoreDamaged: A row is missing, or its hash differs.
        """

    def spec_at(self, record: BanditRecord, position: LogPosition) -> BanditSpec:
        """Return the configuration as of `position`."""

    def catalogue_at(
        self,
        record: BanditRecord,
        position: LogPosition,
        start: Catalogue | None = None,
        after: LogPosition = BEGINNING,
    ) -> Catalogue:
        """Return the actions at `position`: `start`, those at `after`, and the changes since."""

    def forgetting_at(
        self, record: BanditRecord, start: Forgetting, after: LogPosition, up_to: LogPosition
    ) -> Forgetting:
        """Return the state at `up_to` that follows from `start`, the state at `after`."""

    def count_learned(self, bandit: int, after: LogPosition, up_to: LogPosition) -> int:
        """Return how many decisions' values were learned for the first time in (after, up_to].

        With `after` 0, rows that retention removed count as well.
        """

    def evicted(
        self, record: BanditRecord, through: LogPosition, position: LogPosition, most: int
    ) -> Evicted | None:
        """Return a sample of at most `most` rows up to `through`, with their values at `position`.

        None where no row was evicted, or no sample is stored.

        Raises:
            LogTrimmed: Retention removed rows after `through`.
            StoreDamaged: A row's checksum differs.
        """

    def imports(self, bandit: int) -> list[SnapshotVersion]:
        """Return the snapshot versions that import rows name: recovery may need them."""

    def last_import(self, bandit: int, up_to: LogPosition) -> LogPosition:
        """Return the position of the last import row up to `up_to`, 0 without one."""

    # -- for retention and verification -------------------------------------------------------

    def first_learned(self, bandit: int, number: int) -> LogPosition:
        """Return the position of the n-th (from 1) first value that is in the log."""

    def last_before(self, bandit: int, time: float) -> LogPosition:
        """Return the position up to which all rows are older than `time`."""

    def decision_time(self, number: int) -> float | None:
        """Return the time of the n-th decision (from 0) in order of insertion, None beyond it."""


class DecisionHistory(Reader, Protocol):
    """Reads decisions with their rewards, and training rounds: for people to inspect."""

    def decision(self, bandit: BanditRecord, decision_id: DecisionId) -> StoredDecision | None:
        """Return a decision of a bandit; None without such a decision.

        Raises:
            StoreDamaged: Its checksum differs.
        """

    def newest(self, bandit: BanditRecord, before: int | None, limit: int) -> list[DecisionSummary]:
        """Return decisions, newest first; `before`: only those older than this row."""

    def rounds(self, bandit: BanditRecord, since: float, limit: int) -> list[RoundRecord]:
        """Return the newest rounds since a time, oldest first."""


class EventStore(Protocol):
    """Stores the decisions, the rewards and the log of every bandit: all else is derived.

    Attributes:
        epoch: How many times the store was opened, this opening included.
    """

    epoch: int

    @property
    def failure(self) -> str | None:
        """Why the store refuses writes, None while it takes them."""

    @property
    def failed_for_good(self) -> bool:
        """Whether only a new process can find out what is on disk: this one should end."""

    @property
    def times(self) -> WriterTimes:
        """How long commits take."""

    @property
    def queue_depth(self) -> int:
        """How many operations wait to be committed."""

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log."""

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """Store a decision; the result is an answer, not None, where its id was stored before."""

    def append_propensity(
        self, decision_id: DecisionId, propensity: float, done: Done[None]
    ) -> None:
        """Fill in the propensity of a decision that was answered without one."""

    def append_reward(self, report: RewardReport, done: Done[RewardOutcome]) -> None:
        """Join a reward to its decision.

        Raises (through the callback):
            UnknownDecision: There is no such decision.
            InvalidRequest: The reward id or the action is missing or wrong.
        """

    def append_activation(
        self, decision_id: DecisionId, time: float, done: Done[Activation]
    ) -> None:
        """Make the rewards of a decision count that was made with `activate` false.

        Raises (through the callback):
            UnknownDecision: There is no such decision.
        """

    def close_windows(self, done: Done[Closed]) -> None:
        """Close the reward windows that are over; called about once a second.

        Time in which it was not called, or failed, does not count towards a window.
        """

    def append_change(
        self, bandit: BanditRecord, change: CatalogueChange, done: Done[CatalogueRow]
    ) -> None:
        """Log a change of the catalogue."""

    def append_config(self, bandit: BanditRecord, spec: BanditSpec, done: Done[ConfigRow]) -> None:
        """Log a change of the changeable configuration."""

    def append_import(
        self,
        bandit: BanditRecord,
        publish: Callable[[LogPosition, bytes], int],
        done: Done[ImportRow],
    ) -> None:
        """Log that an imported snapshot is the model from the new row on.

        `publish(position, log hash)` writes the snapshot and returns its version. It runs before
        the commit, so that no row ever names a missing snapshot.
        """

    def append_round(self, bandit: BanditRecord, record: RoundRecord, done: Done[None]) -> None:
        """Store how a training round went, for the dashboard."""

    def trim_log(
        self, bandit: BanditRecord, up_to: LogPosition, sample_size: int, done: Done[bool]
    ) -> None:
        """Remove some learn rows up to `up_to` and store a sample of them; True: call again.

        Snapshots older than `up_to` cannot be served afterwards.
        """

    def drop_decisions(self, before: float, after_row: int, done: Done[Dropped]) -> None:
        """Remove some decisions older than `before` that no remaining log row refers to."""

    def create_bandit(
        self,
        name: str,
        spec: BanditSpec,
        publish: Callable[[BanditUid], None],
        done: Done[BanditRecord],
    ) -> None:
        """Create a bandit; `publish` writes its snapshot 0 before the commit."""

    def delete_bandit(self, bandit: BanditRecord, done: Done[None]) -> None:
        """Delete a bandit, its decisions and its log."""

    def sync(self, done: Done[None]) -> None:
        """Sync everything appended before to disk, at any durability setting."""

    def reader(self) -> LogReader:
        """Return a new reader; the caller closes it."""

    def follower(self) -> LogReader:
        """Return a new reader that finds the newest log rows in memory; the caller closes it."""

    def history(self) -> DecisionHistory:
        """Return a new reader of decisions; the caller closes it."""

    def close(self) -> None:
        """Commit what is queued and stop; calling it again does nothing."""
