"""The calls that evaluate policies on a bandit's log, in a process beside the server."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request

from service.http.auth import needs
from service.http.codec import WireRoute
from service.http.errors import UnknownEvaluation
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.common import Id
from service.http.schemas.evaluations import EvaluationList, EvaluationRequest, EvaluationState
from service.tools.evaluate.jobs import Evaluations, Record
from service.tools.evaluate.request import Request as Asked

router = APIRouter(prefix="/bandits", route_class=WireRoute)
EvaluationId = Annotated[Id, Path(description="The evaluation's id.")]


async def _evaluations(request: Request) -> Evaluations:
    evaluations: Evaluations = request.app.state.evaluations
    return evaluations


EvaluationsDep = Annotated[Evaluations, Depends(_evaluations)]


@router.post(
    "/{name}/evaluations",
    openapi_extra=needs("admin"),
    status_code=202,
    responses=problems(404, 413, 415, 422),
)
async def start_evaluation(
    name: Name, body: EvaluationRequest, engine: EngineDep, evaluations: EvaluationsDep
) -> EvaluationState:
    """Evaluate policies on the log, as `bandexa evaluate` does; answered at once.

    One evaluation of a server runs at a time, in a process of low priority.
    """
    bandit = engine.bandit(name)
    low, high = body.range or (None, None)
    asked = Asked(
        actions=tuple(body.actions),
        configs={key: dataclasses.asdict(spec) for key, spec in body.configs.items()},
        low=low, high=high, missing=body.missing, alpha=body.alpha, precision=body.precision,
        method=body.method,
    )  # fmt: skip
    return _state(await evaluations.add(name, bandit.record.uid, asked))


@router.get("/{name}/evaluations", openapi_extra=needs("read"), responses=problems(404, 422))
async def list_evaluations(
    name: Name, engine: EngineDep, evaluations: EvaluationsDep
) -> EvaluationList:
    """List the evaluations of a bandit, newest first, without their results."""
    found = evaluations.of(engine.bandit(name).record.uid)
    return EvaluationList(evaluations=[_state(each) for each in found])


@router.get(
    "/{name}/evaluations/{evaluation_id}",
    openapi_extra=needs("read"),
    responses=problems(404, 422),
)
async def get_evaluation(
    name: Name,
    evaluation_id: EvaluationId,
    engine: EngineDep,
    evaluations: EvaluationsDep,
    wait: Annotated[bool, Query(description="Answer once it has ended.")] = False,
) -> EvaluationState:
    """Return an evaluation, with its result once it is done."""
    record = _found(engine, evaluations, name, evaluation_id)
    if wait:
        await evaluations.ended(record)
    return _state(await evaluations.whole(record))


@router.delete(
    "/{name}/evaluations/{evaluation_id}",
    openapi_extra=needs("admin"),
    status_code=204,
    responses=problems(404, 422),
)
async def delete_evaluation(
    name: Name, evaluation_id: EvaluationId, engine: EngineDep, evaluations: EvaluationsDep
) -> None:
    """Cancel an evaluation that has not ended; remove one that has."""
    await evaluations.cancel(_found(engine, evaluations, name, evaluation_id))


def _found(engine: EngineDep, evaluations: Evaluations, name: str, evaluation_id: str) -> Record:
    """Return an evaluation of a bandit.

    Raises:
        UnknownBandit, UnknownEvaluation: There is none.
    """
    found = evaluations.find(engine.bandit(name).record.uid, evaluation_id)
    if found is None:
        raise UnknownEvaluation(evaluation_id)
    return found


def _state(record: Record) -> EvaluationState:
    values = msgspec.to_builtins(record)
    del values["uid"]
    request = values["request"]
    low, high = request.pop("low"), request.pop("high")
    request["range"] = None if low is None else [low, high]
    return EvaluationState(**values)
