"""Selects: a context made ready, a decision drawn and kept, its answer.

Runs on the event loop; slow encoders and late propensities run on threads of their own. A decision
is answered once it is kept; one that was not kept never happened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import DecisionId
from bandexa_core.policies import EncodedContext
from service.observe.counters import Metrics
from service.observe.logs import DECISIONS, about
from service.serving.bandit import Bandit, CandidateInput
from service.serving.errors import UnknownAction
from service.serving.select.batcher import DrawingDesk
from service.serving.select.decide import (
    Asked,
    Decision,
    Scores,
    SelectCommand,
    decision_of,
    repeated,
    told_of,
)
from service.serving.select.encoder_queue import ContextEncoder
from service.settings import Settings
from service.store.errors import InvalidRequest, Unavailable
from service.store.sqlite.reader import StoreReader
from service.store.sqlite.store import SqliteStore

log = logging.getLogger(__name__)


class Selecting:
    """Answers selects.

    Args:
        settings: How slow encoders are run.
        metrics: Counted into.
        bandit: Returns the live bandit of a name; UnknownBandit where there is none.
        store: Keeps decisions.
        reader: Finds those that are kept.
        drawing: Draws them.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        bandit: Callable[[str], Bandit],
        store: SqliteStore,
        reader: StoreReader,
        drawing: DrawingDesk,
    ) -> None:
        self._metrics = metrics
        self._bandit = bandit
        self._store = store
        self._reader = reader
        self._drawing = drawing
        self._panels = ThreadPoolExecutor(1, thread_name_prefix="panels")
        self._encoders = ThreadPoolExecutor(1, thread_name_prefix="encoders")
        self._encoding = ContextEncoder(
            self._encoders,
            max_batch=settings.encode_batch,
            wait_s=settings.encode_wait_ms / 1000.0,
            max_waiting=settings.encode_queue,
        )
        self._late: set[asyncio.Future[float]] = set()

    async def finish(self) -> None:
        """Wait for propensities that are still worked out; before the store is closed."""
        if self._late:
            await asyncio.wait(self._late)

    def close(self) -> None:
        """End the threads; after the store, which the last selects still wait for."""
        self._panels.shutdown()
        self._encoders.shutdown()

    @property
    def encode_queue(self) -> int:
        """How many contexts wait for a slow encoder."""
        return self._encoding.waiting

    async def select(self, command: SelectCommand, *, patient: bool = False) -> Decision:
        """Choose, keep the decision, answer; `patient`: see `ContextEncoder.encode`.

        Raises:
            UnknownBandit, UnknownAction, InvalidRequest: The request; nothing was kept.
            Conflict: The decision id was used with another body.
            Unavailable: Too many selects wait for a slow encoder.
        """
        started = time.perf_counter()
        if command.decision_id is not None:
            about(command.decision_id)
        bandit = self._bandit(command.bandit)
        try:
            context = bandit.context(command.context)
            ready = await self._ready(bandit, context, command.candidates, patient=patient)
            encoded = time.perf_counter()
            made, kept = await self._drawing.decided(Asked(bandit, command, context, ready))
        except (InvalidRequest, UnknownAction, Unavailable):
            # Its actions may have been retired since: the answer given then still stands.
            own_id = command.decision_id
            given = None if own_id is None else self._reader.answer(own_id)
            if own_id is None or given is None:
                raise
            return repeated(own_id, command.body_hash, given)
        record = made.record
        about(record.decision_id)
        if kept is None:
            answer = decision_of(record)
            bandit.vitals.decided(
                record.time, [chosen.id for chosen in record.chosen], record.propensity,
                choice=made.choice, activated=record.activated,
            )  # fmt: skip
            if made.late is not None:
                self._fill_in(record.decision_id, made.late)
            if DECISIONS.isEnabledFor(logging.DEBUG):
                DECISIONS.debug("decision", extra=told_of(command.bandit, answer))
        else:
            answer = repeated(record.decision_id, record.body_hash, kept)
        bandit.vitals.selects += 1
        self._metrics.stages.observe(
            command.decode_s,
            encoded - started + made.encode_s,
            made.draw_s,
            time.perf_counter() - encoded - made.encode_s - made.draw_s,
        )
        return answer

    def _fill_in(self, decision_id: DecisionId, late: Callable[[], float]) -> None:
        """Work out a propensity behind the answer, on a thread, and keep it with the decision."""

        def kept(_: None, error: Exception | None) -> None:
            if error is not None:
                its = {"decision_id": decision_id}
                log.warning("a propensity could not be kept: %s", error, extra=its)

        def keep(future: asyncio.Future[float]) -> None:
            self._late.discard(future)
            if not future.cancelled():
                self._store.append_propensity(decision_id, future.result(), kept)

        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._panels, late)
        self._late.add(future)
        future.add_done_callback(keep)

    async def _ready(
        self,
        bandit: Bandit,
        context: NDArray[Any],
        candidates: CandidateInput,
        *,
        patient: bool = False,
    ) -> NDArray[Any] | EncodedContext:
        """Return a context as the served model wants it: encoded, where that takes long."""
        while (encoder := bandit.model.slow_encoder) is not None:
            bandit.offer(candidates)  # what would be refused is, before anything is encoded
            try:
                part = await self._encoding.encode(bandit, context, patient=patient)
            except ValueError as error:
                raise InvalidRequest.from_value_error(error, "context") from error
            if bandit.model.slow_encoder is encoder:  # else swapped meanwhile
                return part
        return context

    async def score(self, name: str, context: Any, candidates: CandidateInput) -> Scores:
        """Return what the served model thinks of the candidates; keeps nothing."""
        bandit = self._bandit(name)
        array = bandit.context(context)
        ready = await self._ready(bandit, array, candidates)
        model, offer = bandit.model, bandit.offer(candidates)
        try:
            means, stds = model.policy.score(ready, offer.candidates)
        except ValueError as error:
            raise InvalidRequest.from_value_error(error, "candidates") from error
        ids = offer.ids
        slots = offer.candidates.slots
        if ids is None:
            ids = [model.catalogue.ids[slot] for slot in slots]
        indexes = slots if offer.ids is None else np.arange(len(slots))
        return Scores(tuple(ids), indexes, means, stds, model.version, model.position)
