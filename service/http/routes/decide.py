"""Select and reward, single and in batches, and score."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError

from bandexa_core.ids import ActionId, DecisionId
from service.http.auth import needs
from service.http.codec import ARRIVED, WireRoute, body_hash
from service.http.problems import problem_of
from service.http.routes.common import EngineDep, candidates_of, problems
from service.http.schemas import (
    ActionRef,
    ActivateAnswer,
    ActivateRequest,
    RewardAnswer,
    RewardBatch,
    RewardBatchAnswer,
    RewardItem,
    RewardRequest,
    Score,
    ScoreAnswer,
    ScoreRequest,
    SelectAnswer,
    SelectBatch,
    SelectBatchAnswer,
    SelectItem,
    SelectRequest,
)
from service.serving.engine import Engine
from service.serving.select.decide import Decision, SelectCommand
from service.store.errors import ServiceError
from service.store.records import RewardReport

B = TypeVar("B", bound=BaseModel)
router = APIRouter(route_class=WireRoute)


@router.post(
    "/select",
    openapi_extra=needs("select"),
    response_model_exclude_none=False,
    responses=problems(404, 409, 413, 415, 422),
)
async def select(body: SelectRequest, request: Request, engine: EngineDep) -> SelectAnswer:
    """Choose an action for a context. Retrying with the same `decision_id` and body is safe."""
    return await answer_select(engine, body, request.scope[ARRIVED])


@router.post("/reward", openapi_extra=needs("reward"), responses=problems(404, 413, 415, 422))
async def reward(body: RewardRequest, engine: EngineDep) -> RewardAnswer:
    """Report how a decision went. Reporting the same value again changes nothing."""
    return await answer_reward(engine, body)


@router.post("/activate", openapi_extra=needs("reward"), responses=problems(404, 413, 415, 422))
async def activate(body: ActivateRequest, engine: EngineDep) -> ActivateAnswer:
    """Count a decision that was made with `activate` false: what was shown, say, not prefetched."""
    return ActivateAnswer(status=await engine.rewarding.activate(DecisionId(body.decision_id)))


@router.post("/select/batch", openapi_extra=needs("select"), responses=problems(413, 415, 422))
async def select_batch(body: SelectBatch, request: Request, engine: EngineDep) -> SelectBatchAnswer:
    """Answer up to 1000 selects; each succeeds or fails on its own."""
    return await answer_select_batch(engine, body, request.scope[ARRIVED])


@router.post("/reward/batch", openapi_extra=needs("reward"), responses=problems(413, 415, 422))
async def reward_batch(body: RewardBatch, engine: EngineDep) -> RewardBatchAnswer:
    """Take up to 1000 rewards; each succeeds or fails on its own."""
    return await answer_reward_batch(engine, body)


@router.post(
    "/bandits/{name}/score", openapi_extra=needs("read"), responses=problems(404, 413, 415, 422)
)
async def score(name: str, body: ScoreRequest, engine: EngineDep) -> ScoreAnswer:
    """Mean and standard deviation of each candidate's expected reward; decides nothing."""
    found = await engine.selecting.score(name, body.context, candidates_of(body.candidates))
    columns = zip(
        found.ids, found.indexes.tolist(), found.means.tolist(), found.stds.tolist(), strict=True
    )
    scores = [Score(id=i, index=n, mean=mean, std=std) for i, n, mean, std in columns]
    return ScoreAnswer(scores=scores, snapshot=found.snapshot, position=found.position)


async def answer_select(
    engine: Engine, body: SelectRequest, arrived: float, *, patient: bool = False
) -> SelectAnswer:
    """Decide and answer.

    Args:
        engine: Decides.
        body: The request.
        arrived: When it had arrived whole, by perf_counter.
        patient: See `ContextEncoder.encode`.
    """
    own_id = body.decision_id
    digest = None
    if own_id is not None:
        digest = body_hash({name: getattr(body, name) for name in _HASHED})
    command = SelectCommand(
        bandit=body.bandit,
        context=body.context,
        candidates=candidates_of(body.candidates),
        retrieve=body.retrieve,
        decision_id=None if own_id is None else DecisionId(own_id),
        num=body.k,
        activate=body.activate,
        body_hash=digest,
        decode_s=time.perf_counter() - arrived,
    )
    return _answer(await engine.selecting.select(command, patient=patient))


_HASHED = ("bandit", "context", "candidates", "retrieve", "k", "activate")


def _answer(decision: Decision) -> SelectAnswer:
    actions = [ActionRef(id=chosen.id, index=chosen.index) for chosen in decision.chosen]
    return SelectAnswer(
        decision_id=decision.decision_id,
        action=actions[0],
        actions=actions if len(actions) > 1 else None,
        score=decision.chosen[0].score,
        propensity=decision.propensity,
        snapshot=decision.snapshot,
        position=decision.position,
    )


async def answer_select_batch(
    engine: Engine, body: SelectBatch, arrived: float
) -> SelectBatchAnswer:
    """Answer the items; what is decoded together is decoded in equal shares."""
    share = (time.perf_counter() - arrived) / len(body.items)

    async def select_item(item: SelectRequest) -> SelectAnswer:
        return await answer_select(engine, item, time.perf_counter() - share, patient=True)

    calls = [_item(SelectRequest, item, engine, select_item) for item in body.items]
    found = await asyncio.gather(*calls)
    # Not validated again: they were made here.
    return SelectBatchAnswer.model_construct(
        items=[SelectItem.model_construct(**item) for item in found]
    )


async def answer_reward(engine: Engine, body: RewardRequest, _: float = 0.0) -> RewardAnswer:
    """Keep a reward, learn from it, and answer."""
    report = RewardReport(
        decision_id=DecisionId(body.decision_id),
        reward=body.reward,
        reward_id=body.reward_id,
        action=None if body.action is None else ActionId(body.action),
        time=time.time(),
    )
    status, train_due = await engine.rewarding.reward(report)
    return RewardAnswer(status=status, train_due=train_due)


async def answer_reward_batch(
    engine: Engine, body: RewardBatch, _: float = 0.0
) -> RewardBatchAnswer:
    """Keep the items' rewards, learn from them, and answer."""

    async def reward_item(item: RewardRequest) -> RewardAnswer:
        return await answer_reward(engine, item)

    calls = [_item(RewardRequest, item, engine, reward_item) for item in body.items]
    found = await asyncio.gather(*calls)
    return RewardBatchAnswer.model_construct(
        items=[RewardItem.model_construct(**item) for item in found]
    )


async def _item(
    model: type[B], raw: Any, engine: Engine, call: Callable[[B], Awaitable[BaseModel]]
) -> dict[str, Any]:
    """Decode and answer one item of a batch."""
    try:
        answer = await call(model.model_validate(raw))
    except (ServiceError, ValidationError) as error:
        problem = problem_of(error, model)
        engine.metrics.problem(problem.type)
        return {"code": problem.status, "error": problem}
    return {"code": 200, "answer": answer}
