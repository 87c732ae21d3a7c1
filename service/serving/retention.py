"""Retention: remove old decisions from the store, by age and by the size of the database.

Runs on the event loop; long reads run on a thread. What was learned from the rows stays: in the
statistics of the snapshots and, for encoders that are trained again, in a sample of the rows. Rows
go in small transactions between those of requests, oldest first, never past the oldest snapshot, so
that every remaining snapshot can still be served with the rows after it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from bandexa_core.errors import SnapshotError
from bandexa_core.ids import DecisionKey, LogPosition
from bandexa_core.replay import RowLayout
from bandexa_core.replay.evicted import sample_size
from bandexa_core.snapshots.store import SnapshotStore
from service.observe.counters import Metrics
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.settings import Settings
from service.store.errors import StoreError, Unavailable
from service.store.protocol import EventStore

log = logging.getLogger(__name__)
T = TypeVar("T")
CHECKED_EVERY_S = 30.0
DAY_S = 86_400.0
STEP = 2000  # decisions removed at once to make room
LEAST_CHANGES = 64 << 10  # bytes of a catalogue's changes that are worth removing
LEAST_ROUND = 1000  # rows that a round must cover to be ordered for retention alone


class Retention:
    """Holds the store within its limits.

    Args:
        settings: `max_store_bytes` and `max_age_days`; without both nothing is ever removed.
        metrics: Counts.
        store: The event store.
        bandits: Returns the live bandits.
        commit: Appends to the store and waits for the commit.
        order_round: Orders a round of a bandit, so that its oldest snapshot is newer.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        store: EventStore,
        bandits: Callable[[], Collection[Bandit]],
        commit: Committer,
        order_round: Callable[[Bandit], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._store = store
        self._bandits = bandits
        self._commit = commit
        self._order_round = order_round
        self._clock = clock
        self._reader = store.reader()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="retention")
        self._reported = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Enforce the limits again and again until the exit."""
        task = asyncio.create_task(self._run(), name="retention")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self._on_thread(self._reader.close)  # behind a read that is still running there
            self._thread.shutdown()

    async def _on_thread(self, read: Callable[..., T], *args: Any) -> T:
        """Run a long read off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, read, *args)

    async def _run(self) -> None:
        while True:
            try:
                await self.enforce()
            except (StoreError, Unavailable) as error:
                log.warning("old decisions cannot be removed now: %s", error)
            await asyncio.sleep(CHECKED_EVERY_S)

    async def enforce(self) -> None:
        """Remove decisions that are too old, then the oldest while the database is too large.

        Raises:
            StoreError, Unavailable: The store takes no writes.
        """
        age, most = self._settings.max_age_days, self._settings.max_store_bytes
        if age is not None:
            await self._remove(self._clock() - age * DAY_S)
        if most is not None:
            await self._make_room(most)
        self._metrics.store_bytes = await self._on_thread(self._reader.used_bytes)

    async def _make_room(self, most: int) -> None:
        skipped = 0
        while await self._on_thread(self._reader.used_bytes) > most:
            cutoff = await self._on_thread(self._reader.decision_time, skipped + STEP)
            if cutoff is None:
                self._stuck(most)
                return
            if not await self._remove(cutoff):
                skipped += STEP  # these cannot go yet; younger ones of other bandits may
        self._reported = False

    def _stuck(self, most: int) -> None:
        if not self._reported:
            log.warning(
                "the database takes more than max_store_bytes (%d): what is left is newer than the"
                " oldest snapshot of its bandit, waits for its reward window, or is little",
                most,
            )
        self._reported = True

    async def _remove(self, cutoff: float) -> int:
        """Remove what is older than `cutoff` and can go; returns how many decisions it removed."""
        num = 0
        for bandit in await self._on_thread(self._with_work, self._bandits(), cutoff):
            await self._trim(bandit, cutoff)
            last = DecisionKey(0)
            has_removable = self._reader.has_removable_decisions
            more = await self._on_thread(has_removable, bandit.record, cutoff)
            while more:
                dropped = await self._commit(
                    self._store.drop_decisions, bandit.record, cutoff, last
                )
                num, last, more = num + dropped.num, dropped.last, dropped.more
            await self._trim_catalogue(bandit)
        if num:
            self._metrics.decisions_removed.inc(num)
            log.info("%d old decisions were removed", num)
        return num

    def _with_work(self, bandits: Collection[Bandit], cutoff: float) -> list[Bandit]:
        """Return the bandits with something that may go: usually few of many, and no commit."""
        reader = self._reader
        old = reader.with_old_rows(cutoff, LEAST_CHANGES)
        return [
            bandit
            for bandit in bandits
            if (key := bandit.record.key) in old
            and (
                reader.has_removable_rows(key, reader.last_before(key, cutoff))
                or reader.has_removable_decisions(bandit.record, cutoff)
                or reader.removable_changes(key)[1] > LEAST_CHANGES
            )
        ]

    async def _trim(self, bandit: Bandit, cutoff: float) -> None:
        key, spec = bandit.record.key, bandit.model.spec
        wanted = await self._on_thread(self._reader.last_before, key, cutoff)
        oldest = await self._on_thread(_oldest_position, bandit.snapshots)
        if oldest < wanted:
            self._move_on(bandit, wanted)
        size = 0
        if bandit.model.learns_features:
            layout = RowLayout(spec.context.shape, spec.context.dtype, spec.action_dim)
            size = sample_size(layout, spec.replay.evicted_sample)
        up_to = min(wanted, oldest)
        more = await self._on_thread(self._reader.has_removable_rows, key, up_to)
        while more:
            more = await self._commit(self._store.trim_log, bandit.record, up_to, size)

    async def _trim_catalogue(self, bandit: Bandit) -> None:
        """Replace changes of the catalogue that nothing needs, once they are larger than it."""
        catalogue = bandit.model.catalogue
        up_to, num_bytes = await self._on_thread(self._reader.removable_changes, bandit.record.key)
        if num_bytes > catalogue.features.nbytes + LEAST_CHANGES:
            found = await self._on_thread(self._reader.catalogue_at, bandit.record, up_to)
            await self._commit(self._store.trim_catalogue, bandit.record, found, up_to)

    def _move_on(self, bandit: Bandit, wanted: LogPosition) -> None:
        """Order new snapshots where an old one prevents the removal of rows."""
        model = bandit.model
        background = model.spec.training.mode == "background"
        if background and min(wanted, model.position) - model.base_position >= LEAST_ROUND:
            self._order_round(bandit)


def _oldest_position(snapshots: SnapshotStore) -> LogPosition:
    """Return the log position of the oldest snapshot; 0 where none can be read."""
    positions = []
    for version in snapshots.versions():
        try:
            positions.append(snapshots.manifest(version).position)
        except SnapshotError:  # pruned meanwhile, or damaged: never served again
            continue
    return LogPosition(min(positions, default=0))
