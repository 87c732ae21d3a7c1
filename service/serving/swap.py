"""Swap a published snapshot in while its bandit serves.

Load the snapshot and the rows up to the served model's position off the event loop, catch up with
it off the loop until few rows remain, apply those on the loop and assign one reference. No select
waits for more than those few rows. Rewards wait for the tail where rows arrive as fast as they are
applied, which would never end otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import BandexaError, SnapshotError
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.rows import Group
from bandexa_core.model import MODEL_FILE, ServingModel, loads_trials
from service.observe.counters import Metrics
from service.serving.applier import Applier
from service.serving.bandit import Bandit
from service.store.errors import StoreDamaged
from service.store.loading import contains_erased, load_at, newest_snapshot
from service.store.protocol import EventStore
from service.training.errors import BanditGone, RoundFailed

ROWS_ON_LOOP = 8
ROWS_TO_SWITCH = 64  # that rewards wait for, at most, while rows arrive slowly
log = logging.getLogger(__name__)
T = TypeVar("T")


class Swapper:
    """Loads published snapshots and swaps them in.

    Args:
        registry: Encoders by name.
        metrics: Counts.
        store: The event store.
        loader: One thread, off the event loop.
    """

    def __init__(
        self, registry: EncoderRegistry, metrics: Metrics, store: EventStore, loader: Executor
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._reader = store.reader()
        self._loader = loader

    async def close(self) -> None:
        """Close the reader, behind a load that is still running on the loader's thread."""
        await asyncio.get_running_loop().run_in_executor(self._loader, self._reader.close)

    async def swap(
        self, bandit: Bandit, version: SnapshotVersion, *, still_served: Callable[[], bool]
    ) -> float:
        """Serve a snapshot from here on; returns the seconds it took.

        Args:
            bandit: Whose snapshot it is.
            version: The snapshot.
            still_served: Whether the bandit is still live, after a wait.

        Raises:
            BanditGone: The bandit was deleted meanwhile.
            RoundFailed: The snapshot cannot be served.
        """
        applier = bandit.applier
        begun = time.perf_counter()
        loop = asyncio.get_running_loop()

        async def off_loop(work: Callable[..., T], *arguments: Any) -> T:
            result = await loop.run_in_executor(self._loader, work, *arguments)
            if not still_served():  # its rows are gone: there is nothing to catch up with
                raise BanditGone("the bandit was deleted")
            return result

        model: ServingModel | None = None
        try:
            at = applier.model.position
            loaded = await off_loop(self._load, bandit, version, at)
            before: int | None = None
            while (tail := _short_tail(applier, loaded)) is None:
                behind = applier.model.position - loaded.position
                if before is not None and behind > before // 2:
                    applier.hold()  # rows arrive about as fast as they are applied
                before, at = behind, applier.model.position
                await off_loop(self._catch_up, bandit, loaded, at)
            started = time.perf_counter()
            for group in tail:
                loaded.apply(group, applier.load_import)
            model = loaded
        except BandexaError as error:
            if not still_served():
                raise BanditGone("the bandit was deleted") from error
            raise RoundFailed(f"snapshot {version} cannot be served: {error}") from error
        finally:
            applier.swap(model)
        ended = time.perf_counter()
        self._metrics.swap_stall_seconds.observe(ended - started)
        self._metrics.swap_seconds.observe(ended - begun)
        self._metrics.swaps.inc()
        return ended - begun

    async def switch(
        self,
        bandit: Bandit,
        version: SnapshotVersion,
        log_switch: Callable[[], Awaitable[LogPosition]],
        changing: asyncio.Lock,
        *,
        still_served: Callable[[], bool],
        restores: bool = False,
    ) -> float:
        """Serve a snapshot of another generation from a row of the log on; returns the seconds.

        The row is logged once the model has nearly caught up, while rows wait. So the old model has
        all rows before it, and the new one has them as well.

        Args:
            bandit: Whose snapshot it is.
            version: The snapshot.
            log_switch: Logs the row; it may refuse by RoundFailed.
            changing: Held meanwhile: no other change comes in between.
            still_served: Whether the bandit is still live, after a wait.
            restores: Whether that generation was served before.

        Raises:
            BanditGone: The bandit was deleted meanwhile.
            RoundFailed: The snapshot cannot be served.
        """
        applier = bandit.applier
        begun = time.perf_counter()
        loop = asyncio.get_running_loop()

        async def off_loop(work: Callable[..., T], *arguments: Any) -> T:
            result = await loop.run_in_executor(self._loader, work, *arguments)
            if not still_served():
                raise BanditGone("the bandit was deleted")
            return result

        try:
            loaded = await off_loop(self._load, bandit, version, applier.model.position, restores)
            before: int | None = None
            while (behind := applier.model.position - loaded.position) > ROWS_TO_SWITCH:
                if before is not None and behind > before // 2:
                    break  # rows arrive about as fast as they are applied: they have to wait
                before = behind
                await off_loop(self._catch_up, bandit, loaded, applier.model.position)
            async with changing:
                model: ServingModel | None = None
                applier.hold(to_switch=True)
                held = time.perf_counter()
                try:
                    position = await log_switch()
                    await off_loop(self._catch_up, bandit, loaded, position)
                    model = loaded
                finally:
                    applier.swap(model, ends_switch=True)
        except BandexaError as error:
            if not still_served():
                raise BanditGone("the bandit was deleted") from error
            if isinstance(error, RoundFailed):
                raise
            raise RoundFailed(f"snapshot {version} cannot be served: {error}") from error
        ended = time.perf_counter()
        log.info(
            "bandit %s: another configuration is served from row %d on; rewards waited %.3f s for"
            " it", bandit.record.name, position, ended - held,
        )  # fmt: skip
        self._metrics.swap_seconds.observe(ended - begun)
        self._metrics.swaps.inc()
        return ended - begun

    def _load(
        self,
        bandit: Bandit,
        version: SnapshotVersion,
        head: LogPosition,
        restores: bool = False,
    ) -> ServingModel:
        snapshot = bandit.snapshots.load(version, (MODEL_FILE,))
        model = load_at(
            self._reader, bandit.record, self._registry, bandit.snapshots, snapshot, head,
            restored=restores,
        )  # fmt: skip
        model.prepare()
        return model

    def last_of(self, bandit: Bandit, generation: LogPosition) -> SnapshotVersion | None:
        """Return the newest snapshot of a generation that can be served again; None without one.

        It reads files: not for the event loop.
        """
        reader, record, snapshots = self._reader, bandit.record, bandit.snapshots
        head = reader.head(record.key)
        try:
            found = newest_snapshot(reader, record, snapshots, head, generation=generation).manifest
        except SnapshotError:
            return None
        if contains_erased(reader, record, self._registry, snapshots, found):
            return None
        return SnapshotVersion(found.version)

    def _catch_up(self, bandit: Bandit, model: ServingModel, up_to: LogPosition) -> None:
        known = model.log_hash
        for group in self._reader.follow(bandit.record, model.position, up_to, previous=known):
            model.apply(group, bandit.applier.load_import)
        if model.position < up_to:
            raise StoreDamaged(f"row {model.position + 1} is not in the log")
        model.try_out(bandit.applier.load_import)
        model.prepare()


def _short_tail(applier: Applier, model: ServingModel) -> list[Group] | None:
    """Return the groups that `model` lacks; None where they take too long for the event loop."""
    num = applier.model.position - model.position
    if num == 0:
        return []
    if num > ROWS_ON_LOOP or model.slow_encoder is not None or applier.reading is not None:
        return None
    up_to = applier.model.position
    groups = list(applier.read(model.position, up_to, previous=model.log_hash))
    slow = any(
        model.forgets_before(group) or model.encodes_many(group) or loads_trials(group)
        for group in groups
    )
    return None if slow else groups
