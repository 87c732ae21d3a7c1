"""Draws the decisions that one turn of the event loop asks for, together.

Selects that arrive at the same time cost little more than one: the calls of numpy are shared.
Nobody waits for others to come: what is there is drawn as soon as the loop has read it, a few
decisions at a time, so that other requests find their turn. Lives on the event loop; nothing is
there to survive a crash, since no decision exists before it is drawn.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from bandexa_core.ids import DecisionId
from bandexa_core.policies import EncodedContext
from service.serving.bandit import Bandit
from service.serving.select.decide import Asked, Decided, decide, decide_together
from service.store.protocol import Done
from service.store.records import DecisionRecord, StoredAnswer

AT_ONCE = 16
Drawn = tuple[Decided, StoredAnswer | None]
_Group = list[tuple[Asked, "asyncio.Future[Drawn]"]]


class DrawingDesk:
    """Draws decisions and has them kept.

    Args:
        loop: The event loop.
        keep: Appends a decision to the store.
        max_inline_bytes: See the settings.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        keep: Callable[[DecisionRecord, Done[StoredAnswer | None]], None],
        max_inline_bytes: int,
    ) -> None:
        self._loop = loop
        self._keep = keep
        self._max_inline_bytes = max_inline_bytes
        self._waiting: deque[tuple[Asked, asyncio.Future[Drawn]]] = deque()
        self._own_ids: Counter[DecisionId] = Counter()  # of callers, among those that wait
        self._scheduled = False

    async def decided(self, asked: Asked) -> Drawn:
        """Return the decision once it is kept, and what was there already under its id.

        Raises:
            UnknownAction, InvalidRequest: The request; nothing was kept.
            Unavailable, StoreError: It could not be kept.
        """
        future: asyncio.Future[Drawn] = self._loop.create_future()
        if isinstance(asked.ready, EncodedContext):
            self._draw_each([(asked, future)])  # now: the encoder may be another one a turn later
            return await future
        self._waiting.append((asked, future))
        if asked.command.decision_id is not None:
            self._own_ids[asked.command.decision_id] += 1
        self._schedule()
        return await future

    def draw_before(self, decision_id: DecisionId) -> None:
        """Draw the selects with this id that wait: what follows is ordered behind them."""
        while decision_id in self._own_ids:
            self._draw_some()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._draw)

    def _draw(self) -> None:
        self._scheduled = False
        try:
            self._draw_some()
        finally:
            self._schedule()

    def _draw_some(self) -> None:
        """Draw those that have waited longest; each is answered, whatever happens to others."""
        for group in self._next():
            try:
                made = decide_together([asked for asked, _ in group]) if len(group) > 1 else None
            except Exception:  # one of them: each answers for itself
                made = None
            if made is None:
                self._draw_each(group)
                continue
            for decided, (_, future) in zip(made, group, strict=True):
                self._keep(decided.record, _resolves(decided, future))

    def _draw_each(self, group: _Group) -> None:
        for asked, future in group:
            try:
                decided = decide(asked, self._max_inline_bytes)
            except Exception as error:  # whoever waits is told
                future.set_exception(error)
            else:
                self._keep(decided.record, _resolves(decided, future))

    def _next(self) -> list[_Group]:
        """Take up to `AT_ONCE` selects, grouped; those whose callers went away are passed over."""
        groups: list[_Group] = []
        plain: dict[Bandit, _Group] = {}
        for _ in range(min(AT_ONCE, len(self._waiting))):
            asked, future = self._waiting.popleft()
            own_id = asked.command.decision_id
            if own_id is not None:
                self._own_ids[own_id] -= 1
                if not self._own_ids[own_id]:
                    del self._own_ids[own_id]
            if future.done():
                continue
            group = plain.get(asked.bandit) if asked.plain else None
            if group is None:
                group = []
                groups.append(group)
                if asked.plain:
                    plain[asked.bandit] = group
            group.append((asked, future))
        return groups


def _resolves(decided: Decided, future: asyncio.Future[Drawn]) -> Done[StoredAnswer | None]:
    def done(kept: StoredAnswer | None, error: Exception | None) -> None:
        if future.done():  # the caller went away; the decision is kept
            return
        if error is None:
            future.set_result((decided, kept))
        else:
            future.set_exception(error)

    return done
