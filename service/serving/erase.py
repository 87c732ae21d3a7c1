"""Erase decisions, by their unit or their ids, and rebuild the models that learned from them.

Runs on the event loop. The request is stored first, so that the next start finishes what a kill
interrupted. Then the store blanks a few decisions per transaction, between those of requests. The
next round of each bandit concerned starts from before the first erased row: its snapshot is
published and served, and the snapshots that cover the row are removed. At last the write-ahead log
is emptied, which holds pages from before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bandexa_core.ids import DecisionId
from service.serving.background import BackgroundTasks
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.serving.erased_rows import has_erased
from service.serving.recent import RecentDecisions
from service.serving.relearner import Relearner
from service.serving.rounds import Rounds
from service.store.errors import StoreError, Unavailable
from service.store.protocol import EventStore
from service.store.records import BanditRecord, ErasedPart, Erasure

log = logging.getLogger(__name__)
WAL_TRIES_S = 10.0
WAL_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure has done.

    Attributes:
        decisions: How many decisions it blanked.
        samples: How many rows of samples it removed whose decision had left the store.
        rebuilt: The bandits whose models were rebuilt without them.
        waiting: The bandits whose models could not be rebuilt yet; that is tried again.
        remaining: Bandits whose models still contain erased rows, of this erasure or an earlier
            one: retention removed the rows that a rebuild needs, or the model was learned from
            that of an import or a rollback.
        wal_emptied: Whether the write-ahead log was emptied; False: a reader prevented it.
    """

    decisions: int
    samples: int
    rebuilt: tuple[str, ...]
    waiting: tuple[str, ...]
    remaining: tuple[str, ...]
    wal_emptied: bool


class Eraser:
    """Erases, and finishes what an earlier process began.

    Args:
        store: The event store.
        commit: Appends to the store and waits for the commit.
        recent: The decisions in memory.
        relearner: Rebuilds models.
        rounds: Knows which models are to be rebuilt.
        find: Returns the live bandit with a key in the store, or None.
    """

    def __init__(
        self,
        store: EventStore,
        commit: Committer,
        recent: RecentDecisions,
        relearner: Relearner,
        rounds: Rounds,
        find: Callable[[int], Bandit | None],
    ) -> None:
        self._store = store
        self._commit = commit
        self._recent = recent
        self._relearner = relearner
        self._rounds = rounds
        self._find = find
        self._reader = store.reader()  # of a few rows
        self._tasks = BackgroundTasks(
            "erasing", "an erasure is not finished; the next start goes on"
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Finish what is open; at the exit, stop: the next start goes on."""
        for erasure in self._reader.erasures():
            log.info("erasure %d is finished, which an earlier process began", erasure.number)
            self._tasks.start(self._finish(erasure))
        try:
            yield
        finally:
            await self._tasks.end()
            self._reader.close()

    async def erase(
        self, bandit: BanditRecord | None, unit: str | None, ids: Sequence[DecisionId]
    ) -> Erased:
        """Erase decisions; returns once nothing of them is left.

        It goes on where the caller goes away. Erasing again erases nothing more, and waits for
        what an earlier call has not finished.

        Args:
            bandit: The only bandit concerned; None: all of them.
            unit: All decisions that were made for this user or session; or None.
            ids: These decisions, where `unit` is None.

        Raises:
            Unavailable, StoreError: The store takes no writes; what has begun is finished later.
        """
        key = None if bandit is None else bandit.key
        erasure = await self._commit(self._store.begin_erasure, key, unit, tuple(ids))
        return await asyncio.shield(self._tasks.start(self._finish(erasure)))

    async def _finish(self, erasure: Erasure) -> Erased:
        num, samples = Counter[int](), 0
        learned: set[int] = set()
        start, more = 0, True
        while more:
            part: ErasedPart = await self._commit(self._store.erase, erasure, start)
            start, more = part.next, part.more
            samples += part.samples
            for key, names in part.decisions.items():
                num[key] += len(names)
                for name in names:
                    self._recent.drop(name)
            self._relearner.note(part.relearning)
            learned.update(mark.bandit for mark in part.relearning)
        # An earlier call, or one under way, may have erased what this one names: it waits as well.
        marks = [m for m in self._reader.relearning() if erasure.bandit in (None, m.bandit)]
        self._relearner.note(marks)
        learned.update(mark.bandit for mark in marks)
        bandits = [bandit for key in sorted(learned) if (bandit := self._find(key)) is not None]
        done = await asyncio.gather(*map(self._relearner.rebuild, bandits))
        emptied = await self._empty_wal()
        rebuilt = tuple(b.record.name for b, ok in zip(bandits, done, strict=True) if ok)
        failed = [b.record.name for b, ok in zip(bandits, done, strict=True) if not ok]
        waiting = (*failed, *self._not_served(learned))
        remaining = await self._remaining(erasure)
        log.info(
            "erasure %d: %d decisions and %d sampled rows were erased; rebuilt: %s; waiting: %s;"
            " still in models: %s", erasure.number, num.total(), samples,
            *(", ".join(names) or "none" for names in (rebuilt, waiting, remaining)),
        )  # fmt: skip
        return Erased(num.total(), samples, rebuilt, waiting, remaining, emptied)

    def _not_served(self, keys: set[int]) -> list[str]:
        """Return the bandits among these that cannot be served now, and so not be rebuilt."""
        missing = {key for key in keys if self._find(key) is None}
        if not missing:
            return []
        return [record.name for record in self._reader.bandits() if record.key in missing]

    async def _remaining(self, erasure: Erasure) -> tuple[str, ...]:
        """Return the bandits whose models contain erased rows, and no later round changes that."""
        keys = sorted({each.bandit for each in self._reader.blanked(erasure.bandit)})
        live = [bandit for key in keys if (bandit := self._find(key)) is not None]
        bandits = [bandit for bandit in live if not self._rounds.must_relearn(bandit)]

        def examine() -> list[BanditRecord]:
            with self._store.reader() as reader:
                return [
                    bandit.record
                    for bandit in bandits
                    if has_erased(
                        reader,
                        bandit.record,
                        bandit.model.registry,
                        bandit.snapshots,
                        bandit.model.version,
                    )
                ]

        found = await asyncio.to_thread(examine)
        return tuple(record.name for record in found if self._find(record.key) is not None)

    async def _empty_wal(self) -> bool:
        """Empty the write-ahead log, as soon as no reader prevents it."""
        deadline = time.monotonic() + WAL_TRIES_S
        try:
            while not await self._commit(self._store.empty_wal):
                if time.monotonic() > deadline:
                    log.warning("a reader prevents that the write-ahead log is emptied")
                    return False
                await asyncio.sleep(WAL_PAUSE_S)
        except (StoreError, Unavailable) as error:
            log.warning("the write-ahead log is not emptied: %s", error)
            return False
        return True
