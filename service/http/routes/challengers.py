"""The calls on challengers: other configurations that learn the log of a bandit beside it."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.http.auth import needs
from service.http.codec import WireRoute
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.bandits import BanditAnswer
from service.http.schemas.challengers import (
    ChallengerList,
    ChallengerRequest,
    ChallengerState,
    PromoteRequest,
)
from service.http.schemas.common import Id
from service.http.states import challenger_state, challenger_states, state_of
from service.serving import promoting
from service.serving.challengers import OFFERED, Rule
from service.serving.errors import UnknownBandit
from service.training.errors import BanditGone

router = APIRouter(prefix="/bandits/{name}/challengers", route_class=WireRoute)
ChallengerName = Annotated[Id, Path(description="The challenger's name.")]


@router.put(
    "/{challenger}",
    openapi_extra=needs("admin"),
    responses={201: {"model": ChallengerState}, **problems(404, 409, 413, 415, 422)},
)
async def put_challenger(
    name: Name,
    challenger: ChallengerName,
    body: ChallengerRequest,
    engine: EngineDep,
    request: Request,
    response: Response,
) -> ChallengerState:
    """Declare a challenger (201), or change it; one that learns otherwise begins anew.

    It learns the bandit's log beside it and serves nothing. "linear" and "greedy" need no
    configuration.
    """
    sent = await request.json()
    given = {
        key: json.loads(json.dumps(_plain(getattr(body, key))))
        for key in ChallengerRequest.model_fields
        if key in sent and key != "promotion" and (sent[key] is not None or key == "reward_range")
    }
    rule = Rule(**body.promotion.model_dump() | {"steps": tuple(body.promotion.steps)})
    found, created = await promoting.declare(
        engine, name, challenger, given or OFFERED.get(challenger, {}), rule
    )
    response.status_code = 201 if created else 200
    return challenger_state(engine.bandit(name), found)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


@router.get("", openapi_extra=needs("read"), responses=problems(404, 422))
async def list_challengers(name: Name, engine: EngineDep) -> ChallengerList:
    """List the challengers of a bandit, side by side."""
    return ChallengerList(challengers=challenger_states(engine.bandit(name)))


@router.get("/{challenger}", openapi_extra=needs("read"), responses=problems(404, 422))
async def get_challenger(
    name: Name, challenger: ChallengerName, engine: EngineDep
) -> ChallengerState:
    """Return a challenger, and how it compares with what was served."""
    bandit = engine.bandit(name)
    return challenger_state(bandit, promoting.challenger_of(bandit, challenger))


@router.delete(
    "/{challenger}",
    openapi_extra=needs("admin"),
    status_code=204,
    responses=problems(404, 409, 422),
)
async def delete_challenger(name: Name, challenger: ChallengerName, engine: EngineDep) -> None:
    """Remove a challenger; a trial of it ends. What is served stays."""
    await promoting.remove(engine, name, challenger)


@router.post(
    "/{challenger}/promote",
    openapi_extra=needs("admin"),
    responses=problems(404, 409, 413, 415, 422, 503),
)
async def promote_challenger(
    name: Name,
    challenger: ChallengerName,
    body: PromoteRequest,
    engine: EngineDep,
    wait: Annotated[bool, Query(description="Answer once its configuration is served.")] = False,
) -> BanditAnswer:
    """Give a challenger a share of the decisions, or make its configuration the bandit's.

    A trial is answered once the challenger decides; a promotion at once, see `rebuild`.
    """
    try:
        if body.share < 1.0:
            bandit = await promoting.try_out(engine, name, challenger, body.share)
        else:
            bandit = await promoting.promote(engine, name, challenger)
            if wait:
                await engine.reconfiguring.served(bandit)
    except BanditGone as error:
        raise UnknownBandit(name) from error
    return state_of(engine, bandit)


@router.post(
    "/{challenger}/demote", openapi_extra=needs("admin"), responses=problems(404, 409, 422, 503)
)
async def demote_challenger(
    name: Name, challenger: ChallengerName, engine: EngineDep
) -> BanditAnswer:
    """End the trial of a challenger, or serve again what it replaced, with all rows since."""
    try:
        bandit = await promoting.demote(engine, name, challenger)
    except BanditGone as error:
        raise UnknownBandit(name) from error
    return state_of(engine, bandit)
