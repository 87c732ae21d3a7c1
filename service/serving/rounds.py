"""Training rounds seen from the service: order them, swap in what they publish, record them.

The supervisor runs the trainer process. It requests what a round covers (`order_for`) and hands
over what the round published (`published`). `swap` does the swap itself. All of this runs on the
event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotError
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from service.observe import spans
from service.observe.counters import Metrics
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.serving.erased_rows import remove_learned
from service.serving.files import remove_files
from service.serving.pace import Paces
from service.serving.swap import Swapper
from service.settings import Settings
from service.store.address import PostgresUrl
from service.store.errors import ServiceError, StoreError, Unavailable
from service.store.loading import generation_of
from service.store.protocol import EventStore
from service.store.records import Relearning, RoundRecord
from service.training.errors import BanditGone, RoundDropped, RoundFailed
from service.training.messages import Configuration, Published, RoundOrder
from service.training.supervisor import TrainerSupervisor

if TYPE_CHECKING:
    from service.training.remote import RemoteTrainers

log = logging.getLogger(__name__)


class Rounds:
    """Orders rounds from the trainer and swaps their models in.

    Args:
        settings: How the trainer is run.
        registry: Encoders by name.
        metrics: Counts.
        store: The event store.
        find: Returns the live bandit of a uid, or None.
        loader: One thread, off the event loop, that loads models.
        changing: Returns the lock under which a bandit of this name is changed.
        swapped: Called with each snapshot of a round that is served from then on.
    """

    def __init__(
        self,
        settings: Settings,
        registry: EncoderRegistry,
        metrics: Metrics,
        store: EventStore,
        find: Callable[[BanditUid], Bandit | None],
        loader: Executor,
        changing: Callable[[str], asyncio.Lock],
        swapped: Callable[[BanditUid, SnapshotVersion], None] = lambda uid, version: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._find = find
        self._relearning: dict[BanditUid, Relearning] = {}
        self._ordered: dict[BanditUid, Relearning] = {}
        self._wanted: dict[BanditUid, LogPosition] = {}
        self._building: dict[BanditUid, LogPosition] = {}
        self._last_changed: set[BanditUid] = set()
        self._asked_in: dict[BanditUid, Any] = {}  # the spans of requests that wait for a round
        self._candidates: dict[BanditUid, LogPosition] = {}  # wanted, and not to be served
        self._changing = changing
        self._swapped = swapped
        self._commit = Committer(asyncio.get_running_loop())
        self._loader = loader
        self._swapper = Swapper(registry, metrics, store, loader)
        self.paces = Paces()
        self.supervisor = self._trainers(metrics)

    def _trainers(self, metrics: Metrics) -> TrainerSupervisor | RemoteTrainers:
        """Return what has rounds done: a child of this server, or trainers elsewhere."""
        settings = self._settings
        if settings.trainer == "elsewhere":
            from service.training.remote import RemoteTrainers  # imports the driver, an extra

            assert settings.store is not None, "the settings demand it"
            return RemoteTrainers(PostgresUrl.of(settings.store), self, metrics)
        configuration = Configuration.of(settings, self._store.epoch)
        return TrainerSupervisor(configuration, self, metrics, settings.trainer_hung_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve the queue of rounds until the exit; a round under way is lost, its rows are not."""
        self.supervisor.start()
        try:
            yield
        finally:
            await self.supervisor.close()
            await self._swapper.close()

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Begin no rounds: another process does, and this one swaps their models in."""
        try:
            yield
        finally:
            await self._swapper.close()

    async def swap_in(self, bandit: Bandit, version: SnapshotVersion) -> None:
        """Serve what a round of another process has published.

        Raises:
            BanditGone: The bandit was deleted.
            RoundFailed: The snapshot cannot be served.
        """
        uid = bandit.record.uid
        await self._swapper.swap(bandit, version, still_served=lambda: self._find(uid) is bandit)

    async def end(self) -> None:
        """Begin no more rounds, and fail those that are waited for; the server is ending."""
        await self.supervisor.close()

    def order(self, bandit: Bandit) -> None:
        """Queue a round in the background, unless one is queued or under way."""
        if not self.supervisor.is_queued(bandit.record.uid):
            self.supervisor.request(bandit.record.uid)

    async def train(self, bandit: Bandit) -> Published:
        """Run a round now; returns what it published once its model is served.

        Raises:
            RoundFailed: The round could not be completed.
        """
        while True:
            if spans.active is not None:
                self._asked_in[bandit.record.uid] = spans.active.current()
            event = await self.supervisor.request(bandit.record.uid)
            if not await self._is_candidate(bandit, event.version):
                return event

    async def reconfigure(self, bandit: Bandit, generation: LogPosition) -> Published:
        """Have the wanted configuration learned by a round now, and served.

        Raises:
            RoundFailed: It could not be. Rounds until the next call are those of the served one.
        """
        uid = bandit.record.uid
        self._wanted[uid] = generation
        try:
            return await self.supervisor.request(uid)
        finally:
            if self._wanted.get(uid) == generation:
                del self._wanted[uid]

    def learns_candidate(self, uid: BanditUid) -> bool:
        """Whether the configuration of a challenger is being learned for a trial."""
        return uid in self._candidates

    async def learn_candidate(self, bandit: Bandit, generation: LogPosition) -> SnapshotVersion:
        """Have the configuration of a challenger learned by a round now; returns its snapshot.

        Nothing is switched to it.

        Raises:
            RoundFailed: It could not be.
        """
        uid = bandit.record.uid
        assert uid not in self._candidates, "one candidate of a bandit is learned at a time"
        self._candidates[uid] = generation
        try:
            while True:
                event = await self.supervisor.request(uid)
                manifest = await asyncio.to_thread(bandit.snapshots.manifest, event.version)
                if generation_of(manifest) == generation:  # else a round of before was under way
                    return event.version
        except SnapshotError as error:
            raise RoundFailed(str(error)) from error
        finally:
            del self._candidates[uid]

    async def restore(self, bandit: Bandit, generation: LogPosition) -> bool:
        """Serve a generation that was served before, with all rows since; False: it is not there.

        Raises:
            RoundFailed: It could not be.
        """
        loop, uid = asyncio.get_running_loop(), bandit.record.uid
        last_of = self._swapper.last_of
        version = await loop.run_in_executor(self._loader, last_of, bandit, generation)
        if version is None:
            return False
        promotion = bandit.configurations.promotion

        async def log_switch() -> LogPosition:
            if bandit.configurations.promotion != promotion:
                raise RoundDropped("the configuration was changed again meanwhile")
            return await self._append_switch(bandit, generation, version)

        await self._swapper.switch(
            bandit, version, log_switch, self._changing(bandit.record.name),
            still_served=lambda: self._find(uid) is bandit, restores=True,
        )  # fmt: skip
        return True

    def take_change(self, bandit: Bandit) -> bool:
        """Whether the newest round of a bandit was for a wanted configuration; it is said once."""
        uid = bandit.record.uid
        was_change = uid in self._last_changed
        self._last_changed.discard(uid)
        return was_change

    def is_building(self, bandit: Bandit) -> bool:
        """Whether the round under way learns the wanted configuration."""
        return bandit.record.uid in self._building

    def relearn(self, bandit: Bandit, mark: Relearning) -> None:
        """Make every later round start from before what was erased, until one has succeeded."""
        known = self._relearning.get(bandit.record.uid)
        if known is None or known.changes < mark.changes:
            self._relearning[bandit.record.uid] = mark

    def must_unlearn(self, bandit: Bandit) -> bool:
        """Whether the served model was learned from rows that were erased, or are void."""
        return bandit.record.uid in self._relearning or bandit.model.void_from is not None

    def must_relearn(self, bandit: Bandit) -> bool:
        """Whether a round has to build the model again now.

        It has learned rows that were erased, or are void; or it has not learned what was held back
        while its bandit was frozen. A frozen bandit is left as it is, but for what was erased.
        """
        if bandit.record.uid in self._relearning:
            return True
        model = bandit.model
        if model.holds:
            return False
        by_itself = model.spec.training.mode == "background"  # else the client orders it
        return model.void_from is not None or (model.lacks_held and by_itself)

    async def forget(self, uid: BanditUid) -> None:
        """Remove the files of a deleted bandit: by the trainer, which may be using them."""
        self._relearning.pop(uid, None)
        self._wanted.pop(uid, None)
        self._building.pop(uid, None)
        self._asked_in.pop(uid, None)
        self._last_changed.discard(uid)
        if not await self.supervisor.forget(uid):
            await asyncio.to_thread(remove_files, self._settings, uid)

    # -- for the supervisor -------------------------------------------------------------------

    async def order_for(self, uid: BanditUid) -> RoundOrder | None:
        """See `RoundSource.order_for`: the round covers what is applied; that is synced first."""
        bandit = self._find(uid)
        if bandit is None:
            return None
        failure = bandit.applier.failure
        if failure is not None:
            raise RoundFailed(f"the bandit has failed at log row {failure.position}")
        if bandit.model.holds and uid not in self._relearning:
            raise RoundDropped("the bandit is frozen: it is not trained until its mode is learn")
        position = bandit.model.position
        synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: None, error: Exception | None) -> None:
            if synced.done():  # the server is shutting down
                return
            if error is None:
                synced.set_result(None)
            else:
                synced.set_exception(RoundFailed(str(error)))

        mark = self._relearning.get(uid)
        if mark is None:
            self._ordered.pop(uid, None)
        else:
            self._ordered[uid] = mark
        self._store.sync(done)
        await synced
        erased_from = None if mark is None else mark.first
        wanted, pending = self._wanted.get(uid), bandit.configurations.pending
        self._building.pop(uid, None)
        self._last_changed.discard(uid)
        if wanted is None or pending is None or pending.position != wanted or wanted > position:
            wanted = None
        else:
            self._building[uid] = wanted
            self._last_changed.add(uid)
        candidate = self._candidates.get(uid)
        unlearns = mark is not None or self.must_relearn(bandit)
        if wanted is None and candidate is not None and candidate <= position and not unlearns:
            wanted = candidate  # else after the round that takes erased or void rows out
        return RoundOrder(uid, position, bandit.model.version, erased_from, wanted)

    async def published(self, uid: BanditUid, event: Published) -> None:
        """See `RoundSource.published`.

        Raises:
            BanditGone: The bandit was deleted.
            RoundFailed: The snapshot cannot be served.
        """
        bandit = self._find(uid)
        if bandit is None:
            raise BanditGone("the bandit was deleted")
        generation = self._building.pop(uid, None)
        if bandit.model.holds and uid not in self._ordered:
            await asyncio.get_running_loop().run_in_executor(
                self._loader, bandit.snapshots.remove, event.version
            )
            raise RoundDropped("the bandit was frozen during the round")
        if generation is None and await self._is_candidate(bandit, event.version):
            swapped = 0.0
        elif generation is None:
            swapped = await self._swapper.swap(
                bandit, event.version, still_served=lambda: self._find(uid) is bandit
            )
            self._swapped(uid, event.version)
        else:
            swapped = await self._swapper.switch(
                bandit, event.version,
                partial(self._log_switch, bandit, generation, event.version),
                self._changing(bandit.record.name),
                still_served=lambda: self._find(uid) is bandit,
            )  # fmt: skip
            bandit.change_error = None
        if (mark := self._ordered.pop(uid, None)) is not None:
            await self._relearned(bandit, mark, event.version)
        self._record(
            bandit,
            RoundRecord(
                time=time.time(),
                version=event.version,
                position=event.position,
                seconds=event.metrics["round_seconds"] + swapped,
                swap_s=swapped,
                loss_before=event.metrics.get("loss_before"),
                loss_after=event.metrics.get("loss_after"),
                error=None,
            ),
        )
        round_s = event.metrics["round_seconds"]
        served = bandit.model
        self.paces.add(served.spec.encoder.name, round_s, served.progress.num_learned)
        self._traced(bandit, {"train": round_s, "swap": swapped}, event)
        model = bandit.model
        if model.spec.training.mode == "background" and model.round_due():
            self.supervisor.request(uid)

    def _traced(
        self, bandit: Bandit, stages: dict[str, float], event: Published | None, error: str = ""
    ) -> None:
        """Make the span of a round that has ended, where spans are sent."""
        parent = self._asked_in.pop(bandit.record.uid, None)
        if spans.active is None:
            return
        attributes: dict[str, Any] = {"bandexa.bandit": bandit.record.name}
        if event is not None:
            attributes |= {"bandexa.snapshot": event.version, "bandexa.position": event.position}
        spans.active.ended(
            "round", stages, attributes, parent=parent or spans.active.no_parent,
            error=error or None,
        )  # fmt: skip

    async def _is_candidate(self, bandit: Bandit, version: SnapshotVersion) -> bool:
        """Whether a snapshot is of a challenger that is to be tried out, and not to be served."""
        known = bandit.configurations
        if not known.has_candidates:
            return False
        try:
            manifest = await asyncio.to_thread(bandit.snapshots.manifest, version)
        except SnapshotError as error:
            raise RoundFailed(str(error)) from error
        return known.candidate(generation_of(manifest)) is not None

    async def _log_switch(
        self, bandit: Bandit, generation: LogPosition, version: SnapshotVersion
    ) -> LogPosition:
        """Log that a generation is served from here on, unless another one is wanted by now.

        Raises:
            RoundDropped, RoundFailed: Nothing was logged.
        """
        pending = bandit.configurations.pending
        if pending is None or pending.position != generation:
            raise RoundDropped("the configuration was changed again meanwhile")
        return await self._append_switch(bandit, generation, version)

    async def _append_switch(
        self, bandit: Bandit, generation: LogPosition, version: SnapshotVersion
    ) -> LogPosition:
        append = self._store.append_switch
        try:
            row = await self._commit(append, bandit.record, generation, version, then=bandit.logged)
        except (ServiceError, StoreError, Unavailable) as error:
            raise RoundFailed(str(error)) from error
        return LogPosition(row.position)

    async def _relearned(self, bandit: Bandit, mark: Relearning, version: SnapshotVersion) -> None:
        """Remove the snapshots that were learned from erased rows: a clean one is served.

        Raises:
            RoundFailed: That cannot be noted; the next round does it again.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._loader, remove_learned, self._store, bandit.record, bandit.snapshots, mark.first,
            version,
        )  # fmt: skip
        bandit.model.end_trials(await loop.run_in_executor(self._loader, bandit.snapshots.versions))
        try:
            await Committer(loop)(self._store.relearned, mark)
        except (StoreError, Unavailable) as error:
            raise RoundFailed(str(error)) from error
        known = self._relearning.get(bandit.record.uid)
        if known is not None and known.changes == mark.changes:
            del self._relearning[bandit.record.uid]

    def failed(self, uid: BanditUid, error: str, seconds: float) -> None:
        """See `RoundSource.failed`."""
        self._building.pop(uid, None)
        bandit = self._find(uid)
        if bandit is not None:
            self._traced(bandit, {"train": seconds}, None, error)
            now = time.time()
            self._record(bandit, RoundRecord(now, None, None, seconds, None, None, None, error))

    def _record(self, bandit: Bandit, record: RoundRecord) -> None:
        """Store a record of the round for people to read; nothing waits for the commit."""

        def stored(_: None, error: Exception | None) -> None:
            if error is not None:
                log.warning("a training round of %s is not stored: %s", bandit.record.name, error)

        self._store.append_round(bandit.record, record, stored)
