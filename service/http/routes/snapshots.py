"""The calls on snapshots: list, export, import, roll back."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from bandexa_core.errors import SnapshotError
from bandexa_core.ids import SnapshotVersion
from service.http.auth import needs
from service.http.codec import WireRoute
from service.http.large import in_parts
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.snapshots import (
    RollbackRequest,
    SnapshotAnswer,
    SnapshotList,
    SnapshotSummary,
)
from service.serving.bandit import Bandit
from service.serving.transfer import export_model, import_model, roll_back

router = APIRouter(prefix="/bandits", route_class=WireRoute)
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("/{name}/snapshots", openapi_extra=needs("read"), responses=problems(404, 422))
async def list_snapshots(name: Name, engine: EngineDep) -> SnapshotList:
    """List the snapshots on disk, oldest first; the bandit can go back to any of them."""
    bandit = engine.bandit(name)
    found = await asyncio.get_running_loop().run_in_executor(None, _summaries, bandit)
    return SnapshotList(served=bandit.model.version, snapshots=found)


@router.get(
    "/{name}/snapshot",
    openapi_extra=needs("read"),
    response_class=Response,
    responses={200: {"content": BINARY}, **problems(404, 409, 422)},
)
async def export_snapshot(name: Name, engine: EngineDep) -> Response:
    """Export the served model as safetensors."""
    data = await export_model(engine.bandit(name))
    return in_parts([data], "application/octet-stream")


@router.put(
    "/{name}/snapshot",
    responses=problems(404, 409, 413, 422),
    openapi_extra={**needs("admin"), "requestBody": {"required": True, "content": BINARY}},
)
async def import_snapshot(name: Name, request: Request, engine: EngineDep) -> SnapshotAnswer:
    """Serve an exported model as this bandit's from here on."""
    bandit = await import_model(engine, name, await request.body())
    return SnapshotAnswer(snapshot=bandit.model.version, position=bandit.model.position)


@router.post(
    "/{name}/rollback", openapi_extra=needs("admin"), responses=problems(404, 409, 413, 415, 422)
)
async def rollback(name: Name, body: RollbackRequest, engine: EngineDep) -> SnapshotAnswer:
    """Serve an older snapshot from here on: what was learned after it leaves the model.

    A new snapshot with the old one's state is published, and logged as an import.
    """
    bandit = await roll_back(engine, name, SnapshotVersion(body.version))
    return SnapshotAnswer(snapshot=bandit.model.version, position=bandit.model.position)


def _summaries(bandit: Bandit) -> list[SnapshotSummary]:
    found = []
    for version in bandit.snapshots.versions():
        try:
            manifest = bandit.snapshots.manifest(version)
        except SnapshotError:  # pruned meanwhile, or damaged: `bandexa verify` reports it
            continue
        found.append(
            SnapshotSummary(
                version=manifest.version,
                parent=manifest.parent,
                position=manifest.position,
                num_learned=manifest.num_rows,
                created_at=manifest.created_at,
                bytes=sum(entry.num_bytes for entry in manifest.files.values()),
                metrics=manifest.metrics,
            )
        )
    return found
