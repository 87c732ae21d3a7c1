"""The decision batcher: draws the decisions of one event-loop iteration together.

Selects that arrive at the same time cost little more than one, because they share numpy's calls.
No select waits for others to arrive: the batcher draws what has arrived, a few decisions at a time
so that other requests run in between. It runs on the event loop. A crash loses nothing: a decision
does not exist before it is drawn, and is answered only once it is stored.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bandexa_core.ids import DecisionId
from bandexa_core.policies import EncodedContext
from service.serving.bandit import Bandit
from service.serving.select.decide import Drawn, Pending, draw, draw_together
from service.store.identity import DecisionIds
from service.store.protocol import Done
from service.store.records import DecisionRecord, StoredAnswer

AT_ONCE = 16
WORK_AT_ONCE = 10_000  # candidates, which take up to five milliseconds; one select may have more
Stored = tuple[Drawn, StoredAnswer | None]
_Group = list[tuple[Pending, "asyncio.Future[Stored]"]]


class DecisionBatcher:
    """Draws decisions and stores them.

    Args:
        loop: The event loop.
        store: Appends a decision to the store.
        ids: Makes the ids of decisions.
        max_inline_bytes: See the settings.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Callable[[DecisionRecord, Done[StoredAnswer | None]], None],
        ids: DecisionIds,
        max_inline_bytes: int,
    ) -> None:
        self._loop = loop
        self._store = store
        self._ids = ids
        self._max_inline_bytes = max_inline_bytes
        self._queue: deque[tuple[Pending, asyncio.Future[Stored]]] = deque()
        self._queued_ids: Counter[DecisionId] = Counter()  # ids of callers, in the queue
        self._scheduled = False
        self._encoding: dict[DecisionId, set[asyncio.Future[None]]] = {}  # see `announced`

    @contextmanager
    def announced(self, own_id: DecisionId | None) -> Iterator[None]:
        """Say that a select with this id follows, after the exit and before anything else runs.

        Its context is being encoded. Reports about the decision wait meanwhile: see `arrived`.
        """
        if own_id is None:  # nobody knows the id yet
            yield
            return
        end = self._loop.create_future()
        waiting = self._encoding.setdefault(own_id, set())
        waiting.add(end)
        try:
            yield
        finally:
            end.set_result(None)
            waiting.remove(end)
            if not waiting:
                del self._encoding[own_id]

    async def arrived(self, decision_id: DecisionId) -> None:
        """Return once the selects with this id that came before are drawn.

        So that a report about the decision is ordered behind them. It does not wait for those that
        are announced from now on: repeated selects would hold it back without end.
        """
        if earlier := self._encoding.get(decision_id):
            await asyncio.wait(earlier)  # of a copy: later ones do not join it
        while decision_id in self._queued_ids:
            self._draw_some()

    async def decide(self, pending: Pending) -> Stored:
        """Return the decision once it is stored, and the earlier answer under its id, if any.

        Raises:
            UnknownAction, InvalidRequest: The request; nothing was stored.
            Unavailable, StoreError: It could not be stored.
        """
        future: asyncio.Future[Stored] = self._loop.create_future()
        if isinstance(pending.ready, EncodedContext):
            # It is drawn at once: an iteration later the bandit may serve another encoder.
            self._draw_each([(pending, future)])
            return await future
        self._queue.append((pending, future))
        if pending.command.decision_id is not None:
            self._queued_ids[pending.command.decision_id] += 1
        self._schedule()
        return await future

    def _schedule(self) -> None:
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        try:
            self._draw_some()
        finally:
            self._schedule()

    def _draw_some(self) -> None:
        """Draw the oldest selects; each is answered, whatever happens to the others."""
        for group in self._next_groups():
            try:
                several = [each for each, _ in group] if len(group) > 1 else None
                drawn = None if several is None else draw_together(several, self._ids)
            except Exception:  # one of them failed: each is drawn and answered on its own
                drawn = None
            if drawn is None:
                self._draw_each(group)
                continue
            for one, (_, future) in zip(drawn, group, strict=True):
                self._store(one.record, _resolves(one, future))

    def _draw_each(self, group: _Group) -> None:
        for pending, future in group:
            try:
                drawn = draw(pending, self._ids, self._max_inline_bytes)
            except Exception as error:  # the caller receives it
                future.set_exception(error)
            else:
                self._store(drawn.record, _resolves(drawn, future))

    def _next_groups(self) -> list[_Group]:
        """Take up to `AT_ONCE` selects, plain ones grouped by bandit, without cancelled ones.

        Fewer where they have many candidates: other requests run in between.
        """
        groups: list[_Group] = []
        plain: dict[Bandit, tuple[_Group, int]] = {}  # and the work of each of its selects
        work = 0
        for _ in range(min(AT_ONCE, len(self._queue))):
            if work > WORK_AT_ONCE:
                break
            pending, future = self._queue.popleft()
            own_id = pending.command.decision_id
            if own_id is not None:
                self._queued_ids[own_id] -= 1
                if not self._queued_ids[own_id]:
                    del self._queued_ids[own_id]
            if future.done():
                continue
            found = plain.get(pending.bandit) if pending.plain else None
            if found is None:
                found = [], pending.work
                groups.append(found[0])
                if pending.plain:
                    plain[pending.bandit] = found
            found[0].append((pending, future))
            work += found[1]
        return groups


def _resolves(drawn: Drawn, future: asyncio.Future[Stored]) -> Done[StoredAnswer | None]:
    def done(earlier: StoredAnswer | None, error: Exception | None) -> None:
        if future.done():  # the caller went away; the decision is stored
            return
        if error is None:
            future.set_result((drawn, earlier))
        else:
            future.set_exception(error)

    return done
