"""Bring failed bandits back: build the model again from snapshot and log, and serve it.

A bandit fails when a log row cannot be read or applied. It is tried again after a second, then
after twice as long each time, up to a minute; a command or an import tries at once. Nothing is lost
in between: the log holds every row, and the attempt begins at the newest good snapshot. A bandit
that could not be recovered when the server started is *set aside*: it is not served, all others
are.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import RowNotApplied
from bandexa_core.ids import LogPosition
from bandexa_core.log.rows import Group
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import SnapshotStore
from bandexa_core.spec import BanditSpec
from service.observe.counters import Metrics
from service.serving.applier import Failure
from service.serving.background import end_tasks
from service.serving.bandit import Bandit
from service.serving.errors import BanditFailed
from service.serving.threads import in_own_thread
from service.store.loading import load_at, newest_snapshot
from service.store.protocol import EventStore
from service.store.reading import LogReader
from service.store.records import BanditRecord

log = logging.getLogger(__name__)
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0


@dataclasses.dataclass(slots=True, eq=False)
class SetAside:
    """A bandit that is not served.

    Attributes:
        record: Its identity and configuration.
        snapshots: Its snapshots on disk.
        failure: Why it cannot be served.
        is_served: Whether it was recovered since, and lives on as a `Bandit`.
    """

    record: BanditRecord
    snapshots: SnapshotStore
    failure: Failure
    is_served: bool = False


def build_model(
    reader: LogReader,
    registry: EncoderRegistry,
    record: BanditRecord,
    snapshots: SnapshotStore,
    applied: Callable[[Group], None] | None = None,
) -> ServingModel:
    """Return the model of the newest good snapshot with the whole log applied.

    `applied` is called with each group of the log.

    Raises:
        SnapshotError, RowNotApplied, StoreError, LogTrimmed: It cannot be built.
    """
    head = reader.head(record.key)
    snapshot = newest_snapshot(reader, record, snapshots, head)
    return load_at(reader, record, registry, snapshots, snapshot, head, applied)


def failure_of(error: Exception, since: float | None = None, tries: int = 0) -> Failure:
    """Return the failure that an error of `build_model` is."""
    position = LogPosition(error.position if isinstance(error, RowNotApplied) else 0)
    reason = error.reason if isinstance(error, RowNotApplied) else error
    began = time.time() if since is None else since
    return Failure(position, f"{type(reason).__name__}: {reason}", began, tries)


class Recovery:
    """Recovers failed bandits, by itself and on command.

    Args:
        registry: Encoders by name.
        metrics: Counts.
        store: The event store.
        loader: One thread, off the event loop, that loads models.
        serve: Called with a bandit that was set aside, and its model, to serve it.
    """

    def __init__(
        self,
        registry: EncoderRegistry,
        metrics: Metrics,
        store: EventStore,
        loader: Executor,
        serve: Callable[[SetAside, ServingModel], None],
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._reader = store.reader()
        self._loader = loader
        self._serve = serve
        self._tasks: dict[Bandit | SetAside, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Recover bandits until the exit."""
        try:
            yield
        finally:
            await end_tasks(self._tasks.values())
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._loader, self._reader.close)

    def failed(self, bandit: Bandit | SetAside) -> None:
        """Try to recover a bandit from now on, until it works."""
        if bandit not in self._tasks:
            name = f"recover-{bandit.record.uid}"
            self._tasks[bandit] = asyncio.create_task(self._retry(bandit), name=name)

    def forget(self, bandit: Bandit | SetAside) -> None:
        """Stop recovering a bandit that was deleted."""
        task = self._tasks.pop(bandit, None)
        if task is not None:
            task.cancel()

    async def recover(self, bandit: Bandit | SetAside) -> None:
        """Recover a bandit now; does nothing where it has not failed.

        Raises:
            BanditFailed: It cannot be recovered; it is tried again later.
        """
        failure = _failure(bandit)
        if failure is None:
            return
        loop = asyncio.get_running_loop()
        try:
            spec = await loop.run_in_executor(self._loader, self._spec, bandit)
            await in_own_thread(self._registry.fetch, spec)
            model = await loop.run_in_executor(self._loader, self._build, bandit)
        except Exception as error:  # own encoders raise anything
            again = failure_of(error, failure.since, failure.tries + 1)
            if isinstance(bandit, SetAside):
                bandit.failure = again
            elif bandit.applier.failure is not None:  # the served model still stops there
                bandit.applier.failure = dataclasses.replace(
                    again, position=failure.position, has_branched=failure.has_branched
                )
            log.warning("bandit %s cannot be recovered: %s", bandit.record.name, again.reason)
            raise BanditFailed(bandit.record.name, again.reason) from error
        if _failure(bandit) is None:  # a swap or another attempt was faster
            return
        if isinstance(bandit, SetAside):
            bandit.is_served = True
            self._serve(bandit, model)
        else:
            bandit.applier.swap(model)
        self._metrics.recoveries.inc()
        if failure.has_branched:
            self._metrics.diverged.inc()
        log.warning("bandit %s is recovered at position %d", bandit.record.name, model.position)

    def _spec(self, bandit: Bandit | SetAside) -> BanditSpec:
        record = bandit.record
        return self._reader.spec_at(record, self._reader.head(record.key))

    def _build(self, bandit: Bandit | SetAside) -> ServingModel:
        return build_model(self._reader, self._registry, bandit.record, bandit.snapshots)

    async def _retry(self, bandit: Bandit | SetAside) -> None:
        backoff_s = FIRST_BACKOFF_S
        try:
            while _failure(bandit) is not None:
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
                with contextlib.suppress(BanditFailed):  # logged, and tried again
                    await self.recover(bandit)  # it may fail again at once, at a later row
        finally:
            self._tasks.pop(bandit, None)


def _failure(bandit: Bandit | SetAside) -> Failure | None:
    if isinstance(bandit, SetAside):
        return None if bandit.is_served else bandit.failure
    return bandit.applier.failure
