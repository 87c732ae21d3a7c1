"""Bring wanted configurations about: each is learned by a round, and then switched to.

Runs on the event loop. What is wanted is a row of the log (see `Configurations`), and so is the
switch: a start finds what was wanted and is not served, and goes on. Until the switch the bandit is
served under the configuration it had. An attempt that failed is tried again, and at once where the
configuration is put again; rounds in between are those of the served configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from bandexa_core.ids import BanditUid
from service.serving.background import end_tasks
from service.serving.bandit import Bandit
from service.serving.rounds import Rounds
from service.training.errors import BanditGone, RoundFailed, ServerEnds

log = logging.getLogger(__name__)
AGAIN_S = 30.0  # until an attempt that failed is made again
POLLED_S = 0.1  # how often one who waits checks for an error


class Reconfiguring:
    """Has wanted configurations learned and served.

    Args:
        rounds: Learns them.
        find: Returns the live bandit of a uid, or None.
        bandits: Returns all live bandits.
    """

    def __init__(
        self,
        rounds: Rounds,
        find: Callable[[BanditUid], Bandit | None],
        bandits: Callable[[], Iterable[Bandit]],
    ) -> None:
        self._rounds = rounds
        self._find = find
        self._bandits = bandits
        self._tasks: dict[BanditUid, asyncio.Task[None]] = {}
        self._again: dict[BanditUid, asyncio.Event] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Finish what is wanted; at the exit, stop: the next start goes on."""
        for bandit in self._bandits():
            self.start(bandit)
        try:
            yield
        finally:
            await end_tasks(self._tasks.values())

    def start(self, bandit: Bandit) -> None:
        """Have the wanted configuration of a bandit learned from now on, where there is one."""
        uid = bandit.record.uid
        if uid in self._tasks:
            self._again[uid].set()
            return
        if bandit.configurations.pending is None:
            return
        self._again[uid] = asyncio.Event()
        task = asyncio.create_task(self._finish(bandit), name=f"reconfigure-{uid}")
        self._tasks[uid] = task

        def ended(_: asyncio.Task[None]) -> None:
            if self._tasks.get(uid) is task:
                del self._tasks[uid], self._again[uid]

        task.add_done_callback(ended)

    async def served(self, bandit: Bandit) -> None:
        """Wait until nothing else is wanted, or an attempt has failed.

        Raises:
            RoundFailed: It has.
        """
        task = self._tasks.get(bandit.record.uid)
        while task is not None and not task.done():
            await asyncio.wait([task], timeout=POLLED_S)
            if bandit.change_error is not None:
                raise RoundFailed(bandit.change_error)

    async def _finish(self, bandit: Bandit) -> None:
        name, uid = bandit.record.name, bandit.record.uid
        again = self._again[uid]
        while self._find(uid) is bandit and (wanted := bandit.configurations.pending) is not None:
            again.clear()
            bandit.change_error = None
            log.info("bandit %s: the configuration wanted at row %d is learned", name, wanted[0])
            try:
                await self._rounds.reconfigure(bandit, wanted.position)
            except (BanditGone, ServerEnds):
                return
            except RoundFailed as error:
                pending = bandit.configurations.pending
                if pending is None or pending.position != wanted.position:
                    continue
                bandit.change_error = str(error)
                log.error(
                    "bandit %s: the wanted configuration could not be learned; it is tried again"
                    " in %.0f s: %s", name, AGAIN_S, error,
                )  # fmt: skip
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(again.wait(), AGAIN_S)
            else:
                if bandit.configurations.pending == wanted:  # a round of the served one was faster
                    await asyncio.sleep(0)
