"""Health, readiness, metrics, and the API's documentation without a CDN."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from functools import cache
from importlib.resources import files
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from service.http.auth import GuardedRoute, needs
from service.http.codec import JSON, as_part, encode
from service.http.large import large
from service.http.routes.common import EngineDep, problems
from service.http.schemas.health import Health, LearnAnswer
from service.http.states import answered, learn_state, not_served, trainer_state
from service.observe.health import ALARM, server_findings
from service.observe.merging import merged
from service.observe.slices import in_slices
from service.serving.bandit import Bandit
from service.serving.failed_bandits import SetAside
from service.store.sharing import Member

router = APIRouter(route_class=GuardedRoute)
ENDING = "the server was asked to end"
STATIC = files("service.http") / "static" / "swagger-ui"
PIECE_BYTES = 64 << 10
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.head("/healthz", openapi_extra=needs("public"), include_in_schema=False)
@router.get("/healthz", openapi_extra=needs("public"))
async def healthz() -> Health:
    """Answer 200 while the process lives."""
    return Health(status="alive")


@router.head("/readyz", openapi_extra=needs("public"), include_in_schema=False)
@router.get(
    "/readyz",
    openapi_extra=needs("public"),
    response_model=Health,
    responses={503: {"model": Health}},
)
async def readyz(engine: EngineDep, request: Request) -> Response:
    """Answer 200 when the store takes writes and every model is loaded, else 503."""
    failure = ENDING if request.app.state.draining else engine.failure()
    health = Health(
        status="ready" if failure is None else "not ready",
        detail=failure,
        trainer=trainer_state(engine),
    )
    member: Member | None = request.app.state.member
    if member is not None:
        health.server, health.role = member.number + 1, "keeper"
    return JSONResponse(health.model_dump(), 200 if failure is None else 503)


@router.head("/learnz", openapi_extra=needs("read"), include_in_schema=False)
@router.get(
    "/learnz",
    openapi_extra=needs("read"),
    response_model=LearnAnswer,
    responses={503: {"model": LearnAnswer}},
)
async def learnz(engine: EngineDep, request: Request) -> Response:
    """Answer 200 while every bandit learns, 503 where an alarm says that one does not.

    For alerting, not for routing: a server that does not learn serves as well as before.
    """
    findings = answered(server_findings(engine))
    alarmed = any(finding.severity == ALARM for finding in findings)
    bandits: dict[str, msgspec.Raw] = {}
    everyone: list[Bandit | SetAside] = [*engine.bandits(), *engine.live.aside()]
    async for bandit in in_slices(everyone):
        one = not_served(bandit) if isinstance(bandit, SetAside) else learn_state(engine, bandit)
        alarmed |= any(finding.severity == ALARM for finding in one.findings)
        bandits[bandit.record.name] = as_part(one, JSON)
    answer = {
        "status": "alarm" if alarmed else "learning",
        "findings": [finding.model_dump() for finding in findings],
        "bandits": bandits,
    }
    return await large(request, [encode(answer, JSON)], JSON, 503 if alarmed else 200)


@router.get(
    "/metrics",
    openapi_extra=needs("read"),
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(422)},
)
async def metrics(
    engine: EngineDep,
    request: Request,
    histograms: Annotated[
        bool, Query(description="Whether histograms of single bandits are among them.")
    ] = True,
) -> Response:
    """Metrics in Prometheus' text format.

    Of servers that share a database each shows its own, and the keeper those of bandits.
    """
    # 33 ms at the first use, which the event loop does not wait for.
    await asyncio.to_thread(importlib.import_module, "service.observe.metrics")
    from service.observe.metrics import CONTENT_TYPE_LATEST, exposition, of_server

    member: Member | None = request.app.state.member
    if member is not None and not member.is_keeper:
        return await large(request, [of_server(engine, member)], CONTENT_TYPE_LATEST)
    parts = await exposition(engine, histograms=histograms, member=member)
    if others := await engine.keeping.shows():
        named = {str(number): text for number, text in sorted(others.items())}
        parts[0] = merged({"keeper": parts[0], **named})
    return await large(request, parts, CONTENT_TYPE_LATEST)


@router.get("/docs", openapi_extra=needs("public"), include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API's documentation."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


@router.get("/docs/{asset}", openapi_extra=needs("public"), include_in_schema=False)
async def docs_asset(asset: str) -> Response:
    """A file of Swagger UI."""
    if asset not in ASSETS:
        raise HTTPException(404, f"there is no {asset!r} here")
    content = _content(asset)
    headers = {"content-length": str(len(content))}
    return StreamingResponse(_pieces(content), media_type=ASSETS[asset], headers=headers)


@cache
def _content(asset: str) -> bytes:
    return (STATIC / asset).read_bytes()


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """Yield it a piece at a time, so that a slow reader's connection holds one piece."""
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]
