"""The composition root: settings in, ASGI app out.

The order of a request: `OriginCheck`, `InFlightLimit`, then `HotCalls`; whatever is not a hot call
goes on to `BodyLimit` and FastAPI's routes. The engine and the dashboard's follower start and stop
with the ASGI lifespan.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from bandexa_core import __version__
from bandexa_core.encoders import EncoderRegistry
from service.http import auth, configured, problems
from service.http.hot import CALLS, HotCalls
from service.http.keys import Keys, is_loopback, load_keys
from service.http.limits import BodyLimit, InFlightLimit
from service.http.openapi import complete
from service.http.origins import OriginCheck
from service.http.reloading import keys_read_anew
from service.http.routes import bandits, clock, dashboard, explained, page, score, snapshots, system
from service.http.startup import one_line_refusal
from service.observe.counters import Metrics
from service.observe.dashboard.follower import following
from service.serving.lifecycle import running
from service.settings import Settings, SettingsError

DESCRIPTION = """Online contextual bandits with Neural-Linear Thompson sampling.

Bodies are JSON, or msgpack with `Content-Type: application/msgpack`; answers follow `Accept`.
Errors are `application/problem+json`."""
SWITCH_INTERVAL_S = 0.001  # how long a thread that loads a model may hold the event loop back


def create_app(settings: Settings) -> App:
    """Build the app.

    Raises:
        ValueError: Keys, own encoders or bandits of the settings are wrong; names the field.
    """
    wanted = configured.parse(settings.bandits)
    keys = load_keys(settings.keys, settings.keys_file)
    registry = EncoderRegistry(
        settings.encoders, settings.weights, torch_threads=settings.service_threads
    )
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        assert isinstance(app, App)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        async with (
            running(settings, metrics, registry) as engine,
            following(settings, metrics) as follower,
            keys_read_anew(keys, settings),
        ):
            app.state.engine, app.state.follower = engine, follower
            try:
                await configured.ensure(engine, wanted)
            except SettingsError:
                app.state.refused = True
                raise
            inner = HotCalls(app.behind, engine, settings, keys)
            limited = InFlightLimit(inner, max_in_flight=settings.max_in_flight, metrics=metrics)
            app.front = OriginCheck(
                limited, metrics=metrics, on_loopback=is_loopback(settings.host),
                hosts=settings.allowed_hosts, origins=settings.allowed_origins,
            )  # fmt: skip
            yield

    app = App(settings, metrics, keys, lifespan)
    app.state.registry = registry
    problems.install(app, metrics)
    routers = (
        score.router, bandits.router, snapshots.router, explained.router, dashboard.router,
        page.router, system.router, clock.router,
    )  # fmt: skip
    auth.include_guarded(app, routers, keys)
    return app


class App(FastAPI):
    """FastAPI's app with the hot calls in front of it.

    Attributes:
        front: Serves every request once the lifespan has started.
    """

    front: ASGIApp

    def __init__(self, settings: Settings, metrics: Metrics, keys: Keys, lifespan: Any) -> None:
        super().__init__(
            title="Bandexa",
            version=__version__,
            description=DESCRIPTION,
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
        )
        self.add_middleware(BodyLimit, settings=settings, metrics=metrics)
        self.state.settings = settings
        self.state.keys = keys
        self.state.refused = False  # whether a start failed because of the settings
        self.state.engine = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self.behind(scope, receive, one_line_refusal(send))
        else:
            await self.front(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is not a hot call."""
        await super().__call__(scope, receive, send)

    async def ending(self) -> None:
        """End the training: requests that wait for a round are answered that it does not come."""
        if self.state.engine is not None:
            await self.state.engine.rounds.end()

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of every call."""
        if self.openapi_schema is None:
            document = super().openapi()
            complete(document, CALLS, keys_needed=bool(self.state.keys))
        return super().openapi()

    @property
    def failed_for_good(self) -> bool:
        """Whether the store failed so that this process has to end."""
        engine = self.state.engine
        return engine is not None and engine.failed_for_good
