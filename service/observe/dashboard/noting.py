"""Notes when findings of bandits begin and end: a list of alarms over time.

Runs on the event loop; the follower's thread stores what it finds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from service.observe.dashboard.follower import Follower
from service.observe.health import bandit_findings
from service.observe.slices import in_slices
from service.serving.engine import Engine
from service.store.errors import StoreError
from service.store.sqlite.aggregates import Noted

LOOKED_S = 5.0
SHARE = 20.0  # at most a twentieth of the time is spent on looking
log = logging.getLogger(__name__)


class Noting:
    """Compares the findings of bandits with those that it found before.

    Args:
        engine: The live bandits.
        follower: Stores what began and ended.
    """

    def __init__(self, engine: Engine, follower: Follower) -> None:
        self._engine = engine
        self._follower = follower
        self._open: dict[tuple[str, str], Noted] | None = None  # by bandit and finding

    def _known(self) -> dict[tuple[str, str], Noted]:
        if self._open is None:
            with self._follower.aggregates() as aggregates:
                self._open = {(each.bandit, each.name): each for each in aggregates.noted()}
        return self._open

    async def look(self) -> None:
        """Note what has begun or ended."""
        known, seen, changes = self._known(), set(), []
        uids = set()
        async for bandit in in_slices(self._engine.bandits()):
            uid, now = bandit.record.uid, time.time()
            uids.add(uid)
            since = {}
            for finding in bandit_findings(self._engine, bandit):
                key = uid, finding.name
                seen.add(key)
                if key not in known:
                    known[key] = Noted(
                        uid, finding.name, finding.severity, finding.message, now, None
                    )
                    changes.append(known[key])
                else:
                    known[key] = known[key]._replace(message=finding.message)
                since[finding.name] = known[key].since
            bandit.found_since = since
        ended = [key for key in known if key not in seen]
        changes += [known.pop(key)._replace(until=time.time()) for key in ended]
        self._follower.note([each for each in changes if each.bandit in uids])

    async def run(self) -> None:
        """Compare again and again."""
        while True:
            begun = time.monotonic()
            try:
                await self.look()
            except StoreError as error:  # the file of counts is made anew at the next start
                log.warning("findings are not noted: %s", error)
            await asyncio.sleep(max(LOOKED_S, SHARE * (time.monotonic() - begun)))


@asynccontextmanager
async def noting(engine: Engine, follower: Follower) -> AsyncIterator[Noting]:
    """Note findings until the exit."""
    found = Noting(engine, follower)
    task = asyncio.create_task(found.run(), name="noting")
    try:
        yield found
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
