"""Start and stop of a server without HTTP: one `async with` around everything it owns.

Start order: directories, store, recovery of every bandit, selecting, training rounds, rewarding,
explanations, reward windows, retention. The exit stack stops them in the opposite order, so that
whatever was accepted is committed before the store closes. A start that fails closes what was open
already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.filesystem import LocalFileSystem, make_dirs
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import SnapshotStore
from service.observe.counters import Metrics
from service.serving.amending import Amending
from service.serving.bandit import Bandit
from service.serving.challengers import stored_challengers
from service.serving.commits import Committer, Delivery
from service.serving.engine import Engine
from service.serving.erase import Eraser
from service.serving.explain import Explainer
from service.serving.failed_bandits import Recovery, SetAside
from service.serving.files import snapshots_at
from service.serving.keeping import Keeping
from service.serving.live import Bandits
from service.serving.progress import StartProgress
from service.serving.recent import RecentDecisions
from service.serving.reconfiguring import Reconfiguring
from service.serving.recover import recover, refuse_lost_database
from service.serving.relearner import Relearner
from service.serving.replica import Replica
from service.serving.retention import Retention
from service.serving.rewards import Rewards
from service.serving.rounds import Rounds
from service.serving.select.answer import Selecting, finished
from service.serving.select.batcher import DecisionBatcher
from service.serving.standby import Standby
from service.settings import Settings
from service.store.address import PostgresUrl, StoreAddress
from service.store.errors import StoreError, StoreTaken
from service.store.opening import log_uid, open_shared, open_store, wait_for_turn
from service.store.placing import note_store, require_unmixed, store_of
from service.store.protocol import EventStore
from service.store.reading import LogReader
from service.store.records import BanditRecord
from service.store.sharing import FollowedStore, Member
from service.store.snapshots import DIRECTORY, settled_place
from service.store.socket.client import SocketStore
from service.store.socket.hub import Hub

ADDED_AT_ONCE = 100  # recovered bandits; then the event loop goes on
Following = tuple[LogReader, Executor]  # what reads a log, and the only thread that uses it


@asynccontextmanager
async def running(
    settings: Settings,
    metrics: Metrics,
    registry: EncoderRegistry,
    progress: StartProgress | None = None,
    hub_address: Path | None = None,
    member: Member | None = None,
) -> AsyncIterator[Engine]:
    """Run an engine; at the exit everything accepted is committed and the store is closed.

    The event loop is free while the database is opened and the bandits are recovered.

    Args:
        settings: The server's settings.
        metrics: Counts.
        registry: Encoders by name.
        progress: Counts the recovery, and may give it up.
        hub_address: The socket at which other processes append to the store; None: there are none.
        member: This server, the keeper, among those that share a database; None: there are none.

    Raises:
        StoreError: The database cannot be served. A single bandit that cannot is set aside.
        StartGivenUp: `progress` gave up before all bandits were recovered.
    """
    progress = progress or StartProgress()
    loop = asyncio.get_running_loop()
    # What closes the stores needs a thread. It starts now: there may be no memory for one then.
    await loop.run_in_executor(None, int)
    for directory in (settings.data_dir, settings.snapshots, settings.replays):
        make_dirs(LocalFileSystem(), directory)  # syncs their names as well
    require_unmixed(settings.data_dir, settings.store)
    address = store_of(settings.data_dir, settings.store)
    if isinstance(address, Path) and (not address.exists() or not address.stat().st_size):
        refuse_lost_database(address, settings.snapshots)
    async with AsyncExitStack() as stack:
        loader, panels, encoders, actions = (
            stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix=name))
            for name in ("loader", "panels", "encoders", "actions")
        )
        delivery = Delivery(loop)
        store: EventStore
        shared: FollowedStore | None = None
        if member is not None and isinstance(address, PostgresUrl):
            store = shared = await loop.run_in_executor(
                loader, open_shared, address, member, settings.durability, delivery, loop.call_soon
            )
        else:
            opening = partial(open_store, address, settings.durability, delivery, loop.call_soon)
            store = await loop.run_in_executor(
                loader, _in_turn, opening, settings, address, progress
            )
        stack.push_async_callback(_close_store, store)
        if isinstance(address, PostgresUrl):
            log_of = await loop.run_in_executor(loader, log_uid, address)
            note_store(settings.data_dir, address, log_of)
            place = await loop.run_in_executor(
                loader, settled_place, address, settings.snapshot_store
            )
            if settings.trainer == "elsewhere" and place == DIRECTORY:
                raise StoreError(
                    "trainer: elsewhere needs snapshots that are shared: set `snapshot_store`, to"
                    " postgresql for example"
                )
        reader = stack.enter_context(closing(store.follower()))
        following: Following | None = None
        if shared is not None:  # rows of other servers are not at hand
            following = _following(stack, store)
        live = Bandits()
        hub: Hub | None = None
        if hub_address is not None:
            store.ids.share = (0, settings.workers + 1)
            hub = Hub(store, hub_address)
            for record in reader.bandits():
                hub.recovers(record)
            await hub.start()
            stack.push_async_callback(hub.close)
        keeping = Keeping(hub)

        def serve(record: BanditRecord, snapshots: SnapshotStore, model: ServingModel) -> Bandit:
            bandit = _live_bandit(
                record, snapshots, model, reader, store, recovery, delivery, following
            )
            live.add(bandit)
            keeping.serves(bandit)
            return bandit

        def serve_again(aside: SetAside, model: ServingModel) -> None:
            if aside in live.aside():  # else it was deleted meanwhile
                reconfiguring.start(serve(aside.record, aside.snapshots, model))

        recovery = Recovery(registry, metrics, store, loader, serve_again)
        await stack.enter_async_context(recovery.running())
        for record, snapshots, found in await loop.run_in_executor(
            loader, lambda: list(recover(settings, registry, reader, progress))
        ):
            if isinstance(found, ServingModel):
                serve(record, snapshots, found)
            else:
                aside = SetAside(record, snapshots, found)
                live.set_aside(aside)
                recovery.failed(aside)
            if len(live) % ADDED_AT_ONCE == 0:
                await asyncio.sleep(0)
        commit = Committer(loop)
        batcher = DecisionBatcher(loop, store, store.ids, settings.max_inline_bytes)
        recent = RecentDecisions()
        selecting = Selecting(
            settings, metrics, live.named, store, commit, reader, batcher, recent, panels,
            encoders, actions,
        )  # fmt: skip
        await stack.enter_async_context(finished(selecting))
        rounds = Rounds(
            settings, registry, metrics, store, live.find, loader, live.changing, keeping.swapped
        )
        await stack.enter_async_context(rounds.running())
        rewards = Rewards(
            metrics, live.find, live.with_first_rules, store, commit, recent,
            settings.max_rewards_per_decision, batcher, rounds.order, live.metrics_of,
            live.is_aside,
        )  # fmt: skip
        keeping.begin(live, rewards)
        if shared is not None:
            keeping.follow(shared, live, rewards)
        stack.callback(keeping.close)
        explainer = Explainer(
            store.reader, store.history, partial(snapshots_at, settings), registry
        )
        stack.enter_context(closing(explainer))
        await stack.enter_async_context(rewards.closing_windows())
        relearner = Relearner(store, rounds, live.at, live.all)
        await stack.enter_async_context(relearner.running())
        eraser = Eraser(store, commit, recent, relearner, rounds, live.at)
        await stack.enter_async_context(eraser.running())
        reconfiguring = Reconfiguring(rounds, live.find, live.all)
        await stack.enter_async_context(reconfiguring.running())
        amending = Amending(store, rewards, relearner)
        retention = Retention(settings, metrics, store, live.all, commit, rounds.order)
        await stack.enter_async_context(retention.running())
        yield Engine(
            settings, metrics, loop, registry, store, reader, live, commit, selecting, rewards,
            rounds, explainer, recovery, serve, eraser, reconfiguring, amending, keeping,
        )  # fmt: skip


def _in_turn(
    opening: Callable[[], EventStore],
    settings: Settings,
    address: StoreAddress,
    progress: StartProgress,
) -> EventStore:
    """Open the store, behind another server where this one stands by."""
    while True:
        try:
            return opening()
        except StoreTaken:
            if not settings.standby:
                raise
        assert isinstance(address, PostgresUrl), "a file has no standby"
        standby = Standby(settings, address, progress)
        wait_for_turn(address, standby)
        standby.ended()


def _live_bandit(
    record: BanditRecord,
    snapshots: SnapshotStore,
    model: ServingModel,
    reader: LogReader,
    store: EventStore,
    recovery: Recovery,
    delivery: Delivery,
    following: Following | None = None,
    *,
    administers: bool = True,
) -> Bandit:
    follower, reading = following or (reader, None)
    bandit = Bandit(
        record, model, snapshots, follower.follow, recovery.failed, delivery.after,
        store.ids.salt(record.uid), reader.configurations(record),
        reader.num_imported(record.key), reader.metrics(record.key), follows=not administers,
        reading=reading,
    )  # fmt: skip
    bandit.challengers = stored_challengers(reader, record.key)
    return bandit


class KeeperPlace(NamedTuple):
    """Where the process stands that has the store open for others.

    Attributes:
        hub: The socket of its store.
        rates: The file of what callers may still call.
    """

    hub: Path
    rates: Path


class Place(NamedTuple):
    """Where a process that serves beside the keeper stands.

    Attributes:
        own: Its number, from 1 on.
        hub: The socket of the keeper's store.
        keeper: The socket at which the keeper serves HTTP.
        rates: The file of what callers may still call.
    """

    own: int
    hub: Path
    keeper: Path
    rates: Path


class ServerPlace(NamedTuple):
    """Where a server stands among those that share a database.

    Attributes:
        member: Its leases.
    """

    member: Member

    @property
    def own(self) -> int:
        """Its number, from 1 on."""
        return self.member.number + 1


@asynccontextmanager
async def replicating(
    settings: Settings,
    metrics: Metrics,
    registry: EncoderRegistry,
    place: Place | ServerPlace,
) -> AsyncIterator[tuple[Engine, Replica]]:
    """Run an engine beside the keeper, which has the store open; see `Replica`.

    Of its parts, those that a keeper has running stand still.

    Raises:
        StoreError: The keeper does not answer.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        loader, panels, encoders, actions = (
            stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix=name))
            for name in ("loader", "panels", "encoders", "actions")
        )
        delivery = Delivery(loop)
        address = store_of(settings.data_dir, settings.store)
        store: FollowedStore
        if isinstance(place, Place):
            socket = SocketStore(place.hub, address, place.own, settings.workers + 1, delivery.now)
            stack.callback(socket.close)
            await socket.connect()
            store = socket
        else:
            assert isinstance(address, PostgresUrl)
            store = await loop.run_in_executor(
                loader,
                open_shared,
                address,
                place.member,
                settings.durability,
                delivery,
                loop.call_soon,
            )
            stack.push_async_callback(_close_store, store)
        reader = stack.enter_context(closing(store.reader()))
        following: Following | None = None
        if isinstance(address, PostgresUrl):  # the rows of a file are at hand
            following = _following(stack, store)
        live = Bandits()

        def serve(record: BanditRecord, snapshots: SnapshotStore, model: ServingModel) -> Bandit:
            bandit = _live_bandit(
                record, snapshots, model, reader, store, recovery, delivery, following,
                administers=False,
            )  # fmt: skip
            bandit.applier.switch = partial(replica.switched, bandit)
            bandit.applier.skipped = lambda: bandit.configure(reader.configurations(record))
            live.add(bandit)
            return bandit

        def serve_again(aside: SetAside, model: ServingModel) -> None:
            if aside in live.aside():
                serve(aside.record, aside.snapshots, model)

        recovery = Recovery(registry, metrics, store, loader, serve_again)
        await stack.enter_async_context(recovery.running())
        commit = Committer(loop)
        batcher = DecisionBatcher(loop, store, store.ids, settings.max_inline_bytes)
        recent = RecentDecisions()
        selecting = Selecting(
            settings, metrics, live.named, store, commit, reader, batcher, recent, panels,
            encoders, actions,
        )  # fmt: skip
        await stack.enter_async_context(finished(selecting))
        rounds = Rounds(settings, registry, metrics, store, live.find, loader, live.changing)
        await stack.enter_async_context(rounds.standing_still())
        rewards = Rewards(
            metrics, live.find, live.with_first_rules, store, commit, recent,
            settings.max_rewards_per_decision, batcher, lambda bandit: None, live.metrics_of,
            live.is_aside,
        )  # fmt: skip
        explainer = Explainer(
            store.reader, store.history, partial(snapshots_at, settings), registry
        )
        stack.enter_context(closing(explainer))
        relearner = Relearner(store, rounds, live.at, live.all)
        eraser = Eraser(store, commit, recent, relearner, rounds, live.at)
        reconfiguring = Reconfiguring(rounds, live.find, live.all)
        amending = Amending(store, rewards, relearner)
        replica = Replica(settings, registry, store, live, loader, recovery, serve)
        if isinstance(place, ServerPlace):
            live.is_missing = replica.is_missing
        await stack.enter_async_context(replica.running(rounds))
        await replica.synced()
        engine = Engine(
            settings, metrics, loop, registry, store, reader, live, commit, selecting, rewards,
            rounds, explainer, recovery, serve, eraser, reconfiguring, amending, Keeping(None),
        )  # fmt: skip
        yield engine, replica


def _following(stack: AsyncExitStack, store: EventStore) -> Following:
    """Return what reads rows that are not at hand, on a thread of its own."""
    follower = stack.enter_context(closing(store.follower()))
    thread = ThreadPoolExecutor(1, thread_name_prefix="follower")
    return follower, stack.enter_context(thread)


async def _close_store(store: EventStore) -> None:
    # The writer's last answers are scheduled on this loop before the join returns.
    await asyncio.get_running_loop().run_in_executor(None, store.close)
    await asyncio.sleep(0)
