"""The dashboard's calls: an overview, a bandit over time, its newest decisions."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from msgspec import Raw

from bandexa_core import __version__
from service.http.alarms import Alarms
from service.http.auth import identify, needs
from service.http.codec import WireRoute, answer_type, as_part, encode
from service.http.keys import Keys
from service.http.large import large
from service.http.routes.common import EngineDep, FollowerDep, Name, problems
from service.http.schemas.dashboard import (
    BanditLine,
    DecisionLine,
    DecisionList,
    Overview,
    ServerState,
    Session,
)
from service.http.states import answered, learning_state, trainer_state
from service.observe.dashboard import views
from service.observe.health import server_findings
from service.observe.slices import in_slices
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.settings import SCOPES

router = APIRouter(prefix="/dashboard", route_class=WireRoute)
MAX_ROW = 2**63 - 1  # the largest integer of a store; places are smaller
MAX_ROUNDS = 200
Range = Literal["15m", "1h", "6h", "1d", "7d", "30d", "all"]


@router.get("/session", openapi_extra=needs("any"))
async def session(request: Request) -> Session:
    """Return the scopes of the caller's key; 401 where keys are set and it sent none."""
    keys: Keys = request.app.state.keys
    if not keys:
        return Session(name=None, scopes=list(SCOPES), keys_needed=False)
    holder = identify(request, keys)
    return Session(name=holder.name, scopes=list(holder.scopes), keys_needed=True)


@router.get(
    "/overview", openapi_extra=needs("read"), response_model=Overview, responses=problems(422)
)
async def overview(
    engine: EngineDep,
    follower: FollowerDep,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many bandits at most.")] = 100,
    after: Annotated[str | None, Query(description="`next` of an earlier answer.")] = None,
) -> Response:
    """Return the server and its bandits, with the traffic of the last hour."""
    now = time.time()
    page, following = engine.live.page(after, limit)
    uids = [bandit.record.uid for bandit in page]

    def summaries() -> list[dict[str, Any]]:
        with follower.aggregates() as aggregates:
            return views.summaries(aggregates, uids, now)

    found = await asyncio.get_running_loop().run_in_executor(None, summaries)
    failure = engine.failure()
    server = ServerState(
        version=__version__,
        ready=failure is None,
        detail=failure,
        trainer=trainer_state(engine),
        findings=answered(server_findings(engine)),
        behind=follower.behind,
    )
    encoding = answer_type(request.headers.get("accept", ""))
    lines: list[Raw] = []
    async for bandit, one in in_slices(zip(page, found, strict=True)):
        lines.append(as_part(_line(engine, bandit, one), encoding))
    alarms: Alarms = request.app.state.alarms
    answer = {
        "now": now, "server": as_part(server, encoding), "bandits": lines, "next": following,
        "total": len(engine.live), "alarmed": await alarms.names(engine),
    }  # fmt: skip
    return await large(request, [encode(answer, encoding)], encoding)


def _line(engine: Engine, bandit: Bandit, found: dict[str, Any]) -> BanditLine:
    model, state = bandit.model, learning_state(engine, bandit)
    return BanditLine(
        name=bandit.record.name,
        policy=model.spec.policy,
        encoder=model.spec.encoder.name,
        num_actions=len(model.catalogue.enabled_slots),
        snapshot=model.version,
        position=model.position,
        num_learned=model.progress.num_learned,
        train_due=model.round_due(),
        findings=state.findings,
        **found,
    )


@router.get("/bandits/{name}", openapi_extra=needs("read"), responses=problems(404, 422))
async def bandit_over_time(
    name: Name,
    engine: EngineDep,
    follower: FollowerDep,
    over: Annotated[Range, Query(alias="range", description="How far back.")] = "1h",
) -> dict[str, Any]:
    """Return a bandit over time: lists aligned to `time`, null where there is no data."""
    bandit = engine.bandit(name)
    now = time.time()

    def found() -> dict[str, Any]:
        with follower.aggregates() as aggregates, engine.store.history() as history:
            drawn = views.series(aggregates, bandit.record.uid, over, now)
            rounds = history.rounds(bandit.record, drawn["start"], MAX_ROUNDS)
            return drawn | {"rounds": [dataclasses.asdict(one) for one in rounds]}

    drawn = await asyncio.get_running_loop().run_in_executor(None, found)
    model, state = bandit.model, learning_state(engine, bandit)
    return {
        "name": name,
        "now": now,
        "policy": model.spec.policy,
        "spec": dataclasses.asdict(model.spec),
        "num_actions": len(model.catalogue.enabled_slots),
        "snapshot": model.version,
        "position": model.position,
        "num_learned": model.progress.num_learned,
        "train_due": model.round_due(),
        "findings": [finding.model_dump() for finding in state.findings],
        "trainer": trainer_state(engine).model_dump(),
        "behind": follower.behind,
        **drawn,
    }


@router.get("/bandits/{name}/decisions", openapi_extra=needs("read"), responses=problems(404, 422))
async def newest_decisions(
    name: Name,
    engine: EngineDep,
    before: Annotated[
        int | None, Query(ge=1, le=MAX_ROW, description="`next` of an earlier answer.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 50,
) -> DecisionList:
    """Return the newest decisions of a bandit."""
    record = engine.bandit(name).record

    def found() -> DecisionList:
        with engine.store.history() as history:
            lines = history.newest(record, before, limit)
        return DecisionList(
            decisions=[
                DecisionLine(
                    decision_id=line.decision_id,
                    time=line.time,
                    action=line.actions[0],
                    num_actions=len(line.actions),
                    propensity=line.propensity,
                    explored=line.explored,
                    reward=line.value,
                    snapshot=line.snapshot,
                    position=line.position,
                )
                for line in lines
            ],
            next=lines[-1].row if len(lines) == limit else None,
        )

    return await asyncio.get_running_loop().run_in_executor(None, found)
