"""The call that exports the log of a bandit, as lines of JSON, while it is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.http.auth import needs
from service.http.codec import AuditedRoute
from service.http.routes.common import EngineDep, Name, problems
from service.store.errors import InvalidRequest, StoreError, Unavailable
from service.store.identity import MOST_PLACE
from service.store.protocol import EventStore
from service.store.records import BanditRecord, Moment
from service.tools.export.rows import LogRows, Row, moment_of

T = TypeVar("T")
router = APIRouter(prefix="/bandits", route_class=AuditedRoute)
NDJSON = "application/x-ndjson"
MOST_EXPORTS = 2  # at once
_PAGE = 16  # decisions that are read in one go: about half a millisecond of the interpreter
_MOST_BYTES = 8 << 20  # of an export with a limit: a client holds all of it
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
        int | None,
        Query(ge=1, le=100_000, description="At most so many decisions, of about 8 MB."),
    ] = None,
) -> Response:
    """Export the log of a bandit: every decision, what was sent, and what came of it.

    Each line is a JSON object with a `kind`: `bandit` first, then `actions` and `decision`, and
    `end` last; docs/evaluation.md describes them. All values are those of one moment, which later
    decisions and rewards do not change. An export that broke off goes on with the last `row` that
    arrived as `after`, and the `moment` of its first line.
    """
    bandit = engine.bandit(name)
    try:
        at = None if moment is None else moment_of(moment, bandit.record)
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "moment") from error
    export = _Export(engine.store, bandit.record, at, after, limit, request.app.state)
    return await export.response()


class _Export:
    """One export; whatever becomes of its client, it closes what it opened.

    Its thread alone uses the readers.

    Args:
        store: Where the log is.
        record: The bandit.
        moment: See `LogRows`.
        after: See `LogRows`.
        limit: How many decisions at most.
        state: The app's: it counts the exports, and says whether the server ends.
    """

    def __init__(
        self, store: EventStore, record: BanditRecord, moment: Moment | None, after: int,
        limit: int | None, state: Any,
    ) -> None:  # fmt: skip
        self._store = store
        self._record = record
        self._moment = moment
        self._after = after
        self._limit = limit
        self._state = state
        self._readers = ExitStack()
        self._rows: LogRows | None = None

    async def response(self) -> Response:
        """Return the response.

        Raises:
            Unavailable: Too many exports are under way.
            StoreError: The store cannot be read.
        """
        if self._state.exports >= MOST_EXPORTS:
            raise Unavailable(f"{MOST_EXPORTS} exports are under way already", retry_after_s=10)
        self._state.exports += 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="export")
        try:
            await self._run(self._open)
        except BaseException:
            self.close()
            raise
        return _Closing(self._lines(), self.close)

    def close(self) -> None:
        """Close what was opened, once the thread is done with it."""
        self._state.exports -= 1
        self._thread.submit(self._readers.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        reader = self._readers.enter_context(self._store.reader())
        history = self._readers.enter_context(self._store.history())
        try:
            self._rows = LogRows(reader, history, self._record, self._moment, self._after)
        except ValueError as error:
            raise InvalidRequest.from_value_error(error, "moment") from error

    def _goes_on(self, num: int, num_bytes: int) -> bool:
        return self._limit is None or (num < self._limit and num_bytes < _MOST_BYTES)

    async def _lines(self) -> AsyncIterator[bytes]:
        """Yield lines in pieces, with pauses, so that requests go on as before."""
        rows = self._rows
        assert rows is not None, "it was opened"

        def page() -> tuple[bytes, float]:
            started = time.perf_counter()
            left = _PAGE if self._limit is None else min(_PAGE, self._limit - rows.num_decisions)
            found = _encoded(rows.page(left))
            return found, time.perf_counter() - started

        sent = 0
        try:
            yield await self._run(lambda: _encoded([rows.header()]))
            while rows.more and self._goes_on(rows.num_decisions, sent):
                if self._state.draining:
                    yield _encoded([{"kind": "error", "detail": "the server ends"}])
                    return
                found, took_s = await self._run(page)
                yield found
                sent += len(found)
                await asyncio.sleep(took_s * (1.0 / _DUTY - 1.0))
            yield _encoded([rows.end()])
        except StoreError as error:
            yield _encoded([{"kind": "error", "detail": str(error)}])


class _Closing(StreamingResponse):
    """A streamed response that says when it is over, also where its client left."""

    def __init__(self, content: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(content, 200, None, NDJSON)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def _encoded(rows: list[Row]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
