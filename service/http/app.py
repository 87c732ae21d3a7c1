"""The composition root: settings in, ASGI app out.

The order of a request: `RequestCount`, `OriginCheck`, `InFlightLimit`, then `HotCalls`, with the
doorway for clients of Personalizer in front of them where the settings have it switched on;
whatever is neither goes on to `BodyLimit` and FastAPI's routes. The engine and the dashboard's
follower start and stop with the ASGI lifespan; until they have started, `Starting` answers.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from bandexa_core import __version__
from bandexa_core.encoders import EncoderRegistry
from service.http import auth, configured, problems
from service.http.alarms import Alarms
from service.http.budget import BytesInFlight
from service.http.counting import RequestCount
from service.http.failed_start import one_line_refusal
from service.http.forwarding import Forwarding
from service.http.front import Front
from service.http.hot import CALLS, HotCalls
from service.http.keepers import Keeper, KeeperProcess
from service.http.keys import Keys, is_loopback, load_keys, refuse_unknown
from service.http.large_bodies import LargeBodies
from service.http.limits import BodyLimit, InFlightLimit
from service.http.not_ready import Starting, asks_of_health
from service.http.openapi import complete
from service.http.origins import OriginCheck
from service.http.other_server import OtherServer
from service.http.personalizer.closed import ClosedDoorway
from service.http.personalizer.doorway import KEY_HEADER, Doorway
from service.http.personalizer.errors import AzureErrors
from service.http.reloading import keys_read_anew
from service.http.routes import (
    advice,
    amending,
    bandits,
    challengers,
    clock,
    dashboard,
    erasing,
    evaluations,
    evidence,
    explained,
    importing,
    page,
    score,
    snapshots,
    system,
)
from service.http.settling import Settling
from service.observe import spans
from service.observe.counters import Metrics
from service.observe.dashboard.follower import following
from service.observe.dashboard.noting import noting
from service.observe.dashboard.publishing import Receivers
from service.serving.collection import collecting_when_idle
from service.serving.engine import Engine
from service.serving.guarding import Guarding, guarding
from service.serving.lifecycle import KeeperPlace, Place, ServerPlace, replicating, running
from service.serving.progress import StartGivenUp, StartProgress
from service.serving.replica import Replica
from service.settings import Settings, SettingsError
from service.tools.challenge.contest import Contest
from service.tools.evaluate.jobs import Evaluations
from service.tools.scheduled import ScheduledBackups

log = logging.getLogger(__name__)
DESCRIPTION = """Online contextual bandits with Neural-Linear Thompson sampling.

Bodies are JSON, or msgpack with `Content-Type: application/msgpack`; answers follow `Accept`.
Errors are `application/problem+json`."""
ROUTERS = (
    score.router, bandits.router, challengers.router, snapshots.router, explained.router,
    evidence.router,
    advice.router,
    evaluations.router, importing.router, erasing.router, amending.router, dashboard.router,
    page.router, system.router, clock.router,
)  # fmt: skip
SWITCH_INTERVAL_S = 0.001  # how long a thread that loads a model may hold the event loop back
START_WAITED_S = 5.0


def create_app(settings: Settings, process: KeeperPlace | Place | ServerPlace | None = None) -> App:
    """Build the app.

    Args:
        settings: The server's settings.
        process: Which of several processes of a server this one is, or which of the servers that
            share a database; None: it is the only one.

    Raises:
        ValueError: Keys, own encoders or bandits of the settings are wrong; names the field.
    """
    wanted = configured.parse(settings.bandits)
    if settings.otlp_endpoint is not None:
        spans.require()
    keys = load_keys(settings.keys, settings.keys_file)
    if settings.personalizer.enabled:
        refuse_unknown(settings.personalizer.keys, keys)
    registry = EncoderRegistry(
        settings.encoders, settings.weights, torch_threads=settings.service_threads,
        downloads=False,
    )  # fmt: skip
    metrics = Metrics()
    if isinstance(process, KeeperPlace | Place):
        keys.rates.share(process.rates)
    elif isinstance(process, ServerPlace):
        among = process.member
        metrics.diverged = among.diverged
        keys.rates.divide(lambda: among.live, among.secret)

    def guarded(app: ASGIApp) -> ASGIApp:
        checked = OriginCheck(
            app, metrics=metrics, on_loopback=is_loopback(settings.host),
            has_keys=bool(keys), hosts=settings.allowed_hosts, origins=settings.allowed_origins,
        )  # fmt: skip
        shaped = AzureErrors(checked) if settings.personalizer.enabled else checked
        return RequestCount(shaped, metrics)

    @asynccontextmanager
    async def beside(app: App, place: Place | ServerPlace) -> AsyncIterator[None]:
        async with (
            tracing(settings),
            replicating(settings, metrics, registry, place) as (engine, replica),
            keys_read_anew(keys, settings),
            LargeBodies() as large,
            Forwarding(
                app.behind,
                CALLS,
                _keeper_of(place, settings, replica, keys),
                lambda: system.ENDING if app.state.draining else replica.failure(),
                metrics,
                settings,
                app.budget,
            ).running() as forwarding,
        ):
            replica.shows = partial(shown_metrics, engine)
            app.state.engine, app.state.large = engine, large
            hot = HotCalls(forwarding, Front(engine, settings, keys, large, app.budget))
            limited = InFlightLimit(hot, max_in_flight=settings.max_in_flight, metrics=metrics)
            app.front = guarded(limited)
            yield

    @asynccontextmanager
    async def serving(app: App) -> AsyncIterator[None]:
        hub = process.hub if isinstance(process, KeeperPlace) else None
        member = process.member if isinstance(process, ServerPlace) else None
        async with (
            tracing(settings),
            running(settings, metrics, registry, app.progress, hub, member) as engine,
            guarding(engine) as guards,
            following(settings, metrics, _receivers(guards)) as follower,
            noting(engine, follower),
            keys_read_anew(keys, settings),
            LargeBodies() as large,
            Evaluations(settings, partial(_uids, engine)).running() as evaluations,
            Contest(engine).running(),
            ScheduledBackups(settings, metrics, engine.store.ids.store).running(),
        ):
            app.state.evaluations = evaluations
            app.state.engine, app.state.follower, app.state.large = engine, follower, large
            try:
                await configured.ensure(engine, wanted)
            except SettingsError:
                app.state.refused = True
                raise
            front = Front(engine, settings, keys, large, app.budget)
            if settings.personalizer.enabled:
                inner: ASGIApp = Doorway(HotCalls(app.behind, front), front)
            else:
                inner = HotCalls(ClosedDoorway(app.behind), front)
            limited = InFlightLimit(inner, max_in_flight=settings.max_in_flight, metrics=metrics)
            if hub is None:
                app.front = guarded(limited)
            else:  # the processes that pass requests on have looked where they come from
                app.front = RequestCount(Settling(limited, engine.keeping), metrics)
            yield

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        assert isinstance(app, App)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(collecting_when_idle())
            try:
                if isinstance(process, Place) or (
                    isinstance(process, ServerPlace) and not process.member.is_keeper
                ):
                    await stack.enter_async_context(beside(app, process))
                else:
                    await stack.enter_async_context(serving(app))
            except StartGivenUp:
                log.info("the start was given up; nothing was accepted yet")
            finally:
                app.started.set()
            yield

    app = App(settings, metrics, keys, lifespan, auth.guarded(ROUTERS))
    app.front = guarded(Starting(app.progress, metrics))
    app.waits_for_start = isinstance(process, ServerPlace)
    app.state.registry = registry
    app.state.member = process.member if isinstance(process, ServerPlace) else None
    problems.install(app, metrics)
    return app


@asynccontextmanager
async def tracing(settings: Settings) -> AsyncIterator[None]:
    """Send spans until the exit, where the settings say so; what is left is sent off the loop."""
    with ExitStack() as stack:
        stack.enter_context(spans.sending(settings.otlp_endpoint, settings.trace_ratio))
        try:
            yield
        finally:
            await asyncio.to_thread(stack.close)


def _keeper_of(
    place: Place | ServerPlace, settings: Settings, replica: Replica, keys: Keys
) -> Keeper:
    """Return where a process that serves beside the keeper passes requests on to."""
    if isinstance(place, Place):
        return KeeperProcess(place.keeper, place.own)
    key_headers = (KEY_HEADER,) if settings.personalizer.enabled else ()
    return OtherServer(place.member, replica, keys, key_headers)


async def shown_metrics(engine: Engine) -> bytes:
    """Return the metrics of a process that serves beside the keeper."""
    await asyncio.to_thread(importlib.import_module, "service.observe.metrics")
    from service.observe.metrics import of_replica

    return of_replica(engine)


def _receivers(guards: Guarding) -> Receivers:
    """Return who receives what the follower counts."""
    return Receivers(guards.stood, guards.judged, guards.earned)


def _uids(engine: Engine) -> set[str]:
    """Return the uids of all bandits, also of those that cannot be served."""
    served = {bandit.record.uid for bandit in engine.bandits()}
    return served | {bandit.record.uid for bandit in engine.live.aside()}


class App(FastAPI):
    """FastAPI's app with the hot calls in front of it.

    A server that shares its database starts anew in a new role while its port is open: requests
    that come meanwhile wait for it. The other servers may be away just then.

    Attributes:
        front: Serves every request.
        budget: What the bodies of all requests may take together.
        metrics: Counts of the whole server.
        progress: How far the start has come.
        waits_for_start: Whether requests wait until the server serves, for `START_WAITED_S`.
        started: Set once it serves, or will not.
    """

    front: ASGIApp
    budget: BytesInFlight

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        keys: Keys,
        lifespan: Any,
        routes: list[BaseRoute],
    ) -> None:
        # The routes as their routers built them: `include_router` would build each once more.
        super().__init__(
            title="Bandexa",
            version=__version__,
            description=DESCRIPTION,
            routes=routes,
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
        )
        most = max(settings.max_bytes_in_flight, settings.max_body_bytes)
        self.budget = BytesInFlight(most, "max_bytes_in_flight")
        self.add_middleware(BodyLimit, settings=settings, metrics=metrics, budget=self.budget)
        self.state.settings = settings
        self.state.keys = keys
        self.state.refused = False  # whether a start failed because of the settings
        self.state.engine = None
        self.state.alarms = Alarms()
        self.state.exports = 0  # of logs, under way
        self.state.draining = False  # whether it ends soon, and says so to load balancers
        self.metrics = metrics
        self.progress = StartProgress()
        self.waits_for_start = False
        self.started = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self.behind(scope, receive, one_line_refusal(send))
        else:
            if self.waits_for_start and not self.started.is_set() and not asks_of_health(scope):
                with suppress(TimeoutError):
                    async with asyncio.timeout(START_WAITED_S):
                        await self.started.wait()
            await self.front(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is not a hot call."""
        await super().__call__(scope, receive, send)

    def give_up(self) -> None:
        """End a start that is under way at its next step."""
        self.progress.give_up()

    def drain(self) -> None:
        """Report from now on that the server is not ready; requests are served as before."""
        self.state.draining = True

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
