"""Service time: how much the wall clock is ahead of it, and the operator's word on that."""

from __future__ import annotations

from fastapi import APIRouter

from service.http.auth import GuardedRoute, needs
from service.http.routes.common import EngineDep, problems
from service.http.schemas.health import ClockAnswer
from service.serving.engine import Engine

router = APIRouter(route_class=GuardedRoute)


@router.get("/clock", openapi_extra=needs("read"))
async def clock(engine: EngineDep) -> ClockAnswer:
    """Return wall time and service time, in which windows, forgetting and retention run."""
    return _state(engine)


@router.post("/clock/accept", openapi_extra=needs("admin"), responses=problems(503))
async def accept_clock(engine: EngineDep) -> ClockAnswer:
    """Say that the wall clock is right: service time moves up to it. It never goes back."""
    await engine.commit(engine.store.accept_clock)
    engine.keeping.clock_moved()
    return _state(engine)


def _state(engine: Engine) -> ClockAnswer:
    state = engine.store.clock.state()
    return ClockAnswer(wall=state.wall, service=state.service, offset_s=state.offset)
