"""The applier of one bandit: it applies committed log rows to the served model, in log order.

A reward becomes such a row, and so does whatever else changes the model. Nothing else moves a
served model. `apply` receives each committed row from the writer's callback on the event loop. A
row that needs long work (a factorisation when forgetting, a slow encoder's features) waits until a
thread has done that work, and later rows wait behind it; selects do not. During a swap the applier
also records the rows that the coming model still lacks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.rows import LearnRow, LogRow
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import Snapshot

log = logging.getLogger(__name__)
ENCODED_AT_ONCE = 16


class Applier:
    """Applies log rows to a model.

    Args:
        name: The bandit's name, for the log.
        model: The served model.
        load_import: Loads an imported snapshot by its version.

    Attributes:
        model: The model that is served now.
        load_import: As given.
    """

    def __init__(
        self,
        name: str,
        model: ServingModel,
        load_import: Callable[[SnapshotVersion], Snapshot],
    ) -> None:
        self._name = name
        self.model = model
        self.load_import = load_import
        self._due_since: float | None = None
        self._waiting_since = 0.0
        self._tail: list[LogRow] | None = None
        self._waiting: dict[LogPosition, tuple[LogRow, asyncio.Future[None]]] = {}  # in log order
        self._catching_up: asyncio.Task[None] | None = None
        self._running = asyncio.Event()
        self._running.set()

    # -- applying rows ------------------------------------------------------------------------

    def apply(self, row: LogRow) -> None:
        """Apply the next committed row, at once or behind long work (see `applied`)."""
        if self._waiting or not self._running.is_set() or self._is_long(row):
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting[row.position] = row, asyncio.get_running_loop().create_future()
            if self._catching_up is None:
                self._catching_up = asyncio.create_task(self._catch_up())
        else:
            self._apply(row)

    async def applied(self, position: LogPosition) -> None:
        """Return once the row at `position`, which `apply` received, is applied."""
        waiting = self._waiting.get(position)
        if waiting is not None:
            await waiting[1]

    async def _catch_up(self) -> None:
        """Apply the waiting rows; long work runs on a thread, while selects go on.

        No other row is applied meanwhile, so the thread reads a posterior that does not move. A row
        that fails is tried again when the next one arrives; it is committed, so its caller is
        answered.
        """
        loop = asyncio.get_running_loop()
        encoded: dict[LogPosition, NDArray[np.float64]] = {}
        encoded_by: ServingModel | None = None
        try:
            while self._waiting:
                await self._running.wait()
                row, done = next(iter(self._waiting.values()))
                model = self.model
                if encoded_by is not model:
                    encoded, encoded_by = {}, model
                if self._is_slow(row) and row.position not in encoded:
                    rows = self._next_learn_rows()
                    features = await loop.run_in_executor(None, model.features, rows)
                    if not self._still_served(model):
                        continue
                    encoded = {
                        each.position: features[index : index + 1]
                        for index, each in enumerate(rows)
                    }
                share = model.share_before(row)
                if share < 1.0:  # last, so that forgetting and the row are applied in one step
                    posterior = await loop.run_in_executor(None, model.policy.forgotten, share)
                    if not self._still_served(model):  # swapped: its successor forgets as well
                        continue
                    model.forget_before(row, posterior)
                self._apply(row, encoded.pop(row.position, None))
                del self._waiting[row.position]
                self._waiting_since = time.monotonic()
                _release(done)
                await asyncio.sleep(0)  # however many rows wait, selects run in between
        except Exception:  # the top of this task: the waiting callers did nothing wrong
            log.exception("bandit %s: %d rows wait", self._name, len(self._waiting))
        finally:
            self._catching_up = None
            for _, done in self._waiting.values():
                _release(done)

    def _still_served(self, model: ServingModel) -> bool:
        """Whether rows still go to `model`, after a wait."""
        return model is self.model and self._running.is_set()

    def _is_long(self, row: LogRow) -> bool:
        return self.model.share_before(row) < 1.0 or self._is_slow(row)

    def _is_slow(self, row: LogRow) -> bool:
        return isinstance(row, LearnRow) and self.model.slow_encoder is not None

    def _next_learn_rows(self) -> list[LearnRow]:
        """Return the learn rows that wait before any other row; only others change features."""
        rows: list[LearnRow] = []
        for row, _ in self._waiting.values():
            if not isinstance(row, LearnRow) or len(rows) == ENCODED_AT_ONCE:
                break
            rows.append(row)
        return rows

    def _apply(self, row: LogRow, z_1D: NDArray[np.float64] | None = None) -> None:
        self.model.apply(row, self.load_import, z_1D)
        if self._tail is not None:  # for the model that is being loaded
            self._tail.append(row)

    @property
    def rows_waiting(self) -> int:
        """Number of committed rows that wait to be applied."""
        return len(self._waiting)

    def rows_wait_s(self, now: float) -> float:
        """Return for how many seconds no waiting row was applied; 0 when none waits."""
        return now - self._waiting_since if self._waiting else 0.0

    # -- swapping -----------------------------------------------------------------------------

    def start_tail(self) -> None:
        """Record the rows applied from now on; all rows before them are in the store."""
        assert self._tail is None, "one model at a time is being loaded"
        self._tail = []

    def tail_after(self, model: ServingModel) -> list[LogRow]:
        """Return the recorded rows that `model` has not applied yet."""
        assert self._tail is not None
        return [row for row in self._tail if row.position > model.position]

    def hold(self) -> None:
        """Make rows wait until `swap`, so that the tail ends here; selects go on."""
        self._running.clear()

    def swap(self, model: ServingModel | None) -> None:
        """Serve `model` from now on (None: retain the served one), and stop recording the tail."""
        self._tail = None
        self._running.set()
        if model is not None:
            assert model.position == self.model.position
            self.model.frozen = True
            self.model = model
            self._due_since = None

    # -- training -----------------------------------------------------------------------------

    def round_due(self) -> bool:
        """Whether a training round is due; each call also notes since when."""
        due = self.model.round_due()
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


def _release(done: asyncio.Future[None]) -> None:
    if not done.done():  # the caller may have gone away
        done.set_result(None)
