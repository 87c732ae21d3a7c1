"""The applier of one bandit: it follows the log and applies its rows to the served model.

A reward becomes such a row, and so does whatever else changes the model. Nothing else moves a
served model. The writer calls `follow` when rows are committed; the applier reads them from the
store, in order, and applies them. So a row that could not be applied is still there to be applied
later, and any process that reads the log can follow it.

Rows that were appended together are a group: they are encoded together and learned together, by a
rule in the log, so that whoever replays the log does the same arithmetic. No select sees a part of
a group. Groups that need long work (a factorisation when forgetting, a slow encoder's features, an
import, many objects) wait until a thread has done that work, and later ones wait behind them;
selects do not.

A row that cannot be applied makes the bandit *failed*: it goes on answering selects from its last
good position, its rewards are stored, and `recovery` builds its model again from snapshot and log.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bandexa_core.errors import RowNotApplied
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.rows import Group, ImportRow, learn_rows
from bandexa_core.model import ServingModel, loads_trials
from bandexa_core.snapshots.store import Snapshot
from service.store.errors import LogBranched, StoreDamaged, StoreUnreadable

log = logging.getLogger(__name__)
ROWS_AT_ONCE = 64  # more rows are applied by a task, which lets selects run in between
READ_AGAIN_S = 0.5  # while the database is away


class ReadRows(Protocol):
    """Yields the groups of a log in (after, up_to]; see `LogReader.follow`."""

    def __call__(
        self, after: LogPosition, up_to: LogPosition, *, previous: bytes | None
    ) -> Iterator[Group]:
        """Yield them in order."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a bandit has stopped learning.

    Attributes:
        position: The log row that cannot be read or applied.
        reason: The error.
        since: When it failed first, seconds since the epoch.
        tries: How often recovery was tried since then.
        has_branched: Whether the log has lost rows that the model has learned.
    """

    position: LogPosition
    reason: str
    since: float
    tries: int = 0
    has_branched: bool = False


class Applier:
    """Follows a bandit's log.

    Args:
        name: The bandit's name, for the server's log.
        model: The served model.
        load_import: Loads an imported snapshot by its version.
        read: Returns the groups in (after, up_to].
        on_failure: Called when a row could not be applied.
        after: Runs a function after the answers of a commit; None: in the loop's next turn.
        reading: Where `read` is called; None: on the event loop, since rows are at hand.

    Attributes:
        noted: Called with every group before it is applied.
        model: The model that is served now.
        load_import: As given.
        switch: Returns the model of another configuration that is served from a position on; None:
            this process brings it about itself, and never reads of it here.
        grown: Called with every new head.
        skipped: Called where a model is served from now on that has rows which were not read here.
        head: The newest committed row, as far as is known here.
        failure: Why rows are not applied; None while they are.
    """

    def __init__(
        self,
        name: str,
        model: ServingModel,
        load_import: Callable[[SnapshotVersion], Snapshot],
        read: ReadRows,
        on_failure: Callable[[], None],
        after: Callable[[Callable[[], None]], None] | None = None,
        reading: Executor | None = None,
    ) -> None:
        self._after = after
        self.reading = reading
        self.noted: Callable[[Group], None] | None = None
        self._name = name
        self.model = model
        self.load_import = load_import
        self.read = read
        self._on_failure = on_failure
        self.switch: Callable[[LogPosition], Awaitable[ServingModel]] | None = None
        self.grown: Callable[[LogPosition], None] | None = None
        self.skipped: Callable[[], None] | None = None
        self.head = model.position
        self.failure: Failure | None = None
        self._due_since: float | None = None
        self._waiting_since = 0.0
        self._waiting: list[tuple[LogPosition, int, asyncio.Future[bool]]] = []  # a heap
        self._count = itertools.count()
        self._is_scheduled = False
        self._catching_up: asyncio.Task[None] | None = None
        self._running = asyncio.Event()
        self._running.set()
        self._is_closed = False
        self._is_switching = False

    # -- applying rows ------------------------------------------------------------------------

    def follow(self, head: LogPosition) -> None:
        """Note that rows up to `head` are committed; they are applied after the commit's answers.

        Rows that are committed together are thus read together.
        """
        if head <= self.head:
            return
        if self.head == self.model.position:
            self._waiting_since = time.monotonic()
        self.head = head
        if self.grown is not None:
            self.grown(head)
        if not self._is_scheduled and self._catching_up is None:
            self._is_scheduled = True
            if self._after is None:
                asyncio.get_running_loop().call_soon(self._go_on)
            else:
                self._after(self._go_on)

    async def applied(self, position: LogPosition) -> bool:
        """Return True once the row at `position` is applied; False when the bandit has failed."""
        if self.model.position >= position:
            return True
        if self.failure is not None or self._is_closed:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (position, next(self._count), done))
        return await done

    def _go_on(self) -> None:
        """Apply the committed rows: at once, or by a task where that takes long."""
        self._is_scheduled = False
        if not self._may_apply() or self._catching_up is not None:
            return
        try:
            is_done = self._apply_quick_rows()
        except Exception as error:  # whatever a row does, it is recorded and tried again
            self._fail(error)
            return
        if not is_done:
            self._catching_up = asyncio.create_task(self._catch_up())

    def _may_apply(self) -> bool:
        return self.failure is None and self._running.is_set() and not self._is_closed

    def _apply_quick_rows(self) -> bool:
        """Apply groups until one takes long; returns whether all are applied."""
        model = self.model
        if self.head - model.position > ROWS_AT_ONCE or self.reading is not None:
            return False
        for group in self.read(model.position, self.head, previous=model.log_hash):
            self._note(group)
            if _is_slow(model, group) or _is_replaced_by(model, group) or self._switches(group):
                return False
            self._apply(group)
        return model.position >= self.head

    async def _catch_up(self) -> None:
        """Apply the committed rows; long work runs on a thread, while selects go on.

        No other row is applied meanwhile, so the thread reads a posterior that does not move.
        """
        try:
            while self.model.position < self.head and self.failure is None:
                await self._running.wait()
                if self._is_closed:
                    return
                if self.model.position >= self.head:
                    break  # a model that was swapped in has the rows already
                position, is_missing = self.model.position, True
                for group in await self._rows():
                    is_missing = False
                    if not self._may_apply():
                        break
                    self._note(group)
                    if not await self._apply_slow_group(group):
                        break  # another model is served: it reads them again
                    await asyncio.sleep(0)  # however many rows wait, selects run in between
                if is_missing and self.model.position == position and not self._is_closed:
                    missing = LogPosition(position + 1)
                    raise RowNotApplied(missing, StoreDamaged("it is not in the log"))
        except Exception as error:  # as above
            self._fail(error)
        finally:
            self._catching_up = None

    async def _rows(self) -> Iterable[Group]:
        """Return the next groups; while the database is away, wait for it."""
        model = self.model
        read = partial(self.read, model.position, self.head, previous=model.log_hash)
        if self.reading is None:
            return read()
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self.reading, _some_of, read)
            except StoreUnreadable as error:
                if self._is_closed:
                    return ()
                log.warning("bandit %s: its log cannot be read now: %s", self._name, error)
                await asyncio.sleep(READ_AGAIN_S)

    def _note(self, group: Group) -> None:
        if self.noted is not None:
            self.noted(group)

    async def _apply_slow_group(self, group: Group) -> bool:
        """Apply a group; False where the model was replaced meanwhile."""
        loop, model = asyncio.get_running_loop(), self.model
        if group.rows[0].position != model.position + 1:
            return False
        if self.switch is not None and self._switches(group):
            other = await self.switch(group.position)
            if self._still_served(model):
                self.swap(other)
            return False
        z_ND: NDArray[np.float64] | None = None
        if _is_slow(model, group):
            computing = loop.run_in_executor(None, _features, model, group)
            await asyncio.wait([computing])
            if not self._still_served(model):
                return _abandoned(computing)
            z_ND = computing.result()
        if not _is_replaced_by(model, group):
            self._apply(group, z_ND)
            return True
        load = self.load_import
        making = loop.run_in_executor(None, model.successor, group, load, z_ND)
        await asyncio.wait([making])
        if not self._still_served(model):
            return _abandoned(making)
        successor = making.result()
        model.frozen = True
        self.model = successor
        self._moved()
        return True

    def _switches(self, group: Group) -> bool:
        """Whether a model of another configuration has to be loaded for a group."""
        return self.switch is not None and self.model.ends_before(group)

    def _still_served(self, model: ServingModel) -> bool:
        """Whether rows still go to `model`, after a wait."""
        return model is self.model and self._may_apply()

    def _apply(self, group: Group, z_ND: NDArray[np.float64] | None = None) -> None:
        try:
            self.model.apply(group, self.load_import, z_ND)
        finally:
            self._moved()

    def _moved(self) -> None:
        self._waiting_since = time.monotonic()
        self._release()

    def _release(self) -> None:
        """Answer the callers whose rows are applied."""
        while self._waiting and self._waiting[0][0] <= self.model.position:
            _answer(heapq.heappop(self._waiting)[2], applied=True)

    @property
    def rows_waiting(self) -> int:
        """Number of committed rows that wait to be applied."""
        return self.head - self.model.position

    def rows_wait_s(self, now: float) -> float:
        """Return for how many seconds no waiting row was applied; 0 when none waits."""
        return now - self._waiting_since if self.rows_waiting else 0.0

    # -- failing ------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        position = LogPosition(self.model.position + 1)
        if isinstance(error, RowNotApplied):
            position, error = LogPosition(error.position), error.reason
        reason = f"{type(error).__name__}: {error}"
        log.error(
            "bandit %s has failed at log row %d: it serves on and stores its rewards, but does not"
            " learn until it is recovered", self._name, position, exc_info=error,
        )  # fmt: skip
        has_branched = isinstance(error, LogBranched)
        self.failure = Failure(position, reason, time.time(), has_branched=has_branched)
        self._give_up_waiting()
        self._on_failure()

    def _give_up_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for _, _, done in waiting:
            _answer(done, applied=False)

    def close(self) -> None:
        """Apply no more rows: the bandit is being deleted, and its rows with it."""
        self._is_closed = True
        self._give_up_waiting()

    def reopen(self) -> None:
        """Undo `close`."""
        self._is_closed = False
        self._go_on()

    # -- swapping -----------------------------------------------------------------------------

    def hold(self, *, to_switch: bool = False) -> None:
        """Make rows wait until `swap`, so that a coming model catches up; selects go on.

        `to_switch`: until the one that ends the switch: the served model cannot have later rows.
        """
        self._running.clear()
        self._is_switching |= to_switch

    def swap(self, model: ServingModel | None, *, ends_switch: bool = False) -> None:
        """Serve `model` from now on (None: go on with the served one), and apply waiting rows.

        A model at the position of a failed one continues where that one failed.
        """
        self._is_switching &= not ends_switch
        if model is not None:
            assert model.position >= self.model.position
            if self.skipped is not None and model.position > self.model.position:
                self.skipped()
            self.model.frozen = True
            model.follow_on(self.model)
            self.model = model
            self.failure = None
            self._due_since = None
            self.head = LogPosition(max(self.head, model.position))
            self._release()
        if not self._is_switching:
            self._running.set()
            self._go_on()

    # -- training -----------------------------------------------------------------------------

    def round_due(self) -> bool:
        """Whether a training round is due; each call also notes since when."""
        due = self.failure is None and self.model.round_due()
        if not due:
            self._due_since = None
        elif self._due_since is None:
            self._due_since = time.monotonic()
        return due

    def due_s(self, now: float) -> float:
        """Return for how many seconds a round has been due; 0 when none is."""
        if not self.round_due() or self._due_since is None:
            return 0.0
        return now - self._due_since


def _some_of(read: Callable[[], Iterator[Group]]) -> list[Group]:
    return list(itertools.islice(read(), ROWS_AT_ONCE))


def _answer(done: asyncio.Future[bool], *, applied: bool) -> None:
    if not done.done():  # the caller may have gone away
        done.set_result(applied)


def _abandoned(work: asyncio.Future[Any]) -> bool:
    """Return False; an error of work on a model that was replaced meanwhile is none."""
    if not work.cancelled():
        work.exception()  # else asyncio logs that nobody asked for it
    return False


def _is_slow(model: ServingModel, group: Group) -> bool:
    return model.slow_encoder is not None and bool(learn_rows(group))


def _is_replaced_by(model: ServingModel, group: Group) -> bool:
    """Whether a group takes long to apply: it factorises, brings many objects, or a snapshot."""
    first = group.rows[0]
    if isinstance(first, ImportRow) or loads_trials(group):
        return True
    return model.forgets_before(group) or model.encodes_many(group)


def _features(model: ServingModel, group: Group) -> NDArray[np.float64] | None:
    """Return the features of a group, for a thread.

    Raises:
        RowNotApplied: They could not be computed.
    """
    try:
        return model.features(group)
    except Exception as error:  # own encoders raise anything
        raise RowNotApplied(group.rows[0].position, error) from error
