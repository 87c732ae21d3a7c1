"""The interface of an event store: append, look up, trim; `store.reading` has that of readers.

Appends are queued in call order, committed in groups, and answered by a callback on the event loop,
in order, once the commit is as durable as the setting demands. A callback receives either the
result or the exception, never both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, TypeVar

import msgspec

from bandexa_core.errors import BandexaError
from bandexa_core.ids import (
    ActionId,
    BanditUid,
    DecisionId,
    DecisionKey,
    LogPosition,
    SnapshotVersion,
)
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.contract import Change, DecisionState, Outcome, Reported, metrics_of
from bandexa_core.log.metrics import changed_totals
from bandexa_core.log.promotions import Why
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow
from bandexa_core.spec import BanditSpec, RewardSpec
from service.observe.counters import WriterTimes
from service.store.clock import ServiceClock
from service.store.identity import DecisionIds
from service.store.reading import CountingReader, DecisionHistory, LogReader
from service.store.records import (
    AuditEntry,
    BanditRecord,
    DecisionRecord,
    ErasedPart,
    Erasure,
    Relearning,
    RoundRecord,
    StoredAnswer,
)

T = TypeVar("T")
MAX_AUDIT = 100_000  # entries of one name
UNWATCHED_S = 3.0  # a longer gap between checks of the windows: the service was not ready
Durability = Literal["commit", "barrier", "os"]
Done = Callable[[T | None, Exception | None], None]
Deliver = Callable[[Callable[[], None]], object]


class Logged(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A row that was appended to a bandit's log: a learn row, or one that voids a value.

    Attributes:
        before, after: As they were reported; see `LearnRow`. `after` is None where `before` became
            void.
        learned: What is learned for `after`.
    """

    position: LogPosition
    time: float
    decision_id: DecisionId
    before: float | None
    after: float | None
    learned: float | None


class Reportable(msgspec.Struct, frozen=True, gc=False):
    """A decision, as far as a report about it needs it.

    Attributes:
        key: Its key in the store.
        id: Its id.
        bandit: Its bandit.
        actions: The chosen actions, best first.
        state: What reports about it have led to so far.
        changed: The reward rules that it follows, where the bandit's have been changed since its
            creation.
    """

    key: DecisionKey
    id: DecisionId
    bandit: BanditRecord
    actions: tuple[ActionId, ...]
    state: DecisionState
    changed: RewardSpec | None = None

    @property
    def rules(self) -> RewardSpec:
        """The reward rules that it follows."""
        return self.bandit.spec.rewards if self.changed is None else self.changed


class FoundDecision(NamedTuple):
    """A decision that was looked up.

    Attributes:
        decision: The decision.
        rewards: Its rewards by (item, reward id); those without an id under "", the late ones
            alone. None where there are too many to list: `find_repeats` looks one up.
    """

    decision: Reportable
    rewards: dict[tuple[int, str], list[Outcome]] | None


class Step(msgspec.Struct, frozen=True, gc=False):
    """One step of a decision, by the contract of rewards.

    Attributes:
        decision: The decision, with the state that the step starts from.
        change: What the step changes.
        time: When it was reported, seconds since the epoch.
        reported: The reward; None where the step is another one.
        closes: The window that ends with this step, as `due_windows` returned it.
        matures: The age that is reached with this step, in the same form.
        imported: Whether it is no report, but the value of a decision made elsewhere.
    """

    decision: Reportable
    change: Change
    time: float
    reported: Reported | None = None
    closes: float | None = None
    matures: float | None = None
    imported: bool = False

    def metric_totals(self) -> Sequence[tuple[str, int, float]]:
        """Return what it adds to the totals of metrics: name, number of values, sum."""
        old_items, new_items = self.decision.state.items, self.change.state.items
        if len(new_items) == 1 and old_items[0].metrics is new_items[0].metrics:
            return ()
        found: list[tuple[str, int, float]] = []
        for before, after in zip(old_items, new_items, strict=False):
            if before.metrics is not after.metrics:
                rules = self.decision.rules
                old, new = metrics_of(before, rules) or (), metrics_of(after, rules) or ()
                for name, added in changed_totals(old, new).items():
                    found.append((name, added.num_values, added.total))
        return found


class Due(NamedTuple):
    """Windows that are over, and decisions that have reached the age at which they are mature.

    Attributes:
        windows: The decisions whose windows are over, and when each closes.
        more: Whether there are others.
        mature: The decisions that are mature within their windows, and since when.
        ages: The age in seconds at which the next decisions of a bandit are mature; only of bandits
            for which it was learned anew since the last call, at first of all.
    """

    windows: tuple[tuple[float, Reportable], ...]
    more: bool
    mature: tuple[tuple[float, Reportable], ...] = ()
    ages: Mapping[BanditUid, float] = MappingProxyType({})


class Trimmed(NamedTuple):
    """The effect of one `trim_log`.

    Attributes:
        num: How many decisions were removed with the rows: examined ones that these held back.
        more: Whether there are more rows to remove.
    """

    num: int
    more: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """The effect of one `drop_decisions`.

    Attributes:
        num: How many decisions were removed.
        last: Where the search ended: the next call's `after`.
        more: Whether there should be a next call.
    """

    num: int
    last: DecisionKey
    more: bool


class EventStore(Protocol):
    """Stores the decisions, the rewards and the log of every bandit: all else is derived.

    Attributes:
        epoch: How many times the store was opened, this opening included.
        ids: Makes the ids of decisions; used on the thread that appends.
        clock: Service time; every `due_windows` compares it with the wall clock.
        shared: Whether other processes append to it as well. What is in memory of a decision may
            then be older than what is stored.
        confirms: Whether what can be looked up may not be durable yet: see `confirm`.
    """

    epoch: int
    ids: DecisionIds
    clock: ServiceClock
    shared: bool
    confirms: bool

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

    def wal_pinned_s(self) -> float:
        """Return for how many seconds a reader has prevented that the log is emptied; 0: none."""

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """Store a decision; the result is an answer, not None, where its id was stored before."""

    def append_decisions(
        self,
        records: Sequence[DecisionRecord],
        done: Done[list[StoredAnswer | BandexaError | None]],
        *,
        more: bool = False,
    ) -> None:
        """Store several decisions, in their order, each as by `append_decision`.

        The result has for each what that returns, or the error that it raises. With `more` others
        follow soon, and are committed with these: at the next append without it, or `hand_over`.
        """

    def hand_over(self) -> None:
        """Commit now what was appended with `more`."""

    def append_propensity(self, key: DecisionKey, propensity: float, done: Done[None]) -> None:
        """Fill in the propensity of a decision that was answered without one."""

    def find_decision(self, decision_id: DecisionId, done: Done[FoundDecision]) -> None:
        """Look a decision up, behind everything that was appended before.

        Raises (through the callback):
            UnknownDecision: There is no such decision.
            Erased: It was erased.
        """

    def confirm(self, done: Done[None]) -> None:
        """Answer once everything that was looked up before is durable, as `durability` has it.

        A caller that gets an answer by what was looked up alone, and not by an append, waits for
        this: what others have appended may be visible before it is durable.
        """

    def find_repeats(
        self,
        key: DecisionKey,
        item: int,
        reward_id: str | None,
        reward: Outcome,
        done: Done[list[Outcome]],
    ) -> None:
        """Look up the rewards under an id, behind everything that was appended before.

        Without an id: the late rewards without one that equal `reward`.
        """

    def append_step(self, step: Step, done: Done[tuple[Logged, ...] | None]) -> None:
        """Store a step of a decision; the result has the log rows that it learned.

        None: the decision is in another state than the one that the step starts from, and nothing
        was stored. States are compared by their version; that of a new decision, which a caller may
        have guessed, also by what the decision says.

        Raises (through the callback):
            UnknownDecision: There is no such decision any more.
            Erased: It was erased.
            StoreDamaged: Its context or its actions are not what was written.
        """

    def due_windows(self, done: Done[Due]) -> None:
        """Find what is mature, and the reward windows that are over; called about once a second.

        Time in which it was not called, or failed, does not count towards a window: all of a gap
        that is longer than `UNWATCHED_S`, or before the first call of this opening.
        """

    def accept_clock(self, done: Done[float]) -> None:
        """Move service time up to wall time; the result says by how many seconds."""

    def append_change(
        self, bandit: BanditRecord, change: CatalogueChange, done: Done[CatalogueRow]
    ) -> None:
        """Log a change of the catalogue."""

    def append_config(
        self,
        bandit: BanditRecord,
        spec: BanditSpec,
        done: Done[ConfigRow],
        wanted: BanditSpec | Literal["nothing"] | None = None,
        why: Why | None = None,
    ) -> None:
        """Log a change of the configuration.

        Args:
            bandit: The bandit.
            spec: Its changeable part holds from the new row on.
            done: Receives the row.
            wanted: The configuration to be served once it is relearned; "nothing": take back what
                was wanted so far; None: that stays as it is.
            why: Why a guard makes the change, or what it means for a challenger; None: it is
                neither.
        """

    def append_switch(
        self,
        bandit: BanditRecord,
        generation: LogPosition,
        version: SnapshotVersion,
        done: Done[ConfigRow],
    ) -> None:
        """Log that what was relearned is served from the new row on; see `Configurations`.

        The snapshot is published before, so that no row ever names a missing one.
        """

    def append_import(
        self, bandit: BanditRecord, version: SnapshotVersion, done: Done[ImportRow]
    ) -> None:
        """Log that an imported snapshot is the model from the new row on.

        The snapshot is published before, so that no row ever names a missing one.
        """

    def append_round(self, bandit: BanditRecord, record: RoundRecord, done: Done[None]) -> None:
        """Store how a training round went, for the dashboard."""

    def append_audit(self, entry: AuditEntry, done: Done[None]) -> None:
        """Store what was done to a bandit; the oldest of `MAX_AUDIT` entries of a name go."""

    def put_challenger(
        self, bandit: BanditRecord, name: str, state: str | None, done: Done[None]
    ) -> None:
        """Store what is noted of a challenger of a bandit, in place of what was; None: nothing."""

    def trim_log(
        self, bandit: BanditRecord, up_to: LogPosition, sample_size: int, done: Done[Trimmed]
    ) -> None:
        """Remove some learn rows up to `up_to` and store a sample of them.

        Snapshots older than `up_to` cannot be served afterwards. Decisions that `drop_decisions`
        has examined, and that only these rows held back, are removed as well.
        """

    def trim_catalogue(
        self, bandit: BanditRecord, catalogue: Catalogue, position: LogPosition, done: Done[None]
    ) -> None:
        """Store the actions at a position, and remove the catalogue's changes up to it."""

    def drop_decisions(
        self, bandit: BanditRecord, before: DecisionKey, after: DecisionKey, done: Done[Dropped]
    ) -> None:
        """Remove some decisions with keys below `before` that no remaining log row refers to.

        It goes on where an earlier call ended, `after`. Those that are held back by the log are
        left to `trim_log`. It stops before the first whose reward window is open.
        """

    def begin_erasure(
        self, bandit: int | None, unit: str | None, ids: tuple[DecisionId, ...], done: Done[Erasure]
    ) -> None:
        """Store what is to be erased, of all bandits or of one; nothing is erased yet.

        It is open until `erase` has no more: `LogReader.erasures` lists it in every later opening.
        """

    def erase(self, erasure: Erasure, start: int, done: Done[ErasedPart]) -> None:
        """Erase some decisions, from `start` on (0 at first); call again while there are more.

        What could identify somebody is overwritten. Numbers, times and actions of the catalogue
        stay, and so do the hashes. Erasing what was erased before does nothing.
        """

    def relearned(self, mark: Relearning, done: Done[None]) -> None:
        """Note that a model was rebuilt, unless more was erased since `mark`."""

    def create_bandit(
        self, uid: BanditUid, name: str, spec: BanditSpec, done: Done[BanditRecord]
    ) -> None:
        """Create a bandit whose snapshot 0 is published already.

        Raises (through the callback):
            Conflict: There is one with this name, or `uid` is not what `LogReader.next_uid` gives.
        """

    def delete_bandit(self, bandit: BanditRecord, done: Done[None]) -> None:
        """Delete a bandit, its decisions and its log."""

    def empty_wal(self, done: Done[bool]) -> None:
        """Leave nothing in the write-ahead log; False: a reader prevents that now, try again."""

    def shrink(self, pages: int, done: Done[int]) -> None:
        """Return at most so many free pages to the file system; the result: how many are left.

        Raises (through the callback):
            Conflict: The store's file cannot shrink while it is open.
        """

    def sync(self, done: Done[None]) -> None:
        """Sync everything appended before to disk, at any durability setting."""

    def reader(self) -> LogReader:
        """Return a new reader; the caller closes it."""

    def follower(self) -> LogReader:
        """Return a new reader that finds the newest log rows in memory; the caller closes it."""

    def history(self) -> DecisionHistory:
        """Return a new reader of decisions; the caller closes it."""

    def counting(self) -> CountingReader:
        """Return a new reader of what the dashboard counts; the caller closes it."""

    def close(self) -> None:
        """Commit what is queued and stop; calling it again does nothing."""
