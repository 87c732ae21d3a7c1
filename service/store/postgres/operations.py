"""The operations inside the writer's group, as far as they are PostgreSQL's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bandexa_core.errors import BandexaError
from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.log.contract import Outcome
from service.store.clock import ServiceClock
from service.store.errors import Conflict, StoreError
from service.store.identity import DecisionIds
from service.store.postgres.writing import WritingDatabase, own_id_text
from service.store.protocol import FoundDecision, Logged, Step
from service.store.records import BanditRecord, DecisionRecord, StoredAnswer
from service.store.sql.operations import Operations
from service.store.sql.reader import stored_answer
from service.store.sql.tail import LogTail

Finding = tuple[DecisionId] | tuple[DecisionKey, int, str | None, Outcome]


class PostgresOperations(Operations):
    """See `Operations`.

    Attributes:
        administers: Whether this server does what one server does for all that share a database.
    """

    def __init__(
        self, db: WritingDatabase, clock: ServiceClock, tail: LogTail, ids: DecisionIds
    ) -> None:
        super().__init__(db, clock, tail, ids)
        self._writing = db
        self.administers = True

    def end(self) -> None:
        """See `Operations.end`; the clock and the windows are the keeper's."""
        if self.administers:
            super().end()

    # -- other servers ------------------------------------------------------------------------

    def forget_committed(self) -> None:
        """Forget the rows of groups that were committed, and may be lost."""
        self._tail.clear()

    def others_appended(self, bandit: int) -> None:
        """Drop what is cached of a log that another server has appended to."""
        self._writing.heads.pop(bandit, None)
        self._log.forget(bandit)
        self._bounds.forget(bandit)
        self._known.pop(bandit, None)

    def read_again(self) -> None:
        """Drop what another server may have stored meanwhile: times of windows, and delays."""
        self._delays.forget()
        self._windows.read_offset()

    def unremember(self, bandit: int) -> None:
        """Forget a bandit that another server has deleted."""
        self._bandits.pop(bandit, None)
        self.others_appended(bandit)

    # -- decisions ----------------------------------------------------------------------------

    def decisions(self, records: list[DecisionRecord]) -> list[StoredAnswer | BandexaError | None]:
        """See `Operations.decisions`; within a transaction."""
        if len({d.decision_id for d in records}) < len(records):
            return [answer for d in records for answer in self.decisions([d])]
        known = self.keep(records)
        live = [d for d in records if d.bandit in self._bandits]
        refused = self._writing.kept()
        self._import([d for d in live if d.imported is not None and d.key not in refused])
        stored = self.answers(records, refused)
        return [there or found for there, found in zip(stored, known, strict=True)]

    def keep(self, records: list[DecisionRecord]) -> list[StoredAnswer | BandexaError | None]:
        """Collect decisions; what is stored under their ids follows from `answers`."""
        live = [d for d in records if d.bandit in self._bandits]
        windows, maturing = self._waiting(live)
        drawn = {(d.bandit, d.position, d.log_hash) for d in live if d.log_hash is not None}
        self._writing.keep([self._row(d) for d in live], drawn)
        self._windows.open(windows)
        self._windows.mature_at(maturing)
        gone = Conflict("the bandit was deleted while the request was on its way")
        return [None if d.bandit in self._bandits else gone for d in records]

    def answers(
        self, records: Sequence[DecisionRecord], refused: frozenset[int]
    ) -> list[StoredAnswer | BandexaError | None]:
        """Return what is stored under the ids of those decisions that were refused."""
        return [None if d.key not in refused else self._stored(d) for d in records]

    def _stored(self, record: DecisionRecord) -> StoredAnswer | BandexaError:
        found = stored_answer(self._writing, self._ids, record.decision_id)
        if found is None and not self._writing.is_live(record.bandit):
            return Conflict("the bandit was deleted while the request was on its way")
        return found or StoreError(f"key {record.key} has another decision")

    def _row(self, d: DecisionRecord) -> tuple[Any, ...]:
        """Return a row in the order of the table's columns."""
        *first, std, unit, propensities, imported, arm = self._decision_row(d)
        key, own_id, *middle, explored = first
        flag = None if explored is None else int(explored)
        return (
            key, own_id_text(own_id), *middle, flag, std, None, None, unit, arm, propensities,
            imported,
        )  # fmt: skip

    def propensities(self, filled: list[tuple[DecisionKey, float]]) -> list[None]:
        """Fill in propensities that were computed after the answers."""
        self._db.executemany(
            "UPDATE decisions SET propensity = ? WHERE key = ? AND propensity IS NULL",
            [(propensity, key) for key, propensity in filled],
        )
        return [None] * len(filled)

    # -- reports ------------------------------------------------------------------------------

    def steps(self, steps: list[Step]) -> list[tuple[Logged, ...] | BandexaError | None]:
        """See `Ledger.append`."""
        answers = self.ledger.append(steps)
        versions: dict[int, int] = {}
        for step, answer in zip(steps, answers, strict=True):
            if isinstance(answer, tuple):
                versions.setdefault(step.decision.key, step.decision.state.version)
        self._writing.stepped_from(versions)
        return answers

    def finds(self, wanted: list[Finding]) -> list[FoundDecision | list[Outcome] | BandexaError]:
        """Look decisions up, all at once, and repeats of rewards."""
        decisions = iter(self.ledger.found([each[0] for each in wanted if len(each) == 1]))
        found: list[FoundDecision | list[Outcome] | BandexaError] = []
        for each in wanted:
            if len(each) == 1:
                found.append(next(decisions))
                continue
            try:
                found.append(self.ledger.repeats(*each))
            except BandexaError as error:
                found.append(error)
        return found

    def confirms(self, asked: list[None]) -> list[None]:
        """Do nothing: what is answered in its place was read, and has to be durable."""
        return asked

    def delete(self, bandit: BanditRecord) -> None:
        """See `Operations.delete`; the order of a round goes too, by which a trainer ends it."""
        super().delete(bandit)
        self._db.execute("DELETE FROM orders WHERE uid = ?", (bandit.uid,))

    def purge(self, key: int) -> bool:
        """See `Operations.purge`."""
        more = super().purge(key)
        if not more:
            self._db.execute("DELETE FROM heads WHERE bandit = ?", (key,))
        return more
