"""The store of a server that shares its database: it writes itself, and follows what others write.

Decisions and reports are appended by every server. Everything else is the keeper's, and the others
refuse it here. What others have appended is announced on the event loop, as for the processes of
one server: see `service.store.socket.client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bandexa_core.ids import DecisionId
from service.store.address import PostgresUrl
from service.store.errors import StoreError, Unavailable, UnknownDecision
from service.store.identity import bandit_of
from service.store.postgres.branches import lost_row
from service.store.postgres.faults import LogStrayed
from service.store.postgres.membership import Membership
from service.store.postgres.store import PostgresStore
from service.store.postgres.watching import Seen, Watcher
from service.store.protocol import Deliver, Done, Durability, FoundDecision
from service.store.records import BanditRecord
from service.store.sharing import Changes

READ_AGAIN_S = 1.0
SILENT_S = 3.0  # of the database, after which this process is not ready


class SharedStore(PostgresStore):
    """See `EventStore`.

    Args:
        url: The database.
        durability: See `PostgresStore`.
        deliver: Likewise; from any thread.
        gather: Likewise.
        member: This server among those that share it.
    """

    shared = True

    def __init__(
        self,
        url: PostgresUrl,
        durability: Durability,
        deliver: Deliver,
        gather: Deliver | None,
        member: Membership,
    ) -> None:
        super().__init__(url, durability, deliver, gather=gather, member=member)
        self.member = member
        self._announce: Callable[[Changes], None] = lambda changes: None
        self._watcher: Watcher | None = None
        self._lost_at: float | None = None
        self._read_again = 0.0

    def watch(self, changed: Callable[[Changes], None], found: Callable[[], None]) -> None:
        """Call `changed` with what others append, and when the database is back.

        Not `found`: whether the logs are still those of the models is known to the
        writer, which ends this process where they are not.
        """
        assert self._sharing is not None
        self._announce = changed
        if self._watcher is None:
            self._watcher = Watcher(
                self._url, self._sharing.seen, self._seen, self._went, self._came
            )

    @property
    def overtaken(self) -> int:
        """How many groups were written again because another server was faster."""
        assert self._sharing is not None
        return self._sharing.overtaken

    def lost_s(self) -> float:
        """Return for how many seconds the database has not answered; 0 while it does."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    @property
    def failure(self) -> str | None:
        """See `EventStore.failure`; a write that waits for a network notices nothing for long."""
        if super().failure is None and self.lost_s() > SILENT_S:
            return "the database does not answer"
        return super().failure

    @property
    def failed_for_good(self) -> bool:
        """See `EventStore.failed_for_good`; or this server has to start again in another role."""
        member = self.member
        return super().failed_for_good or member.lost is not None or member.is_promoted

    def remember(self, record: BanditRecord) -> None:
        """Hold a live bandit in memory."""
        self._own.remember(record)

    def forget(self, key: int) -> None:
        """Forget a bandit that was deleted."""
        self._put(lambda: self._own.unremember(key), lambda _, error: None)

    def settled(self, number: int) -> None:
        """Do nothing: a change does not wait for other servers."""

    def counted(self, counts: list[Any]) -> None:
        """Do nothing: the keeper counts what is stored."""

    def show(self, number: int, text: bytes) -> None:
        """Do nothing: every server shows its metrics itself."""

    def close(self) -> None:
        """See `EventStore.close`."""
        if self._watcher is not None:
            self._watcher.end()
            self._watcher = None
        super().close()

    # -- on the watcher's thread ----------------------------------------------------------------

    def _seen(self, seen: Seen) -> None:
        assert self._sharing is not None
        self._sharing.note(seen.heads)  # before anything is decided by these rows
        if seen.went_back:
            self._deliver(self._compare)
        heads = {bandit: end.position for bandit, end in seen.heads.items()}
        changes = Changes(heads=heads, bandits=seen.bandits, served=seen.served)
        self._deliver(lambda: self._announced(changes))

    def _announced(self, changes: Changes) -> None:
        self._announce(changes)
        if not self.member.is_keeper and time.monotonic() >= self._read_again:
            self._read_again = time.monotonic() + READ_AGAIN_S
            self._put(self._catch_up, lambda _, error: None)

    def _catch_up(self) -> None:
        """Take over the time of the database, and of the keeper."""
        self._wall.look(self._database.session)
        self.clock.note()
        self._own.read_again()

    def _went(self, answered_at: float) -> None:
        self._lost_at = answered_at

    def _came(self) -> None:
        self._lost_at = None
        self._deliver(self._compare)
        self._deliver(lambda: self._announced(Changes(bandits=True)))

    def _compare(self) -> None:
        """Have the writer end this process where the database lacks rows of its models.

        What they decide is not stored in any case, but a server that nobody asks for decisions
        explains and scores by them as well.
        """
        self._put(self._require_rows, lambda _, error: None)

    def _require_rows(self) -> None:
        assert self._sharing is not None
        lost = lost_row(self._database.session, self._sharing.seen().items())
        if lost is not None:
            raise LogStrayed(f"row {lost} of a log is lost, or another one is in its place")


class ReplicaStore(SharedStore):
    """The store of a server that is not the keeper: it administers nothing."""

    _newest = 0  # the newest bandit that is known here

    def _begin(self, gather: Deliver | None) -> None:
        """Start the writer; what an earlier opening left to be purged is the keeper's."""
        self._thread.start()
        self._gather = gather

    def remember(self, record: BanditRecord) -> None:
        """Hold a live bandit in memory."""
        super().remember(record)
        self._newest = max(self._newest, record.key)

    def find_decision(self, decision_id: DecisionId, done: Done[FoundDecision]) -> None:
        """See `EventStore.find_decision`; that of a bandit created just now may be found later."""
        newest = self._newest  # it may be known once the answer is here, and was not looked for

        def found(decision: FoundDecision | None, error: Exception | None) -> None:
            key = self.ids.key(decision_id)
            if isinstance(error, UnknownDecision) and key and bandit_of(key) > newest:
                error = Unavailable("the bandit of the decision is not served here yet")
            done(decision, error)

        super().find_decision(decision_id, found)

    def _of_keeper(self, *arguments: Any, **named: Any) -> None:
        """Refuse what the keeper does."""
        done = next(each for each in arguments if callable(each))
        done(None, StoreError("this server does not administer the store"))

    due_windows = accept_clock = append_change = append_config = append_switch = _of_keeper
    append_import = append_round = append_audit = put_challenger = trim_log = _of_keeper
    trim_catalogue = drop_decisions = begin_erasure = erase = relearned = _of_keeper
    create_bandit = delete_bandit = empty_wal = shrink = _of_keeper
