"""Retention: remove old decisions from the store, by age and by the size of the database.

Runs on the event loop; long reads run on a thread. What was learned from the rows stays: in the
statistics of the snapshots and, for encoders that are trained again, in a sample of the rows. Rows
go in small transactions between those of requests, oldest first, never past the oldest snapshot, so
that every remaining snapshot can still be served with the rows after it.

Ages are service time, which no jump of the wall clock moves; decisions are ordered by their keys,
and log rows by their positions. A pass examines what became old since the last one, and commits
only where something goes: what is held back is not examined again, it goes with the log rows or the
window that held it back.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from bandexa_core.errors import SnapshotError
from bandexa_core.ids import DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.replay.evicted import sample_size
from bandexa_core.snapshots.store import SnapshotStore
from service.observe.counters import Metrics
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.settings import Settings
from service.store.errors import Conflict, StoreError, Unavailable
from service.store.identity import key_at
from service.store.objects import stored_bytes
from service.store.protocol import EventStore

log = logging.getLogger(__name__)
T = TypeVar("T")
CHECKED_EVERY_S = 30.0
COLLECTED_EVERY_S = 3600.0
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
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        store: EventStore,
        bandits: Callable[[], Collection[Bandit]],
        commit: Committer,
        order_round: Callable[[Bandit], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._store = store
        self._bandits = bandits
        self._commit = commit
        self._order_round = order_round
        self._examined: dict[int, DecisionKey] = {}  # by bandit, up to which decision
        self._ordered: dict[int, tuple[LogPosition, int, float]] = {}  # rounds for overdue rows
        self._room_cutoff = 0.0  # how far the limit of bytes has gone, in service time
        self._reader = store.reader()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="retention")
        self._reported = False
        self._collected = time.monotonic()  # the start has done it

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
            except (StoreError, Unavailable, SnapshotError) as error:
                log.warning("old decisions cannot be removed now: %s", error)
            try:
                await self._collect()
            except SnapshotError as error:
                log.warning("files of snapshots that nobody published stay for now: %s", error)
            await asyncio.sleep(CHECKED_EVERY_S)

    async def _collect(self) -> None:
        """Delete what publishers left that died on other machines, once an hour."""
        if time.monotonic() - self._collected < COLLECTED_EVERY_S:
            return
        self._collected = time.monotonic()
        for bandit in list(self._bandits()):
            for name in await self._on_thread(bandit.snapshots.collect):
                log.info("bandit %s: %s was never published", bandit.record.name, name)

    async def enforce(self) -> None:
        """Remove decisions that are too old, then the oldest while the database is too large.

        Raises:
            StoreError, Unavailable: The store takes no writes.
        """
        age, most = self._settings.max_age_days, self._settings.max_store_bytes
        if age is not None:
            now, age_s = self._store.clock(), age * DAY_S
            await self._remove(now - age_s, overdue=now - age_s - min(age_s, DAY_S))
        if most is not None:
            await self._make_room(most)
        self._metrics.store_bytes = await self._on_thread(self._reader.used_bytes)
        free = await self._on_thread(shutil.disk_usage, self._settings.data_dir)
        self._metrics.disk_free_bytes = free.free
        self._metrics.growth.add(time.monotonic(), self._metrics.store_bytes)

    async def _make_room(self, most: int) -> None:
        if await self._on_thread(self._reader.used_bytes) > most:
            await self._remove(self._room_cutoff)  # what snapshots or windows held back so far
        behind = 0.0
        while await self._on_thread(self._reader.used_bytes) > most:
            cutoff = await self._on_thread(
                self._reader.decision_time, STEP, dict(self._examined), behind
            )
            if cutoff is None:
                self._stuck(most)
                return
            await self._remove(cutoff)
            behind, self._room_cutoff = cutoff, max(cutoff, self._room_cutoff)
        self._reported = False

    def _stuck(self, most: int) -> None:
        if not self._reported:
            log.warning(
                "the database takes more than max_store_bytes (%d): what is left is newer than the"
                " oldest snapshot of its bandit, waits for its reward window, or is little",
                most,
            )
        self._reported = True

    async def _remove(self, cutoff: float, overdue: float | None = None) -> int:
        """Remove what is older than `cutoff` and can go; returns how many decisions it removed.

        Args:
            cutoff: Service time.
            overdue: Rows older than this have waited long enough for a round: order one for them
                alone. None: no row is ever overdue.
        """
        num = 0
        old = await self._on_thread(self._reader.with_old_rows, cutoff, LEAST_CHANGES)
        for bandit in [each for each in self._bandits() if each.record.key in old]:
            num += await self._trim(bandit, cutoff, overdue)
            num += await self._drop(bandit, key_at(bandit.record.key, cutoff))
            await self._trim_catalogue(bandit)
        if num:
            self._metrics.decisions_removed.inc(num)
            log.info("%d old decisions were removed", num)
        return num

    async def _drop(self, bandit: Bandit, before: DecisionKey) -> int:
        """Examine the decisions that became old since then; returns how many it removed."""
        record, num = bandit.record, 0
        last = self._examined.get(record.key, DecisionKey(0))
        more = await self._on_thread(self._reader.may_drop, record, before, last)
        while more:
            dropped = await self._commit(self._store.drop_decisions, record, before, last)
            num, last, more = num + dropped.num, dropped.last, dropped.more
            self._examined[record.key] = last
        return num

    async def _trim(self, bandit: Bandit, cutoff: float, overdue: float | None) -> int:
        """Remove old log rows; returns how many decisions went with them."""
        key, spec = bandit.record.key, bandit.model.spec
        wanted = await self._on_thread(self._reader.last_before, key, cutoff)
        trim = await self._on_thread(self._reader.trim, key)
        if wanted <= trim.position:
            return 0
        oldest = await self._on_thread(self._oldest_position, bandit, wanted)
        if oldest < wanted:
            late = (
                0
                if overdue is None
                else await self._on_thread(self._reader.last_before, key, overdue)
            )
            self._move_on(bandit, wanted, oldest, is_overdue=oldest < late)
        elif overdue is not None:
            await self._end_group(bandit, wanted)
        up_to = min(wanted, oldest)
        if not await self._on_thread(self._reader.may_trim, key, up_to):
            return 0
        # Of every policy: what a bandit learned may have to be learned again, otherwise.
        size = sample_size(spec.row_layout, spec.replay.evicted_sample)
        num, more = 0, True
        while more:
            trimmed = await self._commit(self._store.trim_log, bandit.record, up_to, size)
            num, more = num + trimmed.num, trimmed.more
        return num

    async def _end_group(self, bandit: Bandit, wanted: LogPosition) -> None:
        """Log a change of no action behind the newest rows, where they are too old.

        The newest row of a log always stays, and its group with it: without this row, what a quiet
        bandit learned last would be stored for ever.
        """
        record = bandit.record
        if not await self._on_thread(self._reader.ends_learned, record.key, wanted):
            return
        nothing = Catalogue.empty(record.spec.row_layout).as_change()
        with suppress(Conflict):  # the bandit was deleted meanwhile
            await self._commit(self._store.append_change, record, nothing, then=bandit.logged)

    async def _trim_catalogue(self, bandit: Bandit) -> None:
        """Replace changes of the catalogue that nothing needs, once they are larger than it."""
        catalogue = bandit.model.catalogue
        up_to, num_bytes = await self._on_thread(self._reader.removable_changes, bandit.record.key)
        if num_bytes > stored_bytes(catalogue.features) + LEAST_CHANGES:
            found = await self._on_thread(self._reader.catalogue_at, bandit.record, up_to)
            await self._commit(self._store.trim_catalogue, bandit.record, found, up_to)

    def _move_on(
        self, bandit: Bandit, wanted: LogPosition, oldest: LogPosition, *, is_overdue: bool
    ) -> None:
        """Order new snapshots where an old one prevents the removal of rows."""
        model = bandit.model
        if model.spec.training.mode != "background":
            return
        many = min(wanted, model.position) - model.base_position >= LEAST_ROUND
        if many or (is_overdue and self._may_help(bandit, oldest)):
            self._order_round(bandit)

    def _may_help(self, bandit: Bandit, oldest: LogPosition) -> bool:
        """Count the rounds for overdue rows: enough of them replace all snapshots but pinned ones.

        Once these did not move the oldest snapshot, the next ones are ordered a day later.
        """
        now = time.monotonic()
        position, num, since = self._ordered.get(bandit.record.key, (oldest, 0, now))
        if position != oldest or now - since > DAY_S:
            num, since = 0, now
        if num <= self._settings.keep_snapshots:
            num += 1
            self._ordered[bandit.record.key] = oldest, num, since
            return True
        return False

    def _oldest_position(self, bandit: Bandit, wanted: LogPosition) -> LogPosition:
        """Return the log position of a bandit's oldest snapshot; 0 where none can be read.

        Snapshots that were stored for explanations alone, and whose rows go up to `wanted`, go
        first: what they explain is removed, and the limits of the store come before them.
        """
        trials = {arm.snapshot for arm in bandit.model.spec.arms if arm.snapshot is not None}
        positions = _positions(bandit.snapshots)
        for version in trials:  # they need no rows: their models stay as they are
            positions.pop(SnapshotVersion(version), None)
        if any(position < wanted for position in positions.values()):
            with self._store.reader() as reader:
                pinned = {bandit.model.version, *reader.imports(bandit.record.key)}
            pinned |= {version for version, position in positions.items() if position >= wanted}
            pinned |= {SnapshotVersion(version) for version in trials}
            for version in bandit.snapshots.prune(self._settings.keep_snapshots, pinned):
                positions.pop(version, None)
        return LogPosition(min(positions.values(), default=0))


def _positions(snapshots: SnapshotStore) -> dict[SnapshotVersion, LogPosition]:
    """Return the log position of each snapshot that can be read."""
    positions = {}
    for version in snapshots.versions():
        try:
            positions[version] = LogPosition(snapshots.manifest(version).position)
        except SnapshotError:  # pruned meanwhile, or damaged: never served again
            continue
    return positions
