"""Guards: where a bandit is worse than its control, the control serves everything.

Runs on the event loop, each time the follower has counted how the arms of a bandit stand. The
change is a row of the log that says why; it lasts until a person names the mode in a `PUT`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from bandexa_core.ids import BanditUid
from bandexa_core.log.promotions import Trip
from service.observe.evidence import Evidence
from service.serving.background import end_tasks
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.standing import EarnedByAction, Standing
from service.store.errors import ServiceError
from service.store.records import AuditEntry

BY_GUARD = "(guard)"
log = logging.getLogger(__name__)


class Guarding:
    """Takes note of how arms stand, and acts on it.

    Args:
        engine: The live bandits.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: dict[BanditUid, asyncio.Task[None]] = {}

    def judged(self, uid: BanditUid, found: Evidence) -> None:
        """Note what the recent values of a bandit say."""
        bandit = self._engine.live.find(uid)
        if bandit is not None:
            bandit.evidence = found

    def earned(self, uid: BanditUid, found: tuple[EarnedByAction, ...]) -> None:
        """Note what the actions of a bandit earned."""
        bandit = self._engine.live.find(uid)
        if bandit is not None:
            bandit.earned = found

    def stood(self, uid: BanditUid, found: Standing) -> None:
        """Note how the arms of a bandit stand."""
        bandit = self._engine.live.find(uid)
        if bandit is None:
            return
        bandit.standing = found
        if uid in self._tasks or self._trip(bandit) is None:
            return
        task = asyncio.create_task(self._take_over(bandit), name=f"guard-{uid}")
        self._tasks[uid] = task
        task.add_done_callback(lambda _: self._tasks.pop(uid, None))

    @staticmethod
    def _trip(bandit: Bandit) -> Trip | None:
        """Return why the control has to take over now; None where it has not."""
        spec, found = bandit.model.spec, bandit.current_standing()
        guard = spec.guard
        if spec.mode == "control_only" or spec.serve is not None or not guard.num_watched:
            return None
        arm = next((each for each in found if each.name == guard.arm), None)
        watched: list[tuple[str, float, float]] = []
        if guard.margin is not None:
            watched.append(("", guard.margin, 1.0))
        watched += [
            (name, each.margin, 1.0 if each.better == "higher" else -1.0)
            for name, each in guard.metrics.items()
        ]
        for name, margin, sign in watched:
            lift = None if arm is None else arm.guarded.get(name)
            if lift is None or lift.interval is None:
                continue
            best = lift.interval.high if sign > 0 else -lift.interval.low
            if best < -margin:
                return Trip(guard.arm, margin, *lift.interval, lift.num, metric=name or None)
        return None

    async def _take_over(self, bandit: Bandit) -> None:
        engine, name = self._engine, bandit.record.name
        async with engine.live.changing(name):
            trip = self._trip(bandit)  # somebody may have changed it meanwhile
            if trip is None or engine.live.find(bandit.record.uid) is not bandit:
                return
            before = bandit.model.spec.mode
            spec = dataclasses.replace(bandit.model.spec, mode="control_only")
            append = partial(engine.store.append_config, why=trip)
            try:
                row = await engine.commit(append, bandit.record, spec, then=bandit.logged)
                await engine.settled(bandit, row.position)
            except ServiceError as error:  # the next count tries again
                log.error("bandit %s: its guard could not act: %s", name, error)
                return
        changes = [{"key": "spec.mode", "old": before, "new": spec.mode}]
        entry = AuditEntry(row.time, name, BY_GUARD, "guard", json.dumps(changes))
        with suppress(ServiceError):  # its row of the log says it all
            await engine.commit(engine.store.append_audit, entry)
        log.error(
            "bandit %s: its lift over arm %s%s is %.4g to %.4g, worse than by %.4g: the arm serves"
            " everything", name, trip.arm, f" by {trip.metric}" if trip.metric else "", trip.low,
            trip.high, trip.margin,
        )  # fmt: skip

    async def close(self) -> None:
        """End what is under way."""
        await end_tasks(self._tasks.values())


@asynccontextmanager
async def guarding(engine: Engine) -> AsyncIterator[Guarding]:
    """Guard the bandits of an engine until the exit."""
    found = Guarding(engine)
    try:
        yield found
    finally:
        await found.close()
