"""Reward and Activate: what became of an event.

Personalizer answers 204 to events that it does not know, since its log is joined later. So does
this, and counts them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable

from bandexa_core.ids import DecisionId
from bandexa_core.log.contract import COMBINED
from service.http.personalizer import ids
from service.http.personalizer.loops import LOGGING
from service.serving.engine import Engine
from service.store.errors import Erased, InvalidRequest, UnknownDecision
from service.store.records import RewardReport


def report_of(
    engine: Engine, name: str, decision: DecisionId, value: float, request_id: str | None
) -> RewardReport:
    """Return what is to be reported of an event.

    Args:
        engine: Knows the bandits.
        name: The bandit whose event it is.
        decision: Its decision.
        value: The reward.
        request_id: The client's id of the request: its retries count once. Without one, each
            request is a reward of its own where rewards are combined.
    """
    if request_id is not None:
        reward_id: str | None = ids.reward_of(name, decision, request_id)
    else:
        sums = engine.bandit(name).model.spec.rewards.aggregate in COMBINED
        reward_id = ids.new_event() if sums else None
    return RewardReport(
        decision_id=decision, reward=value, reward_id=reward_id, action=None, time=time.time(),
        bandit=name,
    )  # fmt: skip


async def reward(engine: Engine, report: RewardReport) -> None:
    """Report how an event went.

    Raises:
        InvalidRequest: The reward cannot be taken.
    """
    await _known(engine, engine.rewards.reward(report))


async def check(engine: Engine, report: RewardReport) -> None:
    """Check a reward; nothing is stored.

    Raises:
        InvalidRequest: It cannot be taken.
    """
    await _known(engine, engine.rewards.check(report))


async def activate(engine: Engine, decision: DecisionId) -> None:
    """Have a deferred event count; one that was only logged never does."""
    stored = engine.reader.answer(decision)
    if stored is not None and stored.arm == LOGGING:
        return
    await _known(engine, engine.rewards.activate(decision))


async def _known(engine: Engine, work: Awaitable[object]) -> None:
    """Have something reported; of an event that is not known, only the count changes."""
    try:
        await work
    except (UnknownDecision, Erased):
        engine.metrics.unknown_events.inc()
    except InvalidRequest as error:
        if error.field == "reward":
            raise InvalidRequest("value", error.message) from error
        raise
