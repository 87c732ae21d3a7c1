"""The engine: holds what serves all bandits of a server. Knows policy and store, nothing of HTTP.

Runs on the event loop. It opens the store, brings every bandit back from snapshot and log, and
starts and ends what works on them; who answers what is in `selecting` and `rewarding`.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.filesystem import LocalFileSystem, make_dirs
from bandexa_core.ids import BanditUid
from bandexa_core.snapshots.store import SnapshotStore
from service.observe.counters import Metrics
from service.observe.dashboard.follower import Follower
from service.serving.bandit import Bandit
from service.serving.collection import Imported
from service.serving.errors import UnknownBandit
from service.serving.explain import Explainer
from service.serving.recover import refuse_lost_database
from service.serving.retention import Retention
from service.serving.rewards import Rewarding
from service.serving.rounds import RoundDesk
from service.serving.select.answer import Selecting
from service.serving.select.batcher import DrawingDesk
from service.settings import Settings
from service.store.errors import Unavailable
from service.store.loading import load_at, newest_snapshot
from service.store.records import BanditRecord
from service.store.sqlite.store import SqliteStore

log = logging.getLogger(__name__)


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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store: SqliteStore | None = None
        self._selecting: Selecting | None = None
        self._rewarding: Rewarding | None = None
        self.desk: RoundDesk | None = None
        self._follower: Follower | None = None
        self._explainer: Explainer | None = None
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
        self._reader = self._store.reader()
        live = [record.uid for record in self._reader.bandits()]
        refuse_lost_database(database, snapshots, {*live, *self._reader.deleted()})
        await loop.run_in_executor(self._executor, self._clear_deleted)
        for record in self._reader.bandits():
            await loop.run_in_executor(self._executor, self._recover, record)
        desk = RoundDesk(
            self.settings, self.registry, self.metrics, self._store, self.find, self._executor
        )
        drawing = DrawingDesk(loop, self._store.append_decision, self.settings.max_inline_bytes)
        self._selecting = Selecting(
            self.settings, self.metrics, self.bandit, self._store, self._reader, drawing
        )
        self._rewarding = Rewarding(
            self.metrics, self.find, self._store, self.committed, drawing, desk.round_is_due
        )
        self.desk = desk
        desk.start()
        self._follower = Follower(database, self.settings.aggregates, self.metrics.stages.total)
        self._follower.start()
        self._explainer = Explainer(database, self.settings.snapshots, self.registry)
        await self._rewarding.close_windows()  # the time since the last ending does not count
        self._rewarding.start()
        self._retention = asyncio.create_task(self._retain(self._store, desk))

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
        if self._rewarding is not None:
            self._rewarding.close()
        if self._retention is not None:
            self._retention.cancel()
            await asyncio.wait([self._retention])
        if self._follower is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._follower.close)
        if self._explainer is not None:
            self._explainer.close()
        if self.desk is not None:
            await self.desk.close()
        if self._selecting is not None:
            await self._selecting.finish()
        if self._store is not None:
            # The writer's last answers are scheduled on this loop before the join returns.
            await asyncio.get_running_loop().run_in_executor(None, self._store.close)
            await asyncio.sleep(0)
            self._reader.close()
        self._executor.shutdown()
        if self._selecting is not None:
            self._selecting.close()

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
    def selecting(self) -> Selecting:
        """Who answers selects; Unavailable before start."""
        if self._selecting is None:
            raise Unavailable("the service is starting")
        return self._selecting

    @property
    def rewarding(self) -> Rewarding:
        """Who takes rewards; Unavailable before start."""
        if self._rewarding is None:
            raise Unavailable("the service is starting")
        return self._rewarding

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

    async def _retain(self, store: SqliteStore, desk: RoundDesk) -> None:
        retention = Retention(
            self.settings, self.metrics, store, self.bandits, self.committed, desk.round_is_due
        )
        try:
            await retention.run()
        finally:
            retention.close()

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
