"""The interfaces of read-only views of an event store: the log, decisions, counts, an audit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.metrics import Totals, Weights
from bandexa_core.log.rows import Group, LearnRow, VoidRow
from bandexa_core.replay import Evicted
from bandexa_core.spec import BanditSpec
from service.store.findings import Report, Say
from service.store.identity import DecisionIds
from service.store.records import (
    AuditEntry,
    BanditRecord,
    Blanked,
    CountedRow,
    CountedValue,
    DecisionSummary,
    Erasure,
    LoggedPage,
    Moment,
    Newest,
    Relearning,
    RoundRecord,
    StoredAnswer,
    StoredDecision,
    Trim,
)

BEGINNING = LogPosition(0)
NOTHING_EXAMINED: Mapping[int, DecisionKey] = {}


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

    @property
    def ids(self) -> DecisionIds:
        """The ids of the store's decisions."""

    def newest_key(self, bandit: int) -> DecisionKey:
        """Return the key of the newest decision; without one, the one before the first."""

    def epoch(self) -> int:
        """Return the epoch of the newest opening of the store."""

    def used_bytes(self) -> int:
        """Return how many bytes of the database hold data; its file may be larger."""

    def bandits(self) -> list[BanditRecord]:
        """Return the bandits that are not deleted, by name; specs as they were created."""

    def next_uid(self, name: str) -> BanditUid:
        """Return the uid of the next bandit of this name; it was never used before."""

    def deleted(self) -> list[BanditUid]:
        """Return the uids of the deleted bandits."""

    def answer(self, decision_id: DecisionId) -> StoredAnswer | None:
        """Return what answered a decision's select, None without such a decision."""

    def num_imported(self, bandit: int) -> int:
        """Return how many decisions were imported into a bandit, those that left included."""

    def challengers(self, bandit: int) -> dict[str, str]:
        """Return what is noted of each challenger of a bandit, by its name, in that order."""

    # -- the log ------------------------------------------------------------------------------

    def head(self, bandit: int) -> LogPosition:
        """Return the position of the newest row, 0 for an empty log."""

    def trim(self, bandit: int) -> Trim:
        """Return where the log begins: retention removed the learn rows up to there."""

    def hash_at(self, bandit: int, position: LogPosition) -> bytes | None:
        """Return the hash of the log up to `position`; None where that row is not in the log."""

    def follow(
        self,
        record: BanditRecord,
        after: LogPosition,
        up_to: LogPosition,
        chunk: int = 512,
        voids: LogPosition = BEGINNING,
        previous: bytes | None = None,
    ) -> Iterator[Group]:
        """Yield the groups in (after, up_to] in order, reading about `chunk` rows at once.

        Both positions are those of group ends. Rows of values that a row in (after, `voids`] voids
        are read as erased ones: whoever builds a model anew leaves them out. `previous` is the hash
        of the log up to `after`, as the model that follows it has it; None: it does not know.

        Raises:
            LogBranched: The log has another row at `after` than the model has.
            LogTrimmed: Retention removed rows after `after`, perhaps while they were read.
            StoreDamaged: A row is missing, or its hash differs.
        """

    def configurations(
        self, record: BanditRecord, up_to: LogPosition | None = None
    ) -> Configurations:
        """Return all configurations of a bandit up to a position; None: up to the log's end."""

    def spec_at(
        self, record: BanditRecord, position: LogPosition, generation: int | None = None
    ) -> BanditSpec:
        """Return the configuration of a generation as of `position`; None: of the one served there.

        See `Configurations.spec`.
        """

    def catalogue_at(
        self,
        record: BanditRecord,
        position: LogPosition,
        start: Catalogue | None = None,
        after: LogPosition = BEGINNING,
    ) -> Catalogue:
        """Return the actions at `position`: `start`, those at `after`, and the changes since."""

    def removable_changes(self, bandit: int) -> tuple[LogPosition, int]:
        """Return up to which row no stored decision or sample needs the catalogue's changes.

        The second value is the size of these changes in bytes.
        """

    def forgetting_at(
        self,
        record: BanditRecord,
        start: Forgetting,
        after: LogPosition,
        up_to: LogPosition,
        generation: int | None = None,
    ) -> Forgetting:
        """Return the state at `up_to` that follows from `start`, the state at `after`.

        It is that of a generation; None: of the one served at `after`. Rows from before its
        configuration was wanted are forgotten by that configuration, too.
        """

    def count_learned(self, bandit: int, after: LogPosition, up_to: LogPosition) -> int:
        """Return how many decisions' values were learned for the first time in (after, up_to].

        With `after` 0, rows that retention removed count as well. Values do not count that were
        erased since, or that a row up to `up_to` voids.
        """

    def evicted(
        self,
        record: BanditRecord,
        through: LogPosition,
        position: LogPosition,
        most: int,
        weights: Weights | None = None,
    ) -> Evicted | None:
        """Return a sample of at most `most` rows up to `through`, with their values at `position`.

        None where no row was evicted, or no sample is stored. Values that a row up to `position`
        voids are not among them. Values of metrics are those under `weights`; None: as they were
        reported.

        Raises:
            LogTrimmed: Retention removed rows after `through`.
            StoreDamaged: A row's checksum differs.
        """

    def metrics(self, bandit: int) -> dict[str, Totals]:
        """Return the totals of the metrics that were reported for a bandit, by name."""

    def imports(self, bandit: int) -> dict[SnapshotVersion, LogPosition]:
        """Return the snapshot versions that import rows name, and the rows' positions.

        Recovery may need them.
        """

    def erasures(self) -> list[Erasure]:
        """Return the erasures that are not done."""

    def relearning(self) -> list[Relearning]:
        """Return the bandits whose models have to be rebuilt, because rows were erased."""

    def blanked(self, bandit: int | None = None) -> list[Blanked]:
        """Return when learn rows were blanked, of one bandit or of all; by bandit, oldest first.

        A time is left out where a later one's range includes its own.
        """

    def void_rows(self, bandit: int, after: LogPosition, up_to: LogPosition) -> list[VoidRow]:
        """Return the rows in (after, up_to] that void values, in order."""

    def void_values(
        self, record: BanditRecord, voids: Sequence[VoidRow]
    ) -> Iterator[tuple[VoidRow, LearnRow]]:
        """Yield rows that void values, each with its value as a learn row of `origin`.

        Those whose decision was erased, or removed by retention, are left out. The log may have
        lost the learn row itself; its decision is enough.
        """

    def last_import(self, bandit: int, up_to: LogPosition) -> LogPosition:
        """Return the position of the last import row up to `up_to`, 0 without one."""

    # -- for retention and verification -------------------------------------------------------

    def first_learned(self, bandit: int, number: int, up_to: LogPosition) -> LogPosition:
        """Return the position of the n-th (from 1) first value that is in the log.

        Values that were erased, or that a row up to `up_to` voids, do not count.
        """

    def last_before(self, bandit: int, time: float) -> LogPosition:
        """Return the position up to which all rows are older than `time`, a service time."""

    def with_old_rows(self, before: float, change_bytes: int) -> set[int]:
        """Return the bandits that retention has to check, of all that are not deleted.

        Their oldest decision or learn row is older than `before`, or the changes of their
        catalogue take more than `change_bytes`.
        """

    def decision_time(
        self,
        number: int,
        after: Mapping[int, DecisionKey] = NOTHING_EXAMINED,
        behind: float = -math.inf,
    ) -> float | None:
        """Return the service time of the n-th oldest decision (from 0), None beyond it.

        Args:
            number: How many decisions are older.
            after: By bandit, the key up to which its decisions do not count.
            behind: The service time up to which no decision counts.
        """

    def may_drop(self, record: BanditRecord, before: DecisionKey, after: DecisionKey) -> bool:
        """Whether `drop_decisions` has a decision to examine."""

    def may_trim(self, bandit: int, up_to: LogPosition) -> bool:
        """Whether `trim_log` has a row to remove."""

    def ends_learned(self, bandit: int, position: LogPosition) -> bool:
        """Whether the log ends at `position`, with a learn row."""


class DecisionHistory(Reader, Protocol):
    """Reads decisions with their rewards, and training rounds: for people to inspect."""

    def bandit_of(self, decision_id: DecisionId) -> int | None:
        """Return the key of the bandit that made a decision; None without such a decision.

        Bandits that were deleted are among them.
        """

    def decision(self, bandit: BanditRecord, decision_id: DecisionId) -> StoredDecision | None:
        """Return a decision of a bandit; None without such a decision.

        Raises:
            Erased: It was erased.
            StoreDamaged: Its checksum differs.
        """

    def valued(
        self,
        bandit: BanditRecord,
        since: float | None,
        until: float | None,
        after: DecisionKey,
        most: int,
    ) -> tuple[list[DecisionId], DecisionKey | None]:
        """Return decisions that something was reported about, or learned of, oldest first.

        Args:
            bandit: The bandit.
            since: Those made at or after this wall time, in seconds since the epoch; None: all.
            until: Those made before this wall time; None: all.
            after: The key that the last call ended with; 0 at first.
            most: How many are examined at most.

        Returns:
            Their ids, and the key for the next call; None where there are no more.
        """

    def newest(self, bandit: BanditRecord, before: int | None, limit: int) -> list[DecisionSummary]:
        """Return decisions, newest first; `before`: only those older than this row."""

    def rounds(self, bandit: BanditRecord, since: float, limit: int) -> list[RoundRecord]:
        """Return the newest rounds since a time, oldest first."""

    def audit(self, bandit: str, before: int | None, limit: int) -> list[AuditEntry]:
        """Return what was done to the bandits of a name, newest first, deleted ones included.

        `before`: only entries older than this row.
        """

    def moment(self, bandit: BanditRecord) -> Moment:
        """Return the moment now."""

    def logged(
        self, bandit: BanditRecord, moment: Moment, after: DecisionKey, most: int, most_bytes: int
    ) -> LoggedPage:
        """Return decisions with keys above `after` as they were at a moment, oldest first.

        A value is that at the moment's position, whatever was learned since, unless it is void by
        now; rewards are those that had arrived. Decisions that retention removed since are missing.

        Args:
            bandit: The bandit.
            moment: What `moment` returned for it, of this store at any time.
            after: The key that the last page ended with; 0 at first.
            most: How many decisions at most, erased ones included; at least 1.
            most_bytes: What one page reads exceeds this by at most one decision.

        Raises:
            StoreDamaged: A decision's checksum differs.
        """


class CountingReader(Reader, Protocol):
    """Reads decisions and learned values in small pieces, to be counted for the dashboard."""

    def newest(self) -> dict[int, Newest]:
        """Return the newest rows of every bandit that is not deleted, by its key.

        While nothing is committed it is the same dictionary; do not change it.
        """

    def decisions(self, bandit: int, after: int, most: int, most_bytes: int) -> list[CountedRow]:
        """Return a bandit's decisions after key `after`, in order.

        Args:
            bandit: The bandit.
            after: The key that the last call ended with; 0 at first.
            most: How many decisions at most.
            most_bytes: What one call reads exceeds this by at most one decision.

        Raises:
            StoreDamaged: They cannot be decoded.
        """

    def configurations(self, bandit: int) -> Configurations:
        """Return the configurations of a bandit that is not deleted, up to its log's end.

        Raises:
            StoreDamaged: They are not what was written.
            KeyError: There is no such bandit any more.
        """

    def learned(
        self,
        bandit: int,
        after: int,
        up_to: int,
        most: int,
        *,
        contexts: bool = False,
        shadows: bool = False,
        units: bool = False,
    ) -> list[CountedValue]:
        """Return at most so many learn rows, and rows that void values, in (after, up_to].

        `contexts`: With the contexts of their decisions. `shadows`: With what shadows would have
        served in these. `units`: With whether these are the first ones of their units.
        """


class Audit(Reader, Protocol):
    """Checks a store against itself, for `bandexa verify`, beside a server or without one."""

    def check_file(self, report: Report, say: Say) -> bool:
        """Check the format itself, and add a check to the report; False: rows cannot be trusted."""

    def check_rows(self, records: list[BanditRecord], report: Report, say: Say) -> None:
        """Check the logs, the decisions, their rewards and windows of some bandits.

        Every value is learned once and is what its rewards make, every hash is that of its rows,
        and every row that names a decision, an earlier row or a window finds it.
        """
