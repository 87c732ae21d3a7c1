"""The composition root: settings in, ASGI app out."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI

from bandexa_core import __version__
from service import errors
from service.engine import Engine
from service.limits import BodyLimit
from service.metrics import Metrics
from service.routes import bandits, decide, system
from service.settings import Settings

DESCRIPTION = """Online contextual bandits with Neural-Linear Thompson sampling.

Bodies are JSON, or msgpack with `Content-Type: application/msgpack`; answers follow `Accept`.
Errors are `application/problem+json`."""
THREAD_TURN_S = 0.001  # a thread that loads a model lets the event loop have its turn after this


def create_app(settings: Settings) -> FastAPI:
    """Build the app; its engine starts and stops with the ASGI lifespan."""
    engine = Engine(settings, Metrics())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        torch.set_num_threads(settings.service_threads)
        sys.setswitchinterval(THREAD_TURN_S)
        try:
            await engine.start()
            yield
        finally:
            await engine.close()

    app = FastAPI(
        title="Bandexa",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_snapshot_bytes=settings.max_snapshot_bytes,
    )
    app.state.engine = engine
    errors.install(app)
    app.include_router(decide.router)
    app.include_router(bandits.router)
    app.include_router(system.router)
    return app
