"""The calls on bandits: configuration, catalogue, training."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from bandexa_core.ids import ActionId
from bandexa_core.spec import BanditSpec
from service.http.actions import ActionColumns, action_columns
from service.http.auth import check_reach, needs
from service.http.codec import MSGPACK, Typed, WireRoute, as_part, encode, prepared, wanted_by
from service.http.conditions import TAGGED, IfMatch, IfNoneMatch, entity_tag, wanted_versions
from service.http.earned import action_values, arm_state
from service.http.large import large
from service.http.openapi import reads
from service.http.quotas import within_quotas
from service.http.routes.common import EngineDep, FollowerDep, HolderDep, Name, problems, reached
from service.http.schemas.bandits import (
    ActionList,
    ActionState,
    AuditLine,
    AuditList,
    BanditAnswer,
    BanditList,
    CatalogueAnswer,
    KeyChange,
    ModeRequest,
    PlanAnswer,
    RecoverAnswer,
    ReplayAnswer,
    ReplayRequest,
    TrainAnswer,
    ValuesAnswer,
)
from service.http.schemas.catalogue import ActionsRequest
from service.http.schemas.common import Id
from service.http.schemas.health import FindingList, NotedFinding
from service.http.shown import shown_features
from service.http.states import plan_answer, state_of
from service.observe.dashboard import views
from service.observe.slices import in_slices
from service.serving import manage
from service.serving.bandit import Bandit
from service.serving.errors import UnknownBandit
from service.serving.replaying import replay
from service.serving.standing import EarnedByAction
from service.serving.versions import version_of
from service.store.errors import Conflict
from service.store.records import AuditEntry
from service.training.errors import BanditGone

MAX_ACTIONS = 10_000
MAX_ROW = 2**62
MAX_BANDITS = 10_000
_ACTIONS = Typed(ActionsRequest)
router = APIRouter(prefix="/bandits", route_class=WireRoute)


@router.put(
    "/{name}",
    openapi_extra=needs("admin"),
    responses={
        200: TAGGED,
        201: {"model": BanditAnswer} | TAGGED,
        **problems(409, 412, 413, 415, 422),
    },
)
async def put_bandit(
    name: Name,
    body: BanditSpec,
    engine: EngineDep,
    holder: HolderDep,
    request: Request,
    response: Response,
    dry_run: Annotated[
        bool, Query(description="Change nothing, and answer what would be done.")
    ] = False,
    wait: Annotated[
        bool, Query(description="Answer once a change that is relearned is served.")
    ] = False,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> BanditAnswer | PlanAnswer:
    """Create a bandit (201), or change its configuration.

    Other training, replay, selection, rewards, arms and limits hold at once. For any other key a
    model is learned anew from the log, and the bandit is served as it was until then: see
    `rebuild`. With `If-Match` it is refused (412) where somebody else has changed it meanwhile,
    unless it is as wanted already; with `If-None-Match: *`, where there is one of this name.
    """
    given, wanted = frozenset(await request.json()), wanted_versions(if_match, if_none_match)
    if dry_run:
        async with within_quotas(engine, holder, name):
            plan = await manage.plan(engine, name, body, given, wanted)
        return plan_answer(None if plan.status == "created" else engine.bandit(name), plan)
    async with within_quotas(engine, holder, name):
        bandit, created = await manage.put_bandit(engine, name, body, given, wanted)
    if wait:
        try:
            await engine.reconfiguring.served(bandit)
        except BanditGone as error:
            raise UnknownBandit(name) from error
    response.status_code = 201 if created else 200
    response.headers["ETag"] = entity_tag(version_of(bandit))
    return state_of(engine, bandit)


@router.get(
    "",
    openapi_extra=needs("read", checks_reach=True),
    response_model=BanditList,
    responses=problems(422),
)
async def list_bandits(
    engine: EngineDep,
    holder: HolderDep,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_BANDITS, description="How many at most.")] = 1000,
    after: Annotated[str | None, Query(description="`next` of an earlier answer.")] = None,
) -> Response:
    """List the bandits with their configurations and states, sorted by name.

    Where there are more than `limit`, `next` is the `after` of the following ones. A key that is
    limited to bandits lists those.
    """
    encoding = wanted_by(request)
    page, following = engine.live.page(after, limit, reached(holder))
    bandits = [as_part(state_of(engine, one), encoding) async for one in in_slices(page)]
    answer = encode({"bandits": bandits, "next": following}, encoding)
    return await large(request, [answer], encoding)


@router.get("/{name}", openapi_extra=needs("read"), responses={200: TAGGED, **problems(404, 422)})
async def get_bandit(name: Name, engine: EngineDep, response: Response) -> BanditAnswer:
    """Return a bandit's configuration and state.

    The `ETag` is the version of the configuration, for the `If-Match` of a change.
    """
    bandit = engine.bandit(name)
    response.headers["ETag"] = entity_tag(version_of(bandit))
    return state_of(engine, bandit)


@router.put("/{name}/mode", openapi_extra=needs("admin"), responses=problems(404, 413, 415, 422))
async def put_mode(name: Name, body: ModeRequest, engine: EngineDep) -> BanditAnswer:
    """Change who decides, from the next decision on: the arms, the control alone, or one action.

    Nothing else of the configuration changes. It is a row of the log, and lasts.
    """
    serve = None if body.serve is None else ActionId(body.serve)
    return state_of(engine, await manage.set_mode(engine, name, body.mode, serve))


@router.get("/{name}/values", openapi_extra=needs("read"), responses=problems(404, 422))
async def bandit_values(
    name: Name,
    engine: EngineDep,
    follower: FollowerDep,
    limit: Annotated[int, Query(ge=1, le=MAX_ACTIONS, description="How many actions.")] = 100,
) -> ValuesAnswer:
    """Return what arms and actions earned, with intervals that hold at any time."""
    bandit = engine.bandit(name)

    def found() -> tuple[int, list[EarnedByAction]]:
        with follower.aggregates() as aggregates:
            return views.action_values(aggregates, bandit.record.uid, limit)

    num, actions = await asyncio.get_running_loop().run_in_executor(None, found)
    return ValuesAnswer(
        arms=[arm_state(each) for each in bandit.current_standing()],
        actions=action_values(actions),
        num_actions=num,
        behind=follower.behind,
    )


@router.get("/{name}/findings", openapi_extra=needs("read"), responses=problems(404, 422))
async def bandit_findings(name: Name, engine: EngineDep, follower: FollowerDep) -> FindingList:
    """Return what was wrong with a bandit, and when; the newest first."""
    uid = engine.bandit(name).record.uid

    def found() -> list[dict[str, Any]]:
        with follower.aggregates() as aggregates:
            return views.noted(aggregates, uid)

    noted = await asyncio.get_running_loop().run_in_executor(None, found)
    return FindingList(findings=[NotedFinding(**each) for each in noted])


@router.get("/{name}/audit", openapi_extra=needs("read"), responses=problems(404, 422))
async def audit_trail(
    name: Name,
    engine: EngineDep,
    before: Annotated[
        int | None, Query(ge=1, le=MAX_ROW, description="`next` of an earlier answer.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
) -> AuditList:
    """Return who changed a bandit, when, and what that changed; newest first.

    The entries of a name outlive its bandit.
    """

    def found() -> list[AuditEntry]:
        with engine.store.history() as history:
            return history.audit(name, before, limit)

    entries = await asyncio.get_running_loop().run_in_executor(None, found)
    if not entries and before is None:
        engine.bandit(name)  # UnknownBandit where there never was one
    return AuditList(
        entries=[
            AuditLine(
                row=each.row, time=each.time, by=each.by, what=each.what,
                changes=[KeyChange(**one) for one in json.loads(each.changes)],
            )
            for each in entries
        ],
        next=entries[-1].row if len(entries) == limit else None,
    )  # fmt: skip


@router.delete(
    "/{name}", openapi_extra=needs("admin"), status_code=204, responses=problems(404, 422)
)
async def delete_bandit(name: Name, engine: EngineDep) -> None:
    """Delete a bandit with all its decisions; its name and its decision ids are free again."""
    await manage.delete_bandit(engine, name)


@router.get("/{name}/actions", openapi_extra=needs("read"), responses=problems(404, 422))
async def list_actions(
    name: Name,
    engine: EngineDep,
    offset: Annotated[int, Query(ge=0, description="Slot to begin at.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ACTIONS, description="How many at most.")] = 1000,
) -> ActionList:
    """List the catalogue in slot order, retired actions included."""
    catalogue = engine.bandit(name).model.catalogue
    last = min(offset + limit, len(catalogue))
    rows = shown_features(catalogue.features[offset:last])
    enabled = catalogue.enabled[offset:last].tolist()
    ids = catalogue.ids[offset:last]
    actions = [
        ActionState(id=action_id, index=offset + number, enabled=on, features=row)
        for number, (action_id, on, row) in enumerate(zip(ids, enabled, rows, strict=True))
    ]
    return ActionList(total=len(catalogue), actions=actions)


@router.put(
    "/{name}/actions",
    openapi_extra=needs("admin") | reads(ActionsRequest),
    responses=problems(404, 413, 415, 422),
)
async def put_actions(
    name: Name, request: Request, engine: EngineDep, holder: HolderDep
) -> CatalogueAnswer:
    """Add the listed actions or overwrite them; other actions do not change."""

    def columns(body: ActionsRequest, encoding: str) -> ActionColumns:
        return action_columns(body, lambda: engine.bandit(name), packed=encoding == MSGPACK)

    ids, features, enabled = await prepared(request, _ACTIONS, columns)
    async with within_quotas(engine, holder, name, ids):
        return _catalogue(await manage.put_actions(engine, name, ids, features, enabled))


@router.delete(
    "/{name}/actions/{action_id}", openapi_extra=needs("admin"), responses=problems(404, 422)
)
async def retire_action(
    name: Name,
    action_id: Annotated[Id, Path(description="The action's id.")],
    engine: EngineDep,
) -> CatalogueAnswer:
    """Retire an action: it is not offered any more; what was learned from it stays."""
    return _catalogue(await manage.retire_action(engine, name, ActionId(action_id)))


@router.post(
    "/{name}/train",
    openapi_extra=needs("admin"),
    responses={202: {"model": TrainAnswer}, **problems(404, 409, 422)},
)
async def train(
    name: Name,
    engine: EngineDep,
    response: Response,
    wait: Annotated[bool, Query(description="Answer once the new snapshot is served.")] = False,
) -> TrainAnswer:
    """Train now. With `wait`, answer once the new snapshot is served; else at once (202)."""
    bandit = engine.bandit(name)
    if bandit.model.holds:
        raise Conflict("the bandit is frozen: it is trained once its mode is learn again")
    if not wait:
        engine.rounds.order(bandit)
        response.status_code = 202
        model = bandit.model
        return TrainAnswer(
            status="queued", trained=False, snapshot=model.version, position=model.position,
            metrics={},
        )  # fmt: skip
    try:
        event = await engine.rounds.train(bandit)
    except BanditGone as error:
        raise UnknownBandit(name) from error
    return TrainAnswer(
        status="served",
        trained=True,
        snapshot=event.version,
        position=event.position,
        metrics=event.metrics,
    )


@router.post(
    "/{name}/replay",
    openapi_extra=needs("admin"),
    status_code=201,
    responses=problems(404, 409, 413, 415, 422),
)
async def replay_bandit(
    name: Name, body: ReplayRequest, engine: EngineDep, holder: HolderDep, request: Request
) -> ReplayAnswer:
    """Create another bandit from the log of this one: it learns the same rows, otherwise.

    Answered once it has learned them. This bandit is not changed.
    """
    given = frozenset((await request.json())["spec"])
    check_reach(holder, body.to)
    actions = engine.bandit(name).model.catalogue.ids
    async with within_quotas(engine, holder, body.to, actions):
        bandit, done = await replay(engine, name, body.to, body.spec, given)
    return ReplayAnswer(**done._asdict(), bandit=state_of(engine, bandit))


@router.post("/{name}/recover", openapi_extra=needs("admin"), responses=problems(404, 422, 503))
async def recover(name: Name, engine: EngineDep) -> RecoverAnswer:
    """Recover a failed bandit now: build its model again from snapshot and log.

    It is also tried again and again without this call. A bandit that has not failed is unchanged.
    """
    await engine.recovery.recover(engine.live.served_or_not(name))
    model = engine.bandit(name).model
    return RecoverAnswer(snapshot=model.version, position=model.position)


def _catalogue(bandit: Bandit) -> CatalogueAnswer:
    model = bandit.model
    return CatalogueAnswer(num_actions=len(model.catalogue.enabled_slots), position=model.position)
