"""A process that serves beside the keeper: it follows the keeper's store and changes nothing else.

Selects, rewards and scores are answered here. What is learned comes from the log, here as
everywhere, so that two processes at one log position, with one snapshot, have the same posterior to
the last bit. Bandits appear and vanish, and snapshots are swapped in, as the keeper announces it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import SnapshotStore
from service.serving.bandit import Bandit
from service.serving.failed_bandits import Recovery, SetAside, build_model, failure_of
from service.serving.files import snapshots_at
from service.serving.live import Bandits
from service.serving.rounds import Rounds
from service.serving.threads import in_own_thread
from service.settings import Settings
from service.store.errors import StoreError
from service.store.reading import LogReader
from service.store.records import BanditRecord
from service.store.sharing import Changes, FollowedStore
from service.store.socket.messages import Counted
from service.training.errors import BanditGone, RoundFailed

log = logging.getLogger(__name__)
COUNTED_S = 1.0
AWAY_S = 3.0  # without the keeper, after which this process is not ready
MAX_LAG_S = 5.0
MOST_ASKED = 1000
SWAP_AGAIN_S = 2.0
MISSING_FOR_S = 2.0  # longer than a caller waits that was asked to come back
Serve = Callable[[BanditRecord, SnapshotStore, ServingModel], Bandit]


class Replica:
    """Follows what the keeper announces.

    Args:
        settings: Where snapshots are.
        registry: Encoders by name.
        store: Announces.
        live: The live bandits.
        loader: One thread that loads models.
        recovery: Recovers failed bandits.
        serve: Serves a bandit from now on.
    """

    def __init__(
        self,
        settings: Settings,
        registry: EncoderRegistry,
        store: FollowedStore,
        live: Bandits,
        loader: Executor,
        recovery: Recovery,
        serve: Serve,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._live = live
        self._loader = loader
        self._recovery = recovery
        self._serve = serve
        self._reader: LogReader = store.reader()
        self._names: LogReader = store.reader()  # is not held up by a load
        self._rounds: Rounds | None = None
        self._heads: dict[int, LogPosition] = {}
        self._served: dict[BanditUid, SnapshotVersion] = {}
        self._unserved: dict[BanditUid, SnapshotVersion] = {}  # what could not be loaded last
        self._swapping: dict[BanditUid, asyncio.Task[None]] = {}
        self._syncing: asyncio.Task[None] | None = None
        self._sync_again = False
        self._loading: dict[BanditUid, asyncio.Task[None]] = {}
        self._bandits_read = -float("inf")
        self._asked: dict[str, float] = {}  # since when, of names that are not known
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reported: dict[int, Counted] = {}
        self.shows: Callable[[], Awaitable[bytes]] = _nothing

    @asynccontextmanager
    async def running(self, rounds: Rounds) -> AsyncIterator[None]:
        """Follow until the exit."""
        self._rounds = rounds
        self._store.watch(self._changed, self._found)
        counting = asyncio.create_task(self._count(), name="counts")
        self._changed(Changes(bandits=True))
        try:
            yield
        finally:
            self._store.watch(lambda changes: None, lambda: None)
            tasks = [
                counting, *self._tasks, *self._swapping.values(), *self._loading.values(),
            ]  # fmt: skip
            if self._syncing is not None:
                tasks.append(self._syncing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._loader, self._reader.close)
            await loop.run_in_executor(None, self._names.close)

    def failure(self) -> str | None:
        """Return why this process is not ready, None while it is."""
        if (away_s := self._store.lost_s()) > AWAY_S:
            why = self._store.failure or "the database does not answer"
            return f"{why}, for {away_s:.0f} s by now"
        now = time.monotonic()
        for bandit in self._live.all():
            applier = bandit.applier
            if applier.failure is None and applier.rows_wait_s(now) > MAX_LAG_S:
                name = bandit.record.name
                return f"bandit {name} is {applier.rows_waiting} rows behind its log"
        return None

    # -- what is announced ----------------------------------------------------------------------

    def _changed(self, changes: Changes) -> None:
        if changes.bandits:
            self._sync()
        for key, head in changes.heads.items():
            self._heads[key] = max(head, self._heads.get(key, LogPosition(0)))
            if (bandit := self._live.at(key)) is not None:
                bandit.applier.follow(head)
        for uid, version in changes.served.items():
            self._served[uid] = version
            self._swap(uid)
        for number in changes.settle:
            self._start(self._settle(number))
        for number in changes.show:
            self._start(self._show(number))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _show(self, number: int) -> None:
        self._store.show(number, await self.shows())

    def is_missing(self, name: str) -> bool:
        """Return whether the bandits were read since a name was asked for; else read them.

        Another server may have created it a moment ago.
        """
        now, asked = time.monotonic(), self._asked.get(name)
        if asked is not None and asked < self._bandits_read > now - MISSING_FOR_S:
            return True
        if asked is None or asked < self._bandits_read:
            if len(self._asked) >= MOST_ASKED:
                self._asked.clear()
            self._asked[name] = now
        self._sync()
        return False

    async def synced(self) -> None:
        """Return once all bandits of the store are served, or set aside."""
        while waiting := {*self._loading.values(), *([self._syncing] if self._syncing else ())}:
            await asyncio.wait(waiting)

    async def caught_up(self) -> None:
        """Return once everything that is stored now is served."""
        loop = asyncio.get_running_loop()
        self._sync()
        await self.synced()
        heads = await loop.run_in_executor(
            None, lambda: {each.key: self._names.head(each.key) for each in self._names.bandits()}
        )
        self._changed(Changes(heads=heads))
        for key, head in heads.items():
            if (bandit := self._live.at(key)) is not None:
                await bandit.applier.applied(head)

    async def _settle(self, number: int) -> None:
        """Give a number back once everything that was announced before it is served."""
        await self.synced()
        if self._swapping:
            await asyncio.wait(self._swapping.values())
        for key, head in list(self._heads.items()):
            if (bandit := self._live.at(key)) is not None:
                await bandit.applier.applied(head)
        self._store.settled(number)

    # -- bandits --------------------------------------------------------------------------------

    def _sync(self) -> None:
        self._live.is_behind = True
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._follow_bandits(), name="bandits")
            self._syncing.add_done_callback(self._synced)
        else:
            self._sync_again = True

    def _synced(self, task: asyncio.Task[None]) -> None:
        self._syncing = None
        self._again_after(task)

    def _again_after(self, task: asyncio.Task[None]) -> None:
        """Read the bandits again soon where a task has failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the bandits of the store cannot be read: %s", error)
            asyncio.get_running_loop().call_later(1.0, self._sync)
        elif self._sync_again:  # asked for since the last check
            self._sync_again = False
            self._sync()

    async def _follow_bandits(self) -> None:
        """Serve the bandits that the store has, and no others.

        Those that are to be served are loaded by tasks of their own: that may take long, and what
        is deleted or created meanwhile must be known at once.
        """
        loop = asyncio.get_running_loop()
        again = True
        while again:
            self._sync_again = False
            started = time.monotonic()
            records = await loop.run_in_executor(None, self._names.bandits)
            uids = {record.uid for record in records}
            everyone: list[Bandit | SetAside] = [*self._live.all(), *self._live.aside()]
            for known in everyone:
                if known.record.uid not in uids:
                    self._live.remove(known.record.name)
                    self._recovery.forget(known)
                    self._forget(known.record)
            for uid in self._loading.keys() - uids:
                self._loading.pop(uid).cancel()
            aside = {each.record.uid for each in self._live.aside()}
            for record in records:
                self._store.remember(record)
            missing = [
                record
                for record in records
                if self._live.find(record.uid) is None and record.uid not in aside
            ]
            self._live.coming = {record.name for record in missing}
            for record in missing:
                if record.uid not in self._loading:
                    self._begin_to_load(record)
            self._bandits_read = started
            again = self._sync_again
        self._live.is_behind = False

    def _forget(self, record: BanditRecord) -> None:
        """Forget what was announced of a bandit that was deleted."""
        self._store.forget(record.key)
        self._heads.pop(record.key, None)
        self._served.pop(record.uid, None)
        self._unserved.pop(record.uid, None)
        self._reported.pop(record.key, None)

    def _begin_to_load(self, record: BanditRecord) -> None:
        task = asyncio.create_task(self._load(record), name=f"load-{record.uid}")
        self._loading[record.uid] = task

        def loaded(task: asyncio.Task[None]) -> None:
            if self._loading.get(record.uid) is task and not task.cancelled():
                del self._loading[record.uid]
                if task.exception() is None:
                    self._live.coming.discard(record.name)
            self._again_after(task)

        task.add_done_callback(loaded)

    async def _load(self, record: BanditRecord) -> None:
        async with self._one_at_a_time:
            await self._load_now(record)

    async def _load_now(self, record: BanditRecord) -> None:
        loop = asyncio.get_running_loop()
        snapshots = snapshots_at(self._settings, record.uid)
        try:
            await in_own_thread(self._registry.fetch, record.spec)
            model = await loop.run_in_executor(
                self._loader, build_model, self._reader, self._registry, record, snapshots
            )
        except Exception as error:  # the others are served; own encoders raise anything
            log.error("bandit %s is set aside: %s", record.name, error)
            aside = SetAside(record, snapshots, failure_of(error))
            self._live.set_aside(aside)
            self._recovery.failed(aside)
            return
        self._reported.pop(record.key, None)  # it counts anew
        bandit = self._serve(record, snapshots, model)
        bandit.applier.follow(self._heads.get(record.key, LogPosition(0)))
        self._swap(record.uid)

    async def switched(self, bandit: Bandit, position: LogPosition) -> ServingModel:
        """Return the model that is served from a switch of the configuration on."""
        loop = asyncio.get_running_loop()
        model = await loop.run_in_executor(
            self._loader, build_model, self._reader, self._registry, bandit.record, bandit.snapshots
        )
        assert model.position >= position
        return model

    # -- snapshots ------------------------------------------------------------------------------

    def _swap(self, uid: BanditUid) -> None:
        if uid not in self._swapping and self._lacks(uid):
            task = asyncio.create_task(self._swap_in(uid), name=f"swap-{uid}")
            self._swapping[uid] = task

    def _lacks(self, uid: BanditUid) -> bool:
        bandit = self._live.find(uid)
        return bandit is not None and bandit.model.version < self._served.get(uid, -1)

    async def _swap_in(self, uid: BanditUid) -> None:
        """Serve the newest snapshot that the keeper serves."""
        assert self._rounds is not None
        try:
            while self._lacks(uid):
                bandit, version = self._live.find(uid), self._served[uid]
                if bandit is None:
                    return
                try:
                    await self._rounds.swap_in(bandit, version)
                except BanditGone:
                    return
                except RoundFailed as error:  # it may be gone by now, and a later one come
                    if self._unserved.get(uid) != version:
                        log.warning("bandit %s: %s", bandit.record.name, error)
                    self._unserved[uid] = version
                    if self._served.get(uid) == version:  # the database may be away
                        self._start(self._swap_again(uid))
                        return
        finally:
            self._swapping.pop(uid, None)

    async def _swap_again(self, uid: BanditUid) -> None:
        await asyncio.sleep(SWAP_AGAIN_S)
        self._swap(uid)

    # -- the keeper is away ---------------------------------------------------------------------

    def _found(self) -> None:
        """Compare the log with the one that every model has followed; drop a model of another."""
        for bandit in self._live.all():
            if not self._has_rows_of(bandit):
                log.critical(
                    "bandit %s: the log is not known to be the same up to row %d: its model is"
                    " built anew",
                    bandit.record.name, bandit.model.position,
                )  # fmt: skip
                self._live.remove(bandit.record.name)
        self._sync()

    def _has_rows_of(self, bandit: Bandit) -> bool:
        """Whether the log is known to have the rows that a model has learned.

        The model says which ones: the log may have gone back before the keeper was missed. Where
        retention has removed the last one, nobody knows.
        """
        position, learned = bandit.model.position, bandit.model.log_hash
        if not position:
            return True
        try:
            stored = self._reader.hash_at(bandit.record.key, position)
        except StoreError as error:  # the keeper may have ended because of the same disk
            log.error("bandit %s: its log cannot be read: %s", bandit.record.name, error)
            return False
        return stored is not None and stored == learned

    # -- counts ---------------------------------------------------------------------------------

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNTED_S)
            counts = []
            for bandit in self._live.all():
                vitals, key = bandit.vitals, bandit.record.key
                before = self._reported.get(key, Counted(key, 0, {}))
                selects = vitals.selects - before.selects
                rewards = {
                    status: num - before.rewards.get(status, 0)
                    for status, num in vitals.rewards.items()
                    if num > before.rewards.get(status, 0)
                }
                if selects or rewards:
                    counts.append(Counted(key, selects, rewards))
                    self._reported[key] = Counted(key, vitals.selects, dict(vitals.rewards))
            if counts:
                self._store.counted(counts)


async def _nothing() -> bytes:
    return b""
