"""The dashboard's calls: an overview, a bandit over time, its newest decisions."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from msgspec import Raw

from bandexa_core import __version__
from bandexa_core.ids import DecisionId
from service.http.alarms import Alarms
from service.http.auth import needs
from service.http.codec import WireRoute, as_part, encode, wanted_by
from service.http.large import large
from service.http.routes.common import EngineDep, FollowerDep, HolderDep, Name, problems, reached
from service.http.schemas.common import Id
from service.http.schemas.dashboard import (
    BanditLine,
    DecisionLine,
    DecisionList,
    FoundDecision,
    Overview,
    ServerState,
    Session,
)
from service.http.states import answered, learning_state, trainer_state
from service.observe.dashboard import events, views
from service.observe.health import server_findings
from service.observe.slices import in_slices
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.settings import SCOPES
from service.store.errors import UnknownDecision

router = APIRouter(prefix="/dashboard", route_class=WireRoute)
MAX_ROW = 2**63 - 1  # the largest integer of a store; places are smaller
MAX_ROUNDS = 200
Range = Literal["15m", "1h", "6h", "1d", "7d", "30d", "all"]


@router.get("/session", openapi_extra=needs("any"))
async def session(holder: HolderDep) -> Session:
    """Return the scopes of the caller's key; 401 where keys are set and it sent none."""
    if holder is None:
        return Session(name=None, scopes=list(SCOPES), bandits=None, keys_needed=False)
    bandits = None if holder.bandits is None else list(holder.bandits)
    scopes = list(holder.scopes)
    return Session(name=holder.name, scopes=scopes, bandits=bandits, keys_needed=True)


@router.get(
    "/overview",
    openapi_extra=needs("read", checks_reach=True),
    response_model=Overview,
    responses=problems(422),
)
async def overview(
    engine: EngineDep,
    holder: HolderDep,
    follower: FollowerDep,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many bandits at most.")] = 100,
    after: Annotated[str | None, Query(description="`next` of an earlier answer.")] = None,
    find: Annotated[
        str | None, Query(max_length=128, description="A part of the names, in any case.")
    ] = None,
    only: Annotated[Literal["alarm"] | None, Query(description="Those with an alarm.")] = None,
) -> Response:
    """Return the server and its bandits, with the traffic of the last hour.

    Bandits with an alarm come first, and then the others by name. A key that is limited to bandits
    gets those.
    """
    now = time.time()
    alarms: Alarms = request.app.state.alarms
    among = reached(holder)
    alarmed = list(filter(among, await alarms.names(engine)))
    page, following, found_num = _page(engine, alarmed, after, limit, find, only, among)
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
    encoding = wanted_by(request)
    lines: list[Raw] = []
    async for bandit, one in in_slices(zip(page, found, strict=True)):
        lines.append(as_part(_line(engine, bandit, one), encoding))
    answer = {
        "now": now, "server": as_part(server, encoding), "bandits": lines, "next": following,
        "total": _num_reached(engine, among), "found": found_num, "alarmed": alarmed,
    }  # fmt: skip
    return await large(request, [encode(answer, encoding)], encoding)


def _page(
    engine: Engine,
    alarmed: list[str],
    after: str | None,
    limit: int,
    find: str | None,
    only: str | None,
    among: Callable[[str], bool] | None,
) -> tuple[list[Bandit], str | None, int]:
    """Return a page of the bandits that are asked for, the last name of it, and how many there are.

    The first page begins with the first of those that have an alarm.
    """
    part = (find or "").casefold()

    def matches(name: str) -> bool:
        return part in name.casefold() and (among is None or among(name))

    bad = set(alarmed)
    if only == "alarm":
        page, following = engine.live.page(after, limit, lambda name: name in bad and matches(name))
        return page, following, sum(map(matches, alarmed))
    first = [name for name in alarmed if matches(name)][: limit // 2]
    pinned = set(first)
    top = []
    if after is None:
        top = [one for one in map(engine.live.get, first) if one is not None]
    rest, following = engine.live.page(
        after, limit - len(top), lambda name: name not in pinned and matches(name)
    )
    return [*top, *rest], following, _num_reached(engine, matches if part else among)


def _num_reached(engine: Engine, among: Callable[[str], bool] | None) -> int:
    if among is None:
        return len(engine.live)
    return sum(among(bandit.record.name) for bandit in engine.bandits())


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
        judged_values=state.judged_values,
        **found,
    )


@router.get(
    "/decisions/{decision_id}",
    openapi_extra=needs("read", checks_reach=True),
    responses=problems(404, 422),
)
async def find_decision(
    decision_id: Annotated[Id, Path(description="The decision's id.")],
    engine: EngineDep,
    holder: HolderDep,
) -> FoundDecision:
    """Return which bandit made a decision: whoever has an id from a log need not know it."""
    among = reached(holder)

    def found() -> int | None:
        with engine.store.history() as history:
            return history.bandit_of(DecisionId(decision_id))

    key = await asyncio.get_running_loop().run_in_executor(None, found)
    for bandit in engine.bandits():
        if bandit.record.key == key and (among is None or among(bandit.record.name)):
            return FoundDecision(bandit=bandit.record.name, decision_id=decision_id)
    raise UnknownDecision(decision_id)


@router.get(
    "/bandits/{name}",
    openapi_extra=needs("read"),
    response_model=dict[str, Any],
    responses=problems(404, 422),
)
async def bandit_over_time(
    name: Name,
    engine: EngineDep,
    follower: FollowerDep,
    request: Request,
    over: Annotated[Range, Query(alias="range", description="How far back.")] = "1h",
) -> Response:
    """Return a bandit over time: lists aligned to `time`, null where there is no data."""
    bandit = engine.bandit(name)
    now = time.time()

    def found() -> dict[str, Any]:
        with follower.aggregates() as aggregates, engine.store.history() as history:
            drawn = views.series(aggregates, bandit.record.uid, over, now)
            rounds = history.rounds(bandit.record, drawn["start"], MAX_ROUNDS)
            trail = history.audit(name, None, events.MOST)
            done = events.events(trail, drawn["start"], drawn["end"])
            return drawn | {
                "rounds": [dataclasses.asdict(one) for one in rounds],
                "events": [each._asdict() for each in done],
            }

    drawn = await asyncio.get_running_loop().run_in_executor(None, found)
    model, state = bandit.model, learning_state(engine, bandit)
    answer = {
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
        "judged_values": state.judged_values,
        "loss_shown_after_s": state.loss_shown_after_s,
        "trainer": trainer_state(engine).model_dump(),
        "behind": follower.behind,
        **drawn,
    }
    encoding = wanted_by(request)
    return await large(request, [encode(answer, encoding)], encoding)


@router.get(
    "/bandits/{name}/decisions",
    openapi_extra=needs("read"),
    response_model=DecisionList,
    responses=problems(404, 422),
)
async def newest_decisions(
    name: Name,
    engine: EngineDep,
    request: Request,
    before: Annotated[
        int | None, Query(ge=1, le=MAX_ROW, description="`next` of an earlier answer.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 50,
) -> Response:
    """Return the newest decisions of a bandit."""
    record = engine.bandit(name).record

    encoding = wanted_by(request)

    def found() -> bytes:
        with engine.store.history() as history:
            lines = history.newest(record, before, limit)
        answer = DecisionList(
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
        return bytes(as_part(answer, encoding))

    encoded = await asyncio.get_running_loop().run_in_executor(None, found)
    return await large(request, [encoded], encoding)
