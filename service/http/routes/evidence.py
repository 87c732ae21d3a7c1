"""The call that exports the log of a bandit, as lines of JSON, while it is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from service.http.auth import GuardedRoute, needs
from service.http.routes.common import EngineDep, Name, problems
from service.store.errors import InvalidRequest, StoreError, Unavailable
from service.store.identity import MOST_PLACE
from service.tools.export.rows import LogRows, Row, moment_of

router = APIRouter(prefix="/bandits", route_class=GuardedRoute)
NDJSON = "application/x-ndjson"
MOST_EXPORTS = 2  # at once
_PAGE = 64  # decisions that are read in one go: a few milliseconds
_DUTY = 0.25  # the share of a thread's time that an export takes; selects have the rest
_CONTENT = {NDJSON: {"schema": {"type": "string", "description": "One JSON object a line."}}}


@router.get(
    "/{name}/log",
    openapi_extra=needs("read"),
    response_class=Response,
    responses={200: {"content": _CONTENT}, **problems(404, 422, 503)},
)
async def export_log(
    name: Name,
    engine: EngineDep,
    request: Request,
    after: Annotated[
        int, Query(ge=0, le=MOST_PLACE, description="Only decisions after this `row`.")
    ] = 0,
    moment: Annotated[
        str | None,
        Query(max_length=64, description="Go on with an export: the `moment` of its first line."),
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=100_000, description="At most so many decisions.")
    ] = None,
) -> Response:
    """Export the log of a bandit: every decision, what was sent, and what came of it.

    Each line is a JSON object with a `kind`: `bandit` first, then `actions` and `decision`, and
    `end` last; docs/evaluation.md describes them. All values are those of one moment, which later
    decisions and rewards do not change. An export that broke off goes on with the last `row` that
    arrived as `after`, and the `moment` of its first line.
    """
    bandit = engine.bandit(name)
    state = request.app.state
    running: int = getattr(state, "exports", 0)
    if running >= MOST_EXPORTS:
        raise Unavailable(f"{MOST_EXPORTS} exports are under way already", retry_after_s=10)
    try:
        at = None if moment is None else moment_of(moment, bandit.record)
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "moment") from error
    state.exports = running + 1
    closing = ExitStack()
    closing.callback(lambda: setattr(state, "exports", state.exports - 1))
    loop = asyncio.get_running_loop()
    try:
        thread = closing.enter_context(ThreadPoolExecutor(1, thread_name_prefix="export"))

        def opened() -> LogRows:
            reader = closing.enter_context(engine.store.reader())
            history = closing.enter_context(engine.store.history())
            return LogRows(reader, history, bandit.record, at, after)

        rows = await loop.run_in_executor(thread, opened)
    except BaseException:
        closing.close()
        raise
    return StreamingResponse(_lines(rows, limit, thread, closing), 200, None, NDJSON)


async def _lines(
    rows: LogRows, limit: int | None, thread: ThreadPoolExecutor, closing: ExitStack
) -> AsyncIterator[bytes]:
    """Yield lines in pieces, with pauses, so that requests go on as before."""
    loop = asyncio.get_running_loop()

    def page() -> tuple[bytes, float]:
        started = time.perf_counter()
        left = _PAGE if limit is None else min(_PAGE, limit - rows.num_decisions)
        found = _encoded(rows.page(left))
        return found, time.perf_counter() - started

    try:
        yield await loop.run_in_executor(thread, lambda: _encoded([rows.header()]))
        while rows.more and (limit is None or rows.num_decisions < limit):
            found, took_s = await loop.run_in_executor(thread, page)
            yield found
            await asyncio.sleep(took_s * (1.0 / _DUTY - 1.0))
        yield _encoded([rows.end()])
    except StoreError as error:
        yield _encoded([{"kind": "error", "detail": str(error)}])
    finally:
        closing.close()


def _encoded(rows: list[Row]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
