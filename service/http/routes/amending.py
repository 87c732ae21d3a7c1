"""The calls with which an administrator voids and corrects rewards."""

from __future__ import annotations

from fastapi import APIRouter

from bandexa_core.ids import ActionId, DecisionId
from service.http.auth import needs
from service.http.codec import WireRoute
from service.http.inputs import outcome_of
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.amending import (
    CorrectAnswer,
    CorrectRequest,
    VoidAnswer,
    VoidRequest,
)
from service.serving.amending import Selection

router = APIRouter(prefix="/bandits", route_class=WireRoute)


@router.post(
    "/{name}/rewards/void",
    openapi_extra=needs("admin"),
    responses=problems(404, 413, 415, 422, 503),
)
async def void_rewards(name: Name, body: VoidRequest, engine: EngineDep) -> VoidAnswer:
    """Void rewards: nothing is learned from them any more; they stay stored, and are shown as void.

    A model that has learned them is rebuilt without them. Repeating the call is safe.
    """
    bandit = engine.bandit(name)
    ids = None if body.decision_ids is None else [DecisionId(each) for each in body.decision_ids]
    action = None if body.action is None else ActionId(body.action)
    selection = Selection(ids, body.since, body.until, action)
    found = await engine.amending.void(bandit, selection, dry_run=body.dry_run, wait=body.wait)
    return VoidAnswer(
        decisions=found.decisions, values=found.values, rewards=found.rewards,
        learned=found.learned, unknown=list(found.unknown), dry_run=body.dry_run,
        unlearning="pending" if found.pending else "none",
    )  # fmt: skip


@router.post(
    "/{name}/rewards/correct",
    openapi_extra=needs("admin"),
    responses=problems(404, 410, 413, 415, 422, 503),
)
async def correct_reward(name: Name, body: CorrectRequest, engine: EngineDep) -> CorrectAnswer:
    """Replace the value of a decision, whatever was reported, and whatever `aggregate` says.

    What was learned is corrected exactly. A void value counts again.
    """
    bandit = engine.bandit(name)
    action = None if body.action is None else ActionId(body.action)
    reward = outcome_of(body.reward, body.metrics)
    done = await engine.amending.correct(bandit, DecisionId(body.decision_id), action, reward)
    return CorrectAnswer(
        status=done.status, action=done.action, before=done.before, after=done.after
    )
