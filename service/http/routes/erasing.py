"""The calls that erase decisions, and that return free space to the disk."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter

from bandexa_core.ids import DecisionId
from service.http.auth import check_reach, needs
from service.http.codec import WireRoute
from service.http.errors import Forbidden
from service.http.routes.common import EngineDep, HolderDep, problems
from service.http.schemas.erasing import CompactAnswer, EraseAnswer, EraseRequest
from service.serving.compact import compact

router = APIRouter(route_class=WireRoute)


@router.post(
    "/erase",
    openapi_extra=needs("admin", checks_reach=True),
    responses=problems(404, 413, 415, 422, 503),
)
async def erase(body: EraseRequest, engine: EngineDep, holder: HolderDep) -> EraseAnswer:
    """Erase a user's decisions, or listed ones, and what was learned from them.

    Answered once nothing of them is left: a model without them is served. Repeating it is safe.
    """
    if holder is not None and holder.bandits is not None and body.bandit is None:
        raise Forbidden(f"the key {holder.name!r} is limited to bandits: name one, as `bandit`")
    if body.bandit is not None:
        check_reach(holder, body.bandit)
    record = None if body.bandit is None else engine.bandit(body.bandit).record
    ids = [DecisionId(each) for each in body.decision_ids or ()]
    done = await engine.eraser.erase(record, body.unit, ids)
    return EraseAnswer(
        decisions=done.decisions, samples=done.samples, rebuilt=list(done.rebuilt),
        waiting=list(done.waiting), remaining=list(done.remaining),
        wal_emptied=done.wal_emptied,
    )  # fmt: skip


@router.post("/compact", openapi_extra=needs("admin"), responses=problems(409, 503))
async def compact_database(engine: EngineDep) -> CompactAnswer:
    """Return free space of the database file to the disk, while everything is served."""
    return CompactAnswer(**dataclasses.asdict(await compact(engine)))
