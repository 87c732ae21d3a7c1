"""The composition root: settings in, ASGI app out."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from bandexa_core import __version__
from service.http import auth, configured, problems
from service.http.hot import FastLane
from service.http.keys import load_keys
from service.http.limits import BodyLimit, InFlightLimit
from service.http.routes import bandits, dashboard, decide, explained, page, snapshots, system
from service.http.startup import OneLineRefusal
from service.observe.counters import Metrics
from service.observe.metrics import EngineCollector
from service.serving.engine import Engine
from service.settings import Settings, SettingsError

DESCRIPTION = """Online contextual bandits with Neural-Linear Thompson sampling.

Bodies are JSON, or msgpack with `Content-Type: application/msgpack`; answers follow `Accept`.
Errors are `application/problem+json`."""
THREAD_TURN_S = 0.001  # a thread that loads a model lets the event loop have its turn after this


def create_app(settings: Settings) -> FastAPI:
    """Build the app; its engine starts and stops with the ASGI lifespan.

    Raises:
        ValueError: Keys, own encoders or bandits of the settings are wrong; names the field.
    """
    wanted = configured.parse(settings.bandits)
    metrics = Metrics()
    engine = Engine(settings, metrics)
    metrics.registry.register(EngineCollector(engine))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        torch.set_num_threads(settings.service_threads)
        sys.setswitchinterval(THREAD_TURN_S)
        try:
            await engine.start()
            try:
                await configured.ensure(engine, wanted)
            except SettingsError:
                app.state.refused = True
                raise
            yield
        finally:
            await engine.close()

    app = _App(
        title="Bandexa",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(  # the last one added is the first one called
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_snapshot_bytes=settings.max_snapshot_bytes,
        timeout_s=settings.body_timeout_s,
        metrics=metrics,
    )
    app.add_middleware(InFlightLimit, max_in_flight=settings.max_in_flight, metrics=metrics)
    app.add_middleware(OneLineRefusal)
    app.state.settings = settings
    app.state.refused = False  # whether a start failed for what the settings say
    app.state.engine = engine
    problems.install(app, metrics)
    keys = load_keys(settings.keys, settings.keys_file)
    routers = (
        decide.router, bandits.router, snapshots.router, explained.router, dashboard.router,
        page.router, system.router,
    )  # fmt: skip
    auth.include_guarded(app, routers, keys)
    app.fast_lane = FastLane(app.the_usual_way, engine, settings, keys)
    return app


class _App(FastAPI):
    """FastAPI's app with a short way in front of it for what is called most."""

    fast_lane: FastLane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        await self.fast_lane(scope, receive, send)

    async def the_usual_way(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what the short way does not."""
        await super().__call__(scope, receive, send)
