"""Score candidates without deciding; activate a decision that was prefetched."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from bandexa_core.ids import DecisionId
from service.http import candidates
from service.http.arrays import decode_array
from service.http.auth import GuardedRoute, needs
from service.http.codec import MSGPACK, Typed, media_type, typed_answer, typed_body
from service.http.openapi import typed
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.decide import (
    ActivateAnswer,
    ActivateRequest,
    Score,
    ScoreAnswer,
    ScoreRequest,
)
from service.serving.errors import UnknownAction
from service.store.errors import InvalidRequest

router = APIRouter(route_class=GuardedRoute)
_ACTIVATE, _SCORE = Typed(ActivateRequest), Typed(ScoreRequest)


@router.post(
    "/activate",
    openapi_extra=needs("reward") | typed(ActivateRequest, ActivateAnswer),
    responses=problems(404, 413, 415, 422),
    response_class=Response,
)
async def activate(request: Request, engine: EngineDep) -> Response:
    """Count a decision that was made with `activate` false: an offer that was shown after all."""
    body = await typed_body(request, _ACTIVATE)
    status = await engine.rewards.activate(DecisionId(body.decision_id))
    return typed_answer(request, ActivateAnswer(status))


@router.post(
    "/bandits/{name}/score",
    openapi_extra=needs("read") | typed(ScoreRequest, ScoreAnswer),
    responses=problems(404, 413, 415, 422),
    response_class=Response,
)
async def score(name: Name, request: Request, engine: EngineDep) -> Response:
    """Return mean and standard deviation of each candidate's expected reward; decides nothing."""
    body = await typed_body(request, _SCORE)
    packed = media_type(request.headers["content-type"]) == MSGPACK
    try:
        context = decode_array(body.context, packed=packed)
    except ValueError as error:
        raise InvalidRequest("context", str(error)) from error
    offered = candidates.resolved(body.candidates)
    try:
        found = await engine.selecting.score(name, context, offered)
    except UnknownAction:
        candidates.check_ids(offered)
        raise
    columns = zip(
        found.ids, found.indexes.tolist(), found.means.tolist(), found.stds.tolist(), strict=True
    )
    scores = [Score(i, n, mean, std) for i, n, mean, std in columns]
    return typed_answer(request, ScoreAnswer(scores, found.snapshot, found.position))
