"""The engine: every request ends here. Knows policy and store, nothing of HTTP.

Runs on the event loop. One applier per bandit: committed rows come back from the store in log
order, are applied, and only then are the waiting answers resolved. After a crash the same models
come back from snapshot and log.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.filesystem import LocalFileSystem, make_dirs
from bandexa_core.ids import (
    BanditUid,
    DecisionId,
)
from bandexa_core.log import LearnRow
from bandexa_core.policies import EncodedContext
from bandexa_core.snapshot import SnapshotStore
from service.bandit import Bandit, CandidateInput
from service.dashboard.follower import Follower
from service.decisions import (
    Asked,
    Decision,
    Scores,
    SelectCommand,
    decision_of,
    repeated,
    told_of,
)
from service.drawing import DrawingDesk
from service.encoding import ContextEncoder
from service.exceptions import (
    InvalidRequest,
    StoreError,
    Unavailable,
    UnknownAction,
    UnknownBandit,
)
from service.explaining import Explainer
from service.imported import Imported
from service.loading import load_at, newest_snapshot
from service.logs import DECISIONS, about
from service.loss import refuse_lost_database
from service.metrics import Metrics
from service.retention import Retention
from service.rounds import RoundDesk
from service.settings import Settings
from service.store import (
    Activation,
    ActivationStatus,
    BanditRecord,
    Closed,
    RewardOutcome,
    RewardReport,
    RewardStatus,
    SqliteStore,
)

log = logging.getLogger(__name__)
WINDOWS_LOOKED_AT_S = 1.0


class Engine:
    """All bandits of one server.

    Args:
        settings: The server's settings.
        metrics: Counted into.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.registry = EncoderRegistry(settings.encoders, settings.weights)
        self._bandits: dict[str, Bandit] = {}
        self._by_uid: dict[BanditUid, Bandit] = {}
        self.creating = asyncio.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._panels = ThreadPoolExecutor(1, thread_name_prefix="panels")
        self._encoders = ThreadPoolExecutor(1, thread_name_prefix="encoders")
        self._encoding = ContextEncoder(
            self._encoders,
            max_batch=settings.encode_batch,
            wait_s=settings.encode_wait_ms / 1000.0,
            max_waiting=settings.encode_queue,
        )
        self._late: set[asyncio.Future[float]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store: SqliteStore | None = None
        self._drawing: DrawingDesk | None = None
        self.desk: RoundDesk | None = None
        self._follower: Follower | None = None
        self._explainer: Explainer | None = None
        self._windows: asyncio.Task[None] | None = None
        self._retention: asyncio.Task[None] | None = None
        self._imported = Imported()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, bring every bandit back, start the trainer.

        Raises:
            StoreError, SnapshotError: What is on disk cannot be served.
        """
        loop = self._loop = asyncio.get_running_loop()
        self._imported.set_aside()
        for directory in (self.settings.data_dir, self.settings.snapshots, self.settings.replays):
            make_dirs(LocalFileSystem(), directory)  # their names are synced, too
        database, snapshots = self.settings.database, self.settings.snapshots
        if not database.exists() or not database.stat().st_size:
            refuse_lost_database(database, snapshots)
        self._store = SqliteStore(
            self.settings.database,
            self.settings.durability,
            loop.call_soon_threadsafe,
            gather=loop.call_soon,
        )
        self._drawing = DrawingDesk(
            loop, self._store.append_decision, self.settings.max_inline_bytes
        )
        self._reader = self._store.reader()
        live = [record.uid for record in self._reader.bandits()]
        refuse_lost_database(database, snapshots, {*live, *self._reader.deleted()})
        await loop.run_in_executor(self._executor, self._clear_deleted)
        for record in self._reader.bandits():
            await loop.run_in_executor(self._executor, self._recover, record)
        self.desk = RoundDesk(
            self.settings, self.registry, self.metrics, self._store, self.find, self._executor
        )
        self.desk.start()
        self._follower = Follower(database, self.settings.aggregates, self.metrics.stages.total)
        self._follower.start()
        self._explainer = Explainer(database, self.settings.snapshots, self.registry)
        await self.close_windows()  # the time since the last ending does not count
        self._windows = asyncio.create_task(self._watch_windows())
        self._retention = asyncio.create_task(self._retain(self._store, self.desk))

    def _clear_deleted(self) -> None:
        """Remove the files of deleted bandits that no trainer was there to remove."""
        for uid in self._reader.deleted():
            for root in (self.settings.snapshots, self.settings.replays):
                shutil.rmtree(root / uid, ignore_errors=True)

    def _recover(self, record: BanditRecord) -> None:
        snapshots = SnapshotStore(self.settings.snapshots / record.uid)
        snapshots.clean()
        head = self._reader.head(record.key)
        snapshot = newest_snapshot(self._reader, record, snapshots, head)
        model = load_at(self._reader, record, self.registry, snapshots, snapshot, head)
        self.add(Bandit(record, model, snapshots))
        log.info("bandit %s: snapshot %d, position %d", record.name, model.version, head)

    def add(self, bandit: Bandit) -> None:
        """Take a bandit into service."""
        self._bandits[bandit.record.name] = bandit
        self._by_uid[bandit.record.uid] = bandit
        self._imported.set_aside()

    async def close(self) -> None:
        """End the trainer, commit what is queued, close the store."""
        for task in (self._windows, self._retention):
            if task is not None:
                task.cancel()
        if self._retention is not None:
            await asyncio.wait([self._retention])
        if self._follower is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._follower.close)
        if self._explainer is not None:
            self._explainer.close()
        if self.desk is not None:
            await self.desk.close()
        if self._late:
            await asyncio.wait(self._late)
        if self._store is not None:
            # The writer's last answers are scheduled on this loop before the join returns.
            await asyncio.get_running_loop().run_in_executor(None, self._store.close)
            await asyncio.sleep(0)
            self._reader.close()
        self._executor.shutdown()
        self._panels.shutdown()
        self._encoders.shutdown()

    def failure(self) -> str | None:
        """Why the service is not ready, None when it is."""
        if self._store is None or self.desk is None:
            return "starting"
        failure = self._store.failure
        return None if failure is None else f"the store takes no writes: {failure}"

    @property
    def failed_for_good(self) -> bool:
        """Whether only a new process can tell what the store holds: this one has to end."""
        return self._store is not None and self._store.failed_for_good

    @property
    def store(self) -> SqliteStore:
        """The event store; Unavailable before start."""
        if self._store is None:
            raise Unavailable("the service is starting")
        return self._store

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it runs on; asking asyncio each time costs a system call."""
        if self._loop is None:
            raise Unavailable("the service is starting")
        return self._loop

    @property
    def drawing(self) -> DrawingDesk:
        """Who draws decisions; Unavailable before start."""
        if self._drawing is None:
            raise Unavailable("the service is starting")
        return self._drawing

    @property
    def follower(self) -> Follower:
        """Who counts for the dashboard; Unavailable before start."""
        if self._follower is None:
            raise Unavailable("the service is starting")
        return self._follower

    @property
    def explainer(self) -> Explainer:
        """Who explains decisions; Unavailable before start."""
        if self._explainer is None:
            raise Unavailable("the service is starting")
        return self._explainer

    @property
    def epoch(self) -> int:
        """The epoch of this opening of the data directory."""
        return self.store.epoch

    # -- look-ups -----------------------------------------------------------------------------

    def get(self, name: str) -> Bandit | None:
        """Return a live bandit, or None."""
        return self._bandits.get(name)

    def bandit(self, name: str) -> Bandit:
        """Return a live bandit; UnknownBandit where there is none."""
        bandit = self._bandits.get(name)
        if bandit is None:
            raise UnknownBandit(name)
        return bandit

    def remove(self, name: str) -> Bandit:
        """Take a bandit out of service and return it; UnknownBandit where there is none."""
        bandit = self.bandit(name)
        del self._bandits[name]
        self._by_uid.pop(bandit.record.uid)
        return bandit

    def find(self, uid: BanditUid) -> Bandit | None:
        """Return the live bandit of a uid."""
        return self._by_uid.get(uid)

    def bandits(self) -> list[Bandit]:
        """Return all bandits by name."""
        return [self._bandits[name] for name in sorted(self._bandits)]

    @property
    def encode_queue(self) -> int:
        """How many contexts wait for a slow encoder."""
        return self._encoding.waiting

    # -- selecting ----------------------------------------------------------------------------

    async def select(self, command: SelectCommand, *, patient: bool = False) -> Decision:
        """Choose, keep the decision, answer; `patient`: see `ContextEncoder.encode`.

        Raises:
            UnknownBandit, UnknownAction, InvalidRequest: The request; nothing was kept.
            Conflict: The decision id was used with another body.
            Unavailable: Too many selects wait for a slow encoder.
        """
        started = time.perf_counter()
        if command.decision_id is not None:
            about(command.decision_id)
        bandit = self.bandit(command.bandit)
        try:
            context = bandit.context(command.context)
            ready = await self._ready(bandit, context, command.candidates, patient=patient)
            encoded = time.perf_counter()
            made, kept = await self.drawing.decided(Asked(bandit, command, context, ready))
        except (InvalidRequest, UnknownAction, Unavailable):
            # Its actions may have been retired since: the answer given then still stands.
            own_id = command.decision_id
            given = None if own_id is None else self._reader.answer(own_id)
            if own_id is None or given is None:
                raise
            return repeated(own_id, command.body_hash, given)
        record = made.record
        about(record.decision_id)
        if kept is None:
            answer = decision_of(record)
            bandit.vitals.decided(
                record.time, [chosen.id for chosen in record.chosen], record.propensity,
                choice=made.choice, activated=record.activated,
            )  # fmt: skip
            if made.late is not None:
                self._fill_in(record.decision_id, made.late)
            if DECISIONS.isEnabledFor(logging.DEBUG):
                DECISIONS.debug("decision", extra=told_of(command.bandit, answer))
        else:
            answer = repeated(record.decision_id, record.body_hash, kept)
        bandit.vitals.selects += 1
        self.metrics.stages.observe(
            command.decode_s,
            encoded - started + made.encode_s,
            made.draw_s,
            time.perf_counter() - encoded - made.encode_s - made.draw_s,
        )
        return answer

    def _fill_in(self, decision_id: DecisionId, late: Callable[[], float]) -> None:
        """Work out a propensity behind the answer, on a thread, and keep it with the decision."""

        def kept(_: None, error: Exception | None) -> None:
            if error is not None:
                its = {"decision_id": decision_id}
                log.warning("a propensity could not be kept: %s", error, extra=its)

        def keep(future: asyncio.Future[float]) -> None:
            self._late.discard(future)
            if not future.cancelled():
                self.store.append_propensity(decision_id, future.result(), kept)

        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._panels, late)
        self._late.add(future)
        future.add_done_callback(keep)

    async def _ready(
        self,
        bandit: Bandit,
        context: NDArray[Any],
        candidates: CandidateInput,
        *,
        patient: bool = False,
    ) -> NDArray[Any] | EncodedContext:
        """Return a context as the served model wants it: encoded, where that takes long."""
        while (encoder := bandit.model.slow_encoder) is not None:
            bandit.offer(candidates)  # what would be refused is, before anything is encoded
            try:
                part = await self._encoding.encode(bandit, context, patient=patient)
            except ValueError as error:
                raise InvalidRequest.from_value_error(error, "context") from error
            if bandit.model.slow_encoder is encoder:  # else swapped meanwhile
                return part
        return context

    async def score(self, name: str, context: Any, candidates: CandidateInput) -> Scores:
        """Return what the served model thinks of the candidates; keeps nothing."""
        bandit = self.bandit(name)
        array = bandit.context(context)
        ready = await self._ready(bandit, array, candidates)
        model, offer = bandit.model, bandit.offer(candidates)
        try:
            means, stds = model.policy.score(ready, offer.candidates)
        except ValueError as error:
            raise InvalidRequest.from_value_error(error, "candidates") from error
        ids = offer.ids
        slots = offer.candidates.slots
        if ids is None:
            ids = [model.catalogue.ids[slot] for slot in slots]
        indexes = slots if offer.ids is None else np.arange(len(slots))
        return Scores(tuple(ids), indexes, means, stds, model.version, model.position)

    # -- learning -----------------------------------------------------------------------------

    async def reward(self, report: RewardReport) -> tuple[RewardStatus, bool]:
        """Keep a reward and learn from it; returns its status and whether a round is due.

        Raises:
            UnknownDecision, InvalidRequest: Nothing was kept.
        """
        started = time.perf_counter()
        about(report.decision_id)
        self.drawing.draw_before(report.decision_id)
        outcome = await self.committed(self.store.append_reward, report, then=self._learn)
        bandit = self._by_uid.get(outcome.uid)
        if bandit is not None and outcome.row is not None:
            await bandit.applied(outcome.row.position)
            self._train_if_due(bandit)
        self.metrics.reward_seconds.observe(time.perf_counter() - started)
        if bandit is None:
            return outcome.status, False
        bandit.vitals.rewarded(outcome.status)
        if DECISIONS.isEnabledFor(logging.DEBUG):
            told = {"reward": report.reward, "status": outcome.status}
            DECISIONS.debug("reward", extra={"bandit": bandit.record.name, **told})
        return outcome.status, bandit.model.round_due()

    def _learn(self, outcome: RewardOutcome) -> None:
        if outcome.row is not None:
            self._apply(outcome.uid, outcome.row, reported=True)

    def _apply(self, uid: BanditUid, row: LearnRow, *, reported: bool) -> None:
        bandit = self._by_uid.get(uid)
        if bandit is not None:
            bandit.apply(row)
            bandit.vitals.learned(row.before, row.after, bandit.record.spec.reward_range)
            if reported and row.before is None:
                bandit.vitals.joined(row.time)
            self._train_if_due(bandit)  # here, too: the caller may have gone away

    async def activate(self, decision_id: DecisionId) -> ActivationStatus:
        """Count a decision that was made with `activate` false, and learn its rewards.

        Raises:
            UnknownDecision: Nothing was kept.
        """
        now = time.time()

        def learn(found: Activation) -> None:
            bandit = self._by_uid.get(found.uid)
            if bandit is not None and found.status == "applied":
                bandit.vitals.activated(now, found.num_actions)
            for row in found.rows:
                self._apply(found.uid, row, reported=True)

        self.drawing.draw_before(decision_id)
        found: Activation = await self.committed(
            self.store.append_activation, decision_id, now, then=learn
        )
        bandit = self._by_uid.get(found.uid)
        if bandit is not None and found.rows:
            await bandit.applied(found.rows[-1].position)
        return found.status

    async def close_windows(self) -> None:
        """Close the reward windows that are over, and learn the default rewards."""

        def learn(closed: Closed) -> None:
            for learned in closed.learned:
                self._apply(learned.uid, learned.row, reported=False)

        more = True
        while more:
            more = (await self.committed(self.store.close_windows, then=learn)).more

    async def _watch_windows(self) -> None:
        told = False
        while True:
            await asyncio.sleep(WINDOWS_LOOKED_AT_S)
            try:
                await self.close_windows()
                told = False
            except (StoreError, Unavailable) as error:  # the time until it works does not count
                if not told:  # once an outage, not every second
                    log.warning("reward windows cannot be closed: %s", error)
                told = True

    async def _retain(self, store: SqliteStore, desk: RoundDesk) -> None:
        retention = Retention(
            self.settings, self.metrics, store, self.bandits, self.committed, desk.round_is_due
        )
        try:
            await retention.run()
        finally:
            retention.close()

    def _train_if_due(self, bandit: Bandit) -> None:
        if bandit.model.spec.training.mode == "background" and bandit.round_due():
            assert self.desk is not None
            self.desk.round_is_due(bandit)

    # -- the store ----------------------------------------------------------------------------

    async def committed(
        self,
        append: Callable[..., None],
        *args: Any,
        then: Callable[[Any], None] | None = None,
    ) -> Any:
        """Append and wait for the commit; `then` runs on the result in commit order."""
        future: asyncio.Future[Any] = self.loop.create_future()

        def done(result: Any, error: Exception | None) -> None:
            try:
                if error is None and then is not None:
                    then(result)
            finally:  # what is committed is answered, and applied if the caller went away
                if future.done():
                    pass
                elif error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

        append(*args, done)
        return await future
