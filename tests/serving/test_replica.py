"""A process beside the keeper, both in one event loop: what it follows, however slowly."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.spec import BanditSpec, ContextSpec, RewardSpec, TrainingSpec
from service.observe.counters import Metrics
from service.serving import manage
from service.serving.engine import Engine
from service.serving.errors import UnknownBandit
from service.serving.lifecycle import Place, replicating, running
from service.serving.replica import Replica
from service.settings import Settings
from service.store.errors import StoreUnreadable, Unavailable
from tests.fixtures.waiting import until

SPEC = BanditSpec(
    policy="linear_ts", context=ContextSpec(shape=(3,)), training=TrainingSpec(mode="lockstep")
)


class Processes:
    """A keeper and a worker of one data directory."""

    def __init__(self, folder: Path) -> None:
        self.hub = folder / "store"
        self.settings = Settings(data_dir=folder / "data", durability="os", workers=2)
        self.place = Place(1, self.hub, folder / "http", folder / "rates")

    def keeper(self) -> AbstractAsyncContextManager[Engine]:
        return running(self.settings, Metrics(), EncoderRegistry(), hub_address=self.hub)

    def worker(self) -> AbstractAsyncContextManager[tuple[Engine, Replica]]:
        return replicating(self.settings, Metrics(), EncoderRegistry(), self.place)


@asynccontextmanager
async def keeper_and_worker() -> AsyncIterator[tuple[Engine, Engine]]:
    with tempfile.TemporaryDirectory() as folder:  # a short path, as sockets need it
        processes = Processes(Path(folder))
        async with processes.keeper() as keeper, processes.worker() as (worker, _):
            yield keeper, worker


def test_rules_that_changed_before_a_snapshot_are_known_with_it() -> None:
    async def scene() -> None:
        async with keeper_and_worker() as (keeper, worker):
            made, _ = await manage.put_bandit(keeper, "b", SPEC)
            await keeper.keeping.everywhere()
            followed = worker.bandit("b")
            followed.applier.hold()  # it is slow: its rows wait
            rewards = RewardSpec(reward_window_s=60.0, default_reward=0.5)
            await manage.put_bandit(keeper, "b", dataclasses.replace(SPEC, rewards=rewards))
            await keeper.rounds.train(made)
            await until(lambda: followed.model.version == made.model.version > 0, "the snapshot")
            assert followed.model.position == made.model.position
            assert followed.configurations.rules_changed
            position = made.model.position
            assert followed.configurations.rules(position) == made.configurations.rules(position)
            assert worker.live.with_first_rules(made.record.key) is None

    asyncio.run(asyncio.wait_for(scene(), 120))


def test_a_slow_load_holds_back_neither_deletions_nor_what_is_created(monkeypatch) -> None:
    async def scene() -> None:
        async with keeper_and_worker() as (keeper, worker):
            await manage.put_bandit(keeper, "deleted", SPEC)
            await keeper.keeping.everywhere()
            assert worker.bandit("deleted")
            goes_on = threading.Event()
            fetch = worker.registry.fetch

            def slow(spec: BanditSpec) -> None:
                goes_on.wait()
                fetch(spec)

            monkeypatch.setattr(
                worker.registry, "fetch", slow
            )  # as an import of torch is on a busy machine
            try:
                await manage.put_bandit(keeper, "slow", SPEC)
                await until(lambda: coming(worker, "slow"), "the load")
                await manage.delete_bandit(keeper, "deleted")
                await until(lambda: not worker.live.exists("deleted"), "the deletion")
                await manage.put_bandit(keeper, "deleted", SPEC)
                await until(lambda: coming(worker, "deleted"), "the next load")
                await manage.delete_bandit(keeper, "slow")
                await until(lambda: is_unknown(worker, "slow"), "the deletion of what is loaded")
            finally:
                goes_on.set()
            await until(lambda: worker.live.exists("deleted"), "the bandit of the same name")
            assert worker.bandit("deleted").record == keeper.bandit("deleted").record
            assert is_unknown(worker, "slow")

    asyncio.run(asyncio.wait_for(scene(), 120))


def coming(engine: Engine, name: str) -> bool:
    with contextlib.suppress(UnknownBandit, Unavailable):
        engine.bandit(name)
        return False
    return name in engine.live.coming


def is_unknown(engine: Engine, name: str) -> bool:
    try:
        engine.bandit(name)
    except UnknownBandit:
        return True
    except Unavailable:
        return False
    return False


def test_a_worker_connects_again_although_the_log_cannot_be_read(monkeypatch) -> None:
    async def scene(folder: Path) -> None:
        processes = Processes(folder)
        async with AsyncExitStack() as keeping, AsyncExitStack() as serving:
            keeper = await keeping.enter_async_context(processes.keeper())
            await manage.put_bandit(keeper, "b", SPEC)
            rewards = RewardSpec(aggregate="sum")
            await manage.put_bandit(keeper, "b", dataclasses.replace(SPEC, rewards=rewards))
            worker, replica = await serving.enter_async_context(processes.worker())
            before = worker.bandit("b")
            assert before.model.position == 1
            hash_at, failed = replica._reader.hash_at, threading.Event()

            def unreadable(*place: Any) -> bytes | None:
                if failed.is_set():
                    return hash_at(*place)
                failed.set()
                raise StoreUnreadable("disk I/O error")

            monkeypatch.setattr(replica._reader, "hash_at", unreadable)
            await keeping.aclose()
            await until(lambda: worker.store.failure is not None, "the end of the keeper")
            await keeping.enter_async_context(processes.keeper())
            await until(failed.is_set, "it was read")
            await until(lambda: worker.store.failure is None, "the next keeper")
            await until(lambda: worker.live.exists("b"), "the bandit")
            assert worker.bandit("b") is not before, "nobody knows which log it has followed"
            assert replica.failure() is None

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(asyncio.wait_for(scene(Path(folder)), 120))
