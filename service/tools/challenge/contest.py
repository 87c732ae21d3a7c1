"""Has the challengers of a server compared as its logs grow, and takes the steps of their rules.

Runs on the event loop; comparisons run in a process of their own, one at a time. A log is read from
its beginning each time: what is found is a function of it, and a kill loses nothing but the time. A
log is compared again once it has grown by a quarter, so that all comparisons together take about
five times as long as the last one.

A step of a rule is a row of the log, so that a start goes on with the next one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec

from bandexa_core.ids import BanditUid
from bandexa_core.log.promotions import TrialEnd
from service.serving import promoting
from service.serving.bandit import Bandit
from service.serving.challengers import Challenger, Score, spec_json
from service.serving.engine import Engine
from service.serving.standing import ArmStanding
from service.store.errors import Conflict, InvalidRequest, ServiceError
from service.store.records import AuditEntry
from service.tools.challenge.worker import Found, Job
from service.tools.job_process import NoOutcome, job_process

log = logging.getLogger(__name__)
BY_RULE = "(rule)"
LOOKED_S = 1.0  # how often
GROWTH = 1.25  # of the learned values, between two comparisons
LEAST_VALUES = 100  # before the first one
LIMIT_S = 3600.0
AGAIN_S = 30.0  # until a step that failed is tried again
MAX_FOUND = 1 << 20  # bytes


class Contest:
    """Compares and promotes challengers.

    Args:
        engine: The live bandits.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next = 0
        self._again: dict[tuple[str, str], float] = {}  # when a step that failed is tried again
        self._steps: dict[BanditUid, asyncio.Task[None]] = {}  # which are being taken

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Contest]:
        """Compare challengers until the exit; a comparison under way is lost."""
        tasks = [
            asyncio.create_task(self._forever(step), name="challengers")
            for step in (self._compare_one, self._take_steps)
        ]
        try:
            yield self
        finally:
            for task in (*tasks, *self._steps.values()):
                task.cancel()
            await asyncio.gather(*tasks, *self._steps.values(), return_exceptions=True)

    async def _forever(self, step: object) -> None:
        assert callable(step)
        while True:
            try:
                await step()
            except Exception:  # the top of the loop: challengers go on
                log.exception("challengers: this is tried again")
            await asyncio.sleep(LOOKED_S)

    # -- comparing ------------------------------------------------------------------------------

    async def _compare_one(self) -> None:
        """Compare the challengers of the next bandit whose log has grown enough."""
        bandits = [each for each in self._engine.bandits() if each.challengers]
        for number in range(len(bandits)):
            bandit = bandits[(self._next + number) % len(bandits)]
            due = due_challengers(bandit)
            if due:
                self._next += number + 1
                await self._compare(bandit, due)
                return

    async def _compare(self, bandit: Bandit, challengers: list[Challenger]) -> None:
        engine, settings, served = self._engine, self._engine.settings, bandit.model.spec
        learned, begun = bandit.model.progress.num_learned, time.time()
        specs, scores = {}, {}
        for each in challengers:
            try:
                specs[each.name] = spec_json(promoting.checked_spec(engine, each, served))
            except ServiceError as error:
                scores[each.name] = Score(error=str(error))
        job = Job.of(
            settings, bandit.record.name, specs=specs,
            least={each.name: each.rule.least for each in challengers},
            num=max(settings.max_challengers, len(bandit.challengers)),
        )  # fmt: skip
        found = await answer(job)
        for each in challengers:
            failed = Score(error=found.error or "nothing came of it")
            score = (found.scores | scores).get(each.name, failed)
            score = msgspec.structs.replace(score, learned=learned, time=begun)
            await promoting.scored(engine, bandit, each, score)
            if score.error is not None:
                log.warning(
                    "bandit %s: challenger %s cannot be compared: %s", bandit.record.name,
                    each.name, score.error,
                )  # fmt: skip

    # -- rules ------------------------------------------------------------------------------------

    async def _take_steps(self) -> None:
        """Take the steps of each bandit that are due; none waits for what another one learns."""
        for bandit in self._engine.bandits():
            uid = bandit.record.uid
            if bandit.challengers and uid not in self._steps:
                task = asyncio.create_task(self._take_steps_of(bandit), name="challengers-steps")
                self._steps[uid] = task
                task.add_done_callback(partial(self._taken, uid))

    def _taken(self, uid: BanditUid, _: asyncio.Task[None]) -> None:
        del self._steps[uid]

    async def _take_steps_of(self, bandit: Bandit) -> None:
        for challenger in list(bandit.challengers.values()):
            key, now = (bandit.record.uid, challenger.name), time.monotonic()
            if self._again.get(key, 0.0) > now:
                continue
            self._again.pop(key, None)
            try:
                await self._take_step(bandit, challenger)
            except ServiceError as error:
                self._again[key] = now + AGAIN_S
                log.warning(
                    "bandit %s: challenger %s: its step is tried again in %.0f s: %s",
                    bandit.record.name, challenger.name, AGAIN_S, error,
                )  # fmt: skip
            except Exception:  # the top of the loop: other challengers take their steps
                self._again[key] = now + AGAIN_S
                log.exception(
                    "bandit %s: the step of challenger %s failed", bandit.record.name,
                    challenger.name,
                )  # fmt: skip

    async def _take_step(self, bandit: Bandit, challenger: Challenger) -> None:
        """Take the next step of a challenger, if one is due."""
        name, known, served = challenger.name, bandit.configurations, bandit.model.spec
        state = challenger.state(known, served)
        arm = next((each for each in bandit.current_standing() if each.name == name), None)
        if state == "served" and any(each.challenger == name for each in served.arms):
            await self._end(bandit, TrialEnd(name, "promoted"))
        elif state == "trial" and not await self._is_there(bandit):
            await self._begin_again(bandit, challenger)
        elif state == "trial" and arm is not None:
            await self._go_on(bandit, challenger, arm)
        elif state == "learning" and self._begins(bandit, challenger):
            await self._step_to(bandit, challenger, challenger.rule.steps[0])

    def _begins(self, bandit: Bandit, challenger: Challenger) -> bool:
        """Whether a rule begins to promote a challenger now; one at a time."""
        score, known = challenger.score, bandit.configurations
        if challenger.rule.rule != "auto" or score is None or not score.is_better:
            return False
        others = any(arm.challenger is not None for arm in bandit.model.spec.arms)
        if others or known.pending is not None or challenger.was_tried(known):
            return False
        return score.learned >= bandit.model.progress.num_learned / GROWTH

    async def _go_on(self, bandit: Bandit, challenger: Challenger, arm: ArmStanding) -> None:
        """End a trial that goes badly, whoever began it, or take the next step of a rule."""
        lift, rule = arm.lift, challenger.rule
        if lift is None:
            return
        if lift.interval is not None and lift.interval.low > rule.margin:
            low, high = -lift.interval.high, -lift.interval.low
            await self._end(bandit, TrialEnd(challenger.name, "worse", low, high, lift.num))
            log.warning(
                "bandit %s: challenger %s is worse by at least %.4g: its trial has ended",
                bandit.record.name, challenger.name, -high,
            )  # fmt: skip
        elif rule.rule == "auto" and lift.num >= rule.step_values:
            share = next(
                (each.share for each in bandit.model.spec.arms if each.name == arm.name), 0.0
            )
            further = [step for step in rule.steps if step > share]
            await self._step_to(bandit, challenger, further[0] if further else 1.0)

    async def _is_there(self, bandit: Bandit) -> bool:
        """Whether the model of a trial is there, and its snapshot is still stored."""
        bandit.model.end_trials(await asyncio.to_thread(bandit.snapshots.versions))
        return bandit.model.has_trials

    async def _begin_again(self, bandit: Bandit, challenger: Challenger) -> None:
        """Learn the model of a trial anew: its snapshot was damaged, or had erased rows.

        The bandit decides meanwhile. Where it cannot be learned any more, the trial ends.
        """
        arms, name = bandit.model.spec.arms, challenger.name
        share = next((arm.share for arm in arms if arm.challenger == name), 0.0)
        try:
            await promoting.try_out(self._engine, bandit.record.name, name, share)
        except (Conflict, InvalidRequest) as error:
            log.warning("bandit %s: the trial of %s is over: %s", bandit.record.name, name, error)
            await self._end(bandit, TrialEnd(name, "lost"))
        else:
            await self._note(bandit, name, "trial begins anew", "share", share)

    async def _step_to(self, bandit: Bandit, challenger: Challenger, share: float) -> None:
        engine, name = self._engine, bandit.record.name
        if share < 1.0:
            await promoting.try_out(engine, name, challenger.name, share)
        else:
            await promoting.promote(engine, name, challenger.name)
        await self._note(bandit, challenger.name, "promote", "share", share)

    async def _end(self, bandit: Bandit, end: TrialEnd) -> None:
        if await promoting.end_trial(self._engine, bandit, end):
            await self._note(bandit, end.challenger, "end of the trial", "why", end.why)

    async def _note(
        self, bandit: Bandit, challenger: str, what: str, key: str, value: float | str
    ) -> None:
        """Store a step in the audit trail."""
        changes = [{"key": f"challengers.{challenger}.{key}", "old": None, "new": value}]
        entry = AuditEntry(
            time.time(), bandit.record.name, BY_RULE, what, json.dumps(changes)
        )  # fmt: skip
        await self._engine.commit(self._engine.store.append_audit, entry)


def due_challengers(bandit: Bandit) -> list[Challenger]:
    """Return the challengers that are to be compared now; none, or all that are not served.

    All of them are compared on the same rows.
    """
    known, served = bandit.configurations, bandit.model.spec
    learned = bandit.model.progress.num_learned
    found = [
        each for each in bandit.challengers.values() if each.state(known, served) != "served"
    ]  # fmt: skip
    if learned < LEAST_VALUES:
        return []
    for each in found:
        if each.score is None or learned >= GROWTH * max(each.score.learned, 1):
            return found
    return []


async def answer(job: Job) -> Found:
    """Return what the process of a comparison finds; it ends with the caller."""
    async with job_process(
        "service.tools.challenge.worker", limit_s=LIMIT_S, max_bytes=MAX_FOUND
    ) as process:
        try:
            return await process.outcome(job, Found)
        except NoOutcome as error:
            return Found(error=str(error))
