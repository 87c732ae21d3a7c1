"""What the engine asks of an event store: append, follow, look up, trim.

Appends are queued in call order, committed in groups, and answered by a callback on the event
loop, in order, once the commit is on disk as the durability setting says. A callback gets either
the result or the exception, never both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from bandexa_core.ids import BanditUid, DecisionId, LogPosition
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow, LearnRow
from bandexa_core.spec import BanditSpec
from service.store.records import (
    BanditRecord,
    DecisionRecord,
    RewardReport,
    RewardStatus,
    RoundRecord,
    StoredAnswer,
)

if TYPE_CHECKING:
    from service.store.sqlite.reader import StoreReader

    LogReader = StoreReader
else:
    LogReader = object

T = TypeVar("T")
Durability = Literal["commit", "os"]
ActivationStatus = Literal["applied", "duplicate", "late"]
Done = Callable[[T | None, Exception | None], None]


@dataclass(frozen=True, slots=True)
class RewardOutcome:
    """What a reward did. `row`: the learn row it made, None where nothing was learned."""

    uid: BanditUid
    status: RewardStatus
    row: LearnRow | None


@dataclass(frozen=True, slots=True)
class Learned:
    """A learn row that no reward of its own made."""

    uid: BanditUid
    row: LearnRow


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many decisions were removed, where the search ended, and whether it should go on."""

    num: int
    last_row: int
    more: bool


@dataclass(frozen=True, slots=True)
class Activation:
    """What an activation did, to how many actions, and what it taught of earlier rewards."""

    uid: BanditUid
    status: ActivationStatus
    num_actions: int
    rows: tuple[LearnRow, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """What closing windows taught. `more`: others are due at once."""

    learned: tuple[Learned, ...]
    more: bool


class EventStore(Protocol):
    """The truth: decisions, rewards and the log of every bandit."""

    epoch: int

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """Keep a decision. None: kept; an answer: the id was there already, nothing changed."""

    def append_propensity(
        self, decision_id: DecisionId, propensity: float, done: Done[None]
    ) -> None:
        """Fill in the propensity of a decision that was answered without one."""

    def append_reward(self, report: RewardReport, done: Done[RewardOutcome]) -> None:
        """Join a reward to its decision; UnknownDecision, or InvalidRequest for its action."""

    def append_activation(
        self, decision_id: DecisionId, time: float, done: Done[Activation]
    ) -> None:
        """Count a decision that was made with `activate` false; UnknownDecision."""

    def close_windows(self, done: Done[Closed]) -> None:
        """Close the reward windows that are over; to be called about every second.

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
        """Log that an imported snapshot is the model from here on.

        `publish(position, log hash)` writes the snapshot and returns its version; it runs before
        the commit, so a row never names a snapshot that is not there.
        """

    def append_round(self, bandit: BanditRecord, record: RoundRecord, done: Done[None]) -> None:
        """Note how a training round went; nothing is made of it but pictures."""

    def trim_log(
        self, bandit: BanditRecord, up_to: LogPosition, sample_size: int, done: Done[bool]
    ) -> None:
        """Remove some learn rows up to `up_to`, keeping a sample of what went; True: call again.

        No snapshot that is to be served may be older than `up_to`.
        """

    def drop_decisions(self, before: float, after_row: int, done: Done[Dropped]) -> None:
        """Remove some decisions older than `before` that no row left in the log refers to."""

    def create_bandit(
        self,
        name: str,
        spec: BanditSpec,
        publish: Callable[[BanditUid], None],
        done: Done[BanditRecord],
    ) -> None:
        """Create a bandit; `publish` writes its snapshot 0 before the commit."""

    def delete_bandit(self, bandit: BanditRecord, done: Done[None]) -> None:
        """Forget a bandit, its decisions and its log."""

    def sync(self, done: Done[None]) -> None:
        """Put everything appended before on disk, whatever the durability setting."""

    def reader(self) -> StoreReader:
        """Return a new reader; the caller closes it."""

    def close(self) -> None:
        """Commit what is queued and stop; calling it again does nothing."""
