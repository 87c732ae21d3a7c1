"""Rebuilds models without what must not be in them any more: erased rows, and void values.

Runs on the event loop. A rebuild is a round: it starts from before the first of those rows, its
snapshot is published, and served. Which models are concerned follows from the store and the log, so
that the next start goes on with what a kill interrupted; what fails is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from bandexa_core.ids import BanditUid
from service.serving.background import BackgroundTasks
from service.serving.bandit import Bandit
from service.serving.rounds import Rounds
from service.store.errors import StoreError
from service.store.protocol import EventStore
from service.store.records import Relearning
from service.training.errors import BanditGone, RoundFailed

log = logging.getLogger(__name__)
AGAIN_S = 30.0  # until a rebuild that failed is tried again


class Relearner:
    """Rebuilds models; used by whoever erases or voids.

    Args:
        store: Says which models have learned from erased rows.
        rounds: Rebuilds.
        find: Returns the live bandit with a key in the store, or None.
        served: Returns all live bandits.
    """

    def __init__(
        self,
        store: EventStore,
        rounds: Rounds,
        find: Callable[[int], Bandit | None],
        served: Callable[[], list[Bandit]],
    ) -> None:
        self._rounds = rounds
        self._find = find
        self._served = served
        self._reader = store.reader()  # of a few rows
        self._tasks = BackgroundTasks(
            "relearning", "models are not rebuilt any more until the next start"
        )
        self._begun: dict[BanditUid, asyncio.Task[bool]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Rebuild what an earlier process has left, and what fails; at the exit, stop."""
        self.note(self._reader.relearning())
        self._tasks.start(self._rebuild_all())
        try:
            yield
        finally:
            await self._tasks.end()
            self._reader.close()

    def note(self, marks: Sequence[Relearning]) -> list[Bandit]:
        """Have the models of live bandits rebuilt by their next round; returns these bandits."""
        bandits = []
        for mark in marks:
            bandit = self._find(mark.bandit)
            if bandit is not None:
                self._rounds.relearn(bandit, mark)
                bandits.append(bandit)
        return bandits

    def begin(self, bandit: Bandit) -> asyncio.Task[bool]:
        """Rebuild a model in the background, unless that is under way; see `rebuild`."""
        uid = bandit.record.uid
        task = self._begun.get(uid)
        if task is None or task.done():
            task = self._begun[uid] = self._tasks.start(self.rebuild(bandit))
            task.add_done_callback(lambda task: self._forget(uid, task))
        return task

    def _forget(self, uid: BanditUid, task: asyncio.Task[bool]) -> None:
        if self._begun.get(uid) is task:
            del self._begun[uid]

    async def rebuild(self, bandit: Bandit) -> bool:
        """Rebuild a model; returns once it is served. False: it failed, and is tried again.

        Where another configuration is wanted, its model is without them as well: its round is one
        of these. If that fails, or is not wanted any more, the served model is rebuilt.
        """
        while self._rounds.must_relearn(bandit):
            try:
                await self._rounds.train(bandit)
            except BanditGone:
                return True
            except RoundFailed as error:
                if self._rounds.take_change(bandit):
                    continue
                log.error(
                    "bandit %s: its model could not be rebuilt without erased or void values; it is"
                    " tried again every %.0f s: %s", bandit.record.name, AGAIN_S, error,
                )  # fmt: skip
                return False
        return True

    async def _rebuild_all(self) -> None:
        """Rebuild again and again what could not be rebuilt so far.

        That may be a bandit that was not served when its rows were erased.
        """
        while True:
            try:
                self.note(self._reader.relearning())
            except StoreError as error:
                log.warning("which models have to be rebuilt is not known: %s", error)
            for bandit in self._served():
                if self._rounds.must_relearn(bandit):
                    await asyncio.wait([self.begin(bandit)])
            await asyncio.sleep(AGAIN_S)
