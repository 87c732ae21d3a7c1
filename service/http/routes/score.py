"""Score candidates without deciding; activate a decision that was prefetched."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from bandexa_core.ids import DecisionId
from service.http import candidates
from service.http.auth import GuardedRoute, check_reach, needs
from service.http.codec import MSGPACK, Typed, prepared, typed_answer
from service.http.inputs import decode_context
from service.http.large_bodies import LargeBodies
from service.http.openapi import typed
from service.http.routes.common import EngineDep, HolderDep, Name, problems
from service.http.schemas.decide import (
    ActivateAnswer,
    ActivateRequest,
    Score,
    ScoreAnswer,
    ScoreRequest,
)
from service.serving.errors import UnknownAction
from service.serving.select.commands import CandidateInput, Scores

router = APIRouter(route_class=GuardedRoute)
MANY = 1000  # scores, which are answered in about a millisecond
_ACTIVATE, _SCORE = Typed(ActivateRequest), Typed(ScoreRequest)


@router.post(
    "/activate",
    openapi_extra=needs("reward", checks_reach=True) | typed(ActivateRequest, ActivateAnswer),
    responses=problems(404, 413, 415, 422),
    response_class=Response,
)
async def activate(request: Request, engine: EngineDep, holder: HolderDep) -> Response:
    """Count a decision that was made with `activate` false: an offer that was shown after all."""
    own_id = await prepared(request, _ACTIVATE, lambda body, _: DecisionId(body.decision_id))
    check = None if holder is None else partial(check_reach, holder)
    status = await engine.rewards.activate(own_id, check)
    return typed_answer(request, ActivateAnswer(status))


@router.post(
    "/bandits/{name}/score",
    openapi_extra=needs("read") | typed(ScoreRequest, ScoreAnswer),
    responses=problems(404, 413, 415, 422),
    response_class=Response,
)
async def score(name: Name, request: Request, engine: EngineDep) -> Response:
    """Return mean and standard deviation of each candidate's expected reward; decides nothing."""

    def asked(body: ScoreRequest, encoding: str) -> tuple[NDArray[Any], CandidateInput]:
        bandit = engine.bandit(name)
        context = decode_context(bandit, body.context, packed=encoding == MSGPACK)
        return context, candidates.resolved(body.candidates, bandit.actions)

    context, offered = await prepared(request, _SCORE, asked)
    try:
        found = await engine.selecting.score(name, context, offered)
    except UnknownAction:
        candidates.check_ids(offered)
        raise
    if len(found.ids) <= MANY:
        return typed_answer(request, _score_answer(found))
    large: LargeBodies = request.app.state.large
    return await large.run(lambda: typed_answer(request, _score_answer(found)))


def _score_answer(found: Scores) -> ScoreAnswer:
    columns = zip(
        found.ids, found.indexes.tolist(), found.means.tolist(), found.stds.tolist(), strict=True
    )
    scores = [Score(i, n, mean, std) for i, n, mean, std in columns]
    return ScoreAnswer(scores, found.snapshot, found.position)
