"""One bandit at run time: its serving model, and rows that a coming model still has to apply.

Lives on the event loop. `apply` is called with committed rows in log order and by nobody else. A
row that needs long work (a factorisation, to forget; a slow encoder's features) waits for a thread
to do it, and later rows wait behind it; selects do not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, LogPosition, SnapshotVersion
from bandexa_core.log.rows import LearnRow, LogRow
from bandexa_core.model import ServingModel
from bandexa_core.policies import Candidates
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from service.observe.counters import Vitals
from service.serving.errors import UnknownAction
from service.serving.inputs import conform
from service.store.errors import InvalidRequest
from service.store.records import BanditRecord

log = logging.getLogger(__name__)
ENCODED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class InlineCandidates:
    """Candidates that bring their own features; `features` as it was sent, K rows."""

    ids: tuple[ActionId, ...]
    features: Any


CandidateInput = Sequence[ActionId] | InlineCandidates | None


@dataclass(frozen=True, slots=True)
class Offer:
    """The candidates of one request: resolved, and by name (None: all enabled actions)."""

    candidates: Candidates
    ids: Sequence[ActionId] | None


class Bandit:
    """A live bandit."""

    def __init__(self, record: BanditRecord, model: ServingModel, snapshots: SnapshotStore) -> None:
        self.record = record
        self.model = model
        self.snapshots = snapshots
        self.imported: dict[SnapshotVersion, Snapshot] = {}
        self.vitals = Vitals()
        self._due_since: float | None = None
        self._waiting_since = 0.0
        self._tail: list[LogRow] | None = None
        self._waiting: dict[LogPosition, tuple[LogRow, asyncio.Future[None]]] = {}  # in log order
        self._caught_up: asyncio.Task[None] | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    def apply(self, row: LogRow) -> None:
        """Apply the next committed row, at once or behind long work (see `applied`)."""
        if self._waiting or not self._flowing.is_set() or self._is_long(row):
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting[row.position] = row, asyncio.get_running_loop().create_future()
            if self._caught_up is None:
                self._caught_up = asyncio.create_task(self._catch_up())
        else:
            self._apply(row)

    async def applied(self, position: LogPosition) -> None:
        """Return once the row at `position`, which `apply` was given, is applied."""
        waiting = self._waiting.get(position)
        if waiting is not None:
            await waiting[1]

    async def _catch_up(self) -> None:
        """Apply the rows that wait; the long work on a thread, while selects go on.

        Learning stops meanwhile, so the thread reads a posterior that nobody moves. A row that
        fails is tried again when the next one comes; it is committed, so its caller is answered.
        """
        loop = asyncio.get_running_loop()
        encoded: dict[LogPosition, NDArray[np.float64]] = {}
        encoded_by: ServingModel | None = None
        try:
            while self._waiting:
                await self._flowing.wait()
                row, done = next(iter(self._waiting.values()))
                model = self.model
                if encoded_by is not model:
                    encoded, encoded_by = {}, model
                if self._is_slow(row) and row.position not in encoded:
                    rows = self._next_learn_rows()
                    features = await loop.run_in_executor(None, model.features, rows)
                    if not self._learns(model):
                        continue
                    encoded = {
                        each.position: features[index : index + 1]
                        for index, each in enumerate(rows)
                    }
                share = model.share_before(row)
                if share < 1.0:  # last: what is forgotten and the row are applied in one step
                    posterior = await loop.run_in_executor(None, model.policy.forgotten, share)
                    if not self._learns(model):  # swapped: its successor forgets, too
                        continue
                    model.forget_before(row, posterior)
                self._apply(row, encoded.pop(row.position, None))
                del self._waiting[row.position]
                self._waiting_since = time.monotonic()
                _release(done)
                await asyncio.sleep(0)  # however many rows wait, selects come in between
        except Exception:  # the top of this task: whoever waits for it did nothing wrong
            log.exception("bandit %s: %d rows wait", self.record.name, len(self._waiting))
        finally:
            self._caught_up = None
            for _, done in self._waiting.values():
                _release(done)

    def _learns(self, model: ServingModel) -> bool:
        """Whether rows still go to `model`, after a wait."""
        return model is self.model and self._flowing.is_set()

    def _is_long(self, row: LogRow) -> bool:
        return self.model.share_before(row) < 1.0 or self._is_slow(row)

    def _is_slow(self, row: LogRow) -> bool:
        return isinstance(row, LearnRow) and self.model.slow_encoder is not None

    def _next_learn_rows(self) -> list[LearnRow]:
        """Return the learn rows that wait before anything else; no other row changes features."""
        rows: list[LearnRow] = []
        for row, _ in self._waiting.values():
            if not isinstance(row, LearnRow) or len(rows) == ENCODED_AT_ONCE:
                break
            rows.append(row)
        return rows

    def _apply(self, row: LogRow, z_1D: NDArray[np.float64] | None = None) -> None:
        self.model.apply(row, self.load_import, z_1D)
        if self._tail is not None:  # for a model that is being loaded
            self._tail.append(row)

    def load_import(self, version: SnapshotVersion) -> Snapshot:
        """Return an imported snapshot: from memory while it is being imported, else from disk."""
        return self.imported.get(version) or self.snapshots.load(version)

    # -- swapping -----------------------------------------------------------------------------

    def start_tail(self) -> None:
        """Keep the rows applied from now on; everything before them is in the store."""
        assert self._tail is None, "one model at a time is being loaded"
        self._tail = []

    def tail_after(self, model: ServingModel) -> list[LogRow]:
        """Return the kept rows that `model` has not applied yet."""
        assert self._tail is not None
        return [row for row in self._tail if row.position > model.position]

    def hold(self) -> None:
        """Have rows wait until `swap`: the tail ends here. Selects go on."""
        self._flowing.clear()

    def swap(self, model: ServingModel | None) -> None:
        """Serve `model` from now on (None: it was refused), and stop keeping rows."""
        self._tail = None
        self._flowing.set()
        if model is not None:
            assert model.position == self.model.position
            self.model.frozen = True
            self.model = model
            self._due_since = None

    # -- how it does --------------------------------------------------------------------------

    @property
    def rows_waiting(self) -> int:
        """How many committed rows wait to be applied."""
        return len(self._waiting)

    def rows_wait_s(self, now: float) -> float:
        """Return for how long none of the rows that wait was applied; 0: none waits."""
        return now - self._waiting_since if self._waiting else 0.0

    def round_due(self) -> bool:
        """Whether a round is due; asked whenever a value was learned, it knows since when."""
        due = self.model.round_due()
        if not due:
            self._due_since = None
        elif self._due_since is None:
            self._due_since = time.monotonic()
        return due

    def due_s(self, now: float) -> float:
        """Return for how long a round has been due; 0: none is."""
        if not self.round_due() or self._due_since is None:
            return 0.0
        return now - self._due_since

    # -- requests -----------------------------------------------------------------------------

    def context(self, value: Any) -> NDArray[Any]:
        """Return a request's context as this bandit's contexts are."""
        spec = self.record.spec.context
        return conform(value, spec.shape, spec.dtype, "context")

    def features(self, value: Any, num: int, field: str) -> NDArray[np.float32]:
        """Return action features (num, A) of a request."""
        return conform(value, (num, self.record.spec.action_dim), "float32", field)

    def offer(self, given: CandidateInput) -> Offer:
        """Resolve a request's candidates.

        Raises:
            UnknownAction: An id is not in the catalogue.
            InvalidRequest: There are none, one is retired, or features do not fit.
        """
        model = self.model
        if given is None:
            candidates = model.enabled_candidates()
            if not len(candidates):
                raise InvalidRequest("candidates", "the bandit has no enabled action to offer")
            return Offer(candidates, None)
        if isinstance(given, InlineCandidates):
            features = self.features(given.features, len(given.ids), "candidates")
            return Offer(model.inline_candidates(given.ids, features), given.ids)
        try:
            candidates = model.candidates(given)
        except KeyError as error:
            raise UnknownAction(error.args[0], "candidates") from error
        enabled = model.catalogue.enabled[candidates.slots]
        if not enabled.all():
            retired = given[int(np.argmin(enabled))]
            raise InvalidRequest("candidates", f"action {retired!r} is retired")
        return Offer(candidates, given)


def _release(done: asyncio.Future[None]) -> None:
    if not done.done():  # the caller may have gone away
        done.set_result(None)
