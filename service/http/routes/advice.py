"""The call that says how much exploration, or control, a bandit needs to see a difference."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated

from fastapi import APIRouter, Query

from service.http.auth import needs
from service.http.codec import WireRoute
from service.http.routes.common import EngineDep, FollowerDep, Name, problems
from service.http.schemas.advice import AdviceAnswer
from service.observe.dashboard import advising
from service.serving.inputs import MAX_SIZE
from service.store.errors import InvalidRequest

router = APIRouter(prefix="/bandits", route_class=WireRoute)
MOST_DECISIONS = 10**9
MOST_ACTIONS = 10**6


@router.get("/{name}/advice", openapi_extra=needs("read"), responses=problems(404, 422))
async def advice(
    name: Name,
    engine: EngineDep,
    follower: FollowerDep,
    precision: Annotated[
        float,
        Query(ge=1e-4, le=1.0, description="To be seen, as a share of the range."),
    ] = 0.05,
    difference: Annotated[
        float | None,
        Query(gt=0.0, le=MAX_SIZE, description="The same in the unit of rewards, in its place."),
    ] = None,
    decisions: Annotated[
        int | None,
        Query(
            ge=1,
            le=MOST_DECISIONS,
            description="Within how many; else those of 28 days.",
        ),
    ] = None,
    variance: Annotated[
        float | None,
        Query(
            gt=0.0,
            le=MAX_SIZE,
            description="Of rewards; by default of the last week's.",
        ),
    ] = None,
    actions: Annotated[
        int | None,
        Query(ge=1, le=MOST_ACTIONS, description="How many; by default the enabled ones."),
    ] = None,
) -> AdviceAnswer:
    """Return which control or floor shows a difference within a number of decisions.

    It uses the rule of evaluations, n = 10 v / (q d^2), with the bandit's own figures, which are
    part of the answer. Nothing is changed.
    """
    bandit = engine.bandit(name)
    asked = advising.Question(precision, difference, decisions, variance, actions)

    def seen() -> advising.Figures:
        with follower.aggregates() as aggregates:
            return advising.figures(aggregates, bandit.record.uid, time.time())

    found = await asyncio.get_running_loop().run_in_executor(None, seen)
    model, catalogue = bandit.model, bandit.model.catalogue
    enabled = [catalogue.ids[slot] for slot in catalogue.enabled_slots]
    try:
        answer = advising.advise(model.spec, enabled, model.progress.num_learned, found, asked)
    except advising.Unanswerable as error:
        raise InvalidRequest.from_value_error(error, "difference") from error
    return AdviceAnswer(**dataclasses.asdict(answer))
