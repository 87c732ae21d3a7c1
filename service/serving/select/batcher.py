"""The decision batcher: draws the decisions of one event-loop iteration together.

Selects that arrive at the same time cost little more than one, because they share numpy's calls.
No select waits for others to arrive: the batcher draws what has arrived, a few decisions at a time
so that other requests run in between. What it has drawn of a batch request is committed together,
where nothing else is appended meanwhile. It runs on the event loop. A crash loses nothing: a
decision does not exist before it is drawn, and is answered only once it is stored.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from bandexa_core.errors import BandexaError
from bandexa_core.ids import DecisionId
from bandexa_core.policies import EncodedContext
from service.serving.bandit import Bandit
from service.serving.select.decide import Drawn, Pending, draw, draw_together
from service.store.identity import DecisionIds
from service.store.protocol import Done, EventStore
from service.store.records import StoredAnswer

AT_ONCE = 16
WORK_AT_ONCE = 6_000  # candidates, which take some two milliseconds; one select may have more
ALONE_WORK = 400  # candidates that take as long as what selects of one bandit have in common
MOST_HELD = 256  # decisions of a batch that are committed together
Stored = tuple[Drawn, StoredAnswer | None]


class _Batch:
    """The selects of a batch request, which one caller waits for.

    Attributes:
        found: What became of each.
        all: Resolved once all are stored, or have failed.
    """

    __slots__ = ("_left", "all", "found")

    def __init__(self, loop: asyncio.AbstractEventLoop, num: int) -> None:
        self.found: list[Stored | Exception | None] = [None] * num
        self.all: asyncio.Future[None] = loop.create_future()
        self._left = num

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self.all.done()

    def put(self, place: int, found: Stored | Exception) -> None:
        """Note what became of a select."""
        self.found[place] = found
        self._left -= 1
        if not self._left and not self.all.done():
            self.all.set_result(None)


class _Waiting(msgspec.Struct, frozen=True):
    """A select that waits to be drawn, and who waits for it: a caller, or a batch."""

    pending: Pending
    caller: asyncio.Future[Stored] | _Batch
    place: int = 0  # in the batch

    def answer(self, found: Stored | Exception) -> None:
        """Say what became of it."""
        caller = self.caller
        if isinstance(caller, _Batch):
            caller.put(self.place, found)
        elif caller.done():  # it went away; the decision is stored
            pass
        elif isinstance(found, Exception):
            caller.set_exception(found)
        else:
            caller.set_result(found)


class DecisionBatcher:
    """Draws decisions and stores them.

    Args:
        loop: The event loop.
        store: Stores the decisions.
        ids: Makes the ids of decisions.
        max_inline_bytes: See the settings.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: EventStore,
        ids: DecisionIds,
        max_inline_bytes: int,
    ) -> None:
        self._loop = loop
        self._store = store
        self._ids = ids
        self._max_inline_bytes = max_inline_bytes
        self._queue: deque[_Waiting] = deque()
        self._queued_ids: Counter[DecisionId] = Counter()  # ids of callers, in the queue
        self._scheduled = False
        self._num_held = 0  # decisions that wait in the store for those behind them
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

    def may_be_coming(self, decision_id: DecisionId) -> bool:
        """Whether a select with this id is encoded or waits to be drawn; see `arrived`."""
        return decision_id in self._encoding or decision_id in self._queued_ids

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
            if made := self._each_drawn([_Waiting(pending, future)]):
                self._append(made, more=False)
            return await future
        self._add(_Waiting(pending, future))
        self._schedule()
        return await future

    async def decide_all(self, pending: Sequence[Pending]) -> list[Stored | Exception]:
        """Return for each of the selects of a batch what `decide` returns, or its error.

        None of them is encoded already.
        """
        batch = _Batch(self._loop, len(pending))
        for place, each in enumerate(pending):
            self._add(_Waiting(each, batch, place))
        self._schedule()
        await batch.all
        return [found for found in batch.found if found is not None]  # of all

    def _add(self, waiting: _Waiting) -> None:
        own_id = waiting.pending.command.decision_id
        if own_id is not None:
            self._queued_ids[own_id] += 1
        self._queue.append(waiting)

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
        groups = self._next_groups()
        # The rest of a batch follows in the next turns, and is committed together with this part.
        more = bool(self._queue) and isinstance(self._queue[0].caller, _Batch)
        more = more and self._num_held < MOST_HELD
        made: list[tuple[_Waiting, Drawn]] = []
        for group in groups:
            try:
                several = [each.pending for each in group] if len(group) > 1 else None
                drawn = None if several is None else draw_together(several, self._ids)
            except Exception:  # one of them failed: each is drawn and answered on its own
                drawn = None
            made += self._each_drawn(group) if drawn is None else zip(group, drawn, strict=True)
        if made:
            self._append(made, more=more)
        if self._num_held and not more:
            self._num_held = 0
            self._store.hand_over()

    def _each_drawn(self, group: list[_Waiting]) -> list[tuple[_Waiting, Drawn]]:
        """Draw selects one by one; those that fail are answered."""
        made = []
        for waiting in group:
            try:
                made.append((waiting, draw(waiting.pending, self._ids, self._max_inline_bytes)))
            except Exception as error:  # the caller receives it
                waiting.answer(error)
        return made

    def _append(self, made: list[tuple[_Waiting, Drawn]], *, more: bool) -> None:
        """Append what was drawn, in the order of its keys, with one answer for all of it."""
        self._num_held += len(made) if more else 0
        records = [drawn.record for _, drawn in made]
        self._store.append_decisions(records, _answers(made), more=more)

    def _next_groups(self) -> list[list[_Waiting]]:
        """Take up to `AT_ONCE` selects, plain ones grouped by bandit, without cancelled ones.

        Fewer where they have many candidates: other requests run in between.
        """
        groups: list[list[_Waiting]] = []
        plain: dict[Bandit, tuple[list[_Waiting], int]] = {}  # and the work of each of its selects
        work = 0
        for _ in range(min(AT_ONCE, len(self._queue))):
            if work > WORK_AT_ONCE:
                break
            waiting = self._queue.popleft()
            pending = waiting.pending
            own_id = pending.command.decision_id
            if own_id is not None:
                self._queued_ids[own_id] -= 1
                if not self._queued_ids[own_id]:
                    del self._queued_ids[own_id]
            if waiting.caller.done():
                continue
            found = plain.get(pending.bandit) if pending.plain else None
            if found is None:
                work += ALONE_WORK
                found = [], pending.work
                groups.append(found[0])
                if pending.plain:
                    plain[pending.bandit] = found
            found[0].append(waiting)
            work += found[1]
        return groups


def _answers(made: list[tuple[_Waiting, Drawn]]) -> Done[list[StoredAnswer | BandexaError | None]]:
    def done(
        results: list[StoredAnswer | BandexaError | None] | None, error: Exception | None
    ) -> None:
        for number, (waiting, one) in enumerate(made):
            earlier = None if results is None else results[number]
            if error is not None:
                waiting.answer(error)
            elif isinstance(earlier, Exception):
                waiting.answer(earlier)
            else:
                waiting.answer((one, earlier))

    return done
