"""Answer selects: check the context, encode it, draw, store, answer.

Runs on the event loop; slow encoders and late propensities run on separate threads. A decision
is answered once it is stored; a decision that was not stored never happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, DecisionId
from bandexa_core.model import MANY_OBJECTS
from bandexa_core.policies import EncodedContext, LinearHead
from service.observe import spans
from service.observe.counters import Metrics
from service.observe.logs import DECISIONS, about
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.serving.errors import EncoderBusy, UnknownAction
from service.serving.observed import named_inputs
from service.serving.recent import RecentDecisions
from service.serving.select.batcher import DecisionBatcher
from service.serving.select.commands import (
    CandidateInput,
    Decision,
    EncodedActions,
    InlineCandidates,
    Scores,
    SelectCommand,
    listed_ids,
)
from service.serving.select.decide import Drawn, Pending
from service.serving.select.encoder_queue import EncoderQueue
from service.settings import Settings
from service.store.errors import Conflict, InvalidRequest, ServiceError, Unavailable
from service.store.identity import is_server_form
from service.store.protocol import EventStore
from service.store.reading import LogReader
from service.store.records import DecisionRecord, StoredAnswer

log = logging.getLogger(__name__)
AT_ONCE = 50  # items of a batch that are prepared, or answered, before other requests go on


class Selecting:
    """Answers selects.

    Args:
        settings: How slow encoders are run.
        metrics: Counts.
        bandit: Returns the live bandit of a name; raises UnknownBandit where there is none.
        store: Stores decisions.
        commit: Waits for commits.
        reader: Finds stored decisions.
        batcher: Draws decisions.
        recent: Receives the new decisions under callers' ids.
        panels: One thread that computes late propensities; ends after the store.
        encoders: One thread that runs slow encoders; likewise.
        actions: One thread that encodes many inline candidates; likewise.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        bandit: Callable[[str], Bandit],
        store: EventStore,
        commit: Committer,
        reader: LogReader,
        batcher: DecisionBatcher,
        recent: RecentDecisions,
        panels: Executor,
        encoders: Executor,
        actions: Executor,
    ) -> None:
        self._metrics = metrics
        self._bandit = bandit
        self._store = store
        self._commit = commit
        self._reader = reader
        self._batcher = batcher
        self._recent = recent
        self._panels = panels
        self._actions = actions
        self._encoder_queue = EncoderQueue(
            encoders,
            max_batch=settings.encode_batch,
            wait_s=settings.encode_wait_ms / 1000.0,
            max_waiting=settings.encode_queue,
        )
        self._late: set[asyncio.Future[float]] = set()

    async def finish(self) -> None:
        """Wait for the propensities that are still being computed; before the store closes."""
        if self._late:
            await asyncio.wait(self._late)

    @property
    def encode_queue(self) -> int:
        """Number of contexts that wait for a slow encoder."""
        return self._encoder_queue.waiting

    async def select(self, command: SelectCommand, *, patient: bool = False) -> Decision:
        """Choose, store the decision, answer; `patient`: see `EncoderQueue.encode`.

        Raises:
            UnknownBandit, UnknownAction, InvalidRequest: The request; nothing was stored.
            Conflict: The decision id was used with another body.
            Unavailable: Too many selects wait for a slow encoder.
        """
        started = time.perf_counter()
        bandit = self._asked(command)
        try:
            context = bandit.context(command.context)
            ready: NDArray[Any] | EncodedContext = context
            if _brings_many(command.candidates):
                with self._batcher.announced(command.decision_id):
                    offered = await self._encoded(bandit, command.candidates)
                command = replace(command, candidates=offered)
            if bandit.model.slow_encoder is not None:
                with self._batcher.announced(command.decision_id):
                    ready = await self._ready(bandit, context, command.candidates, patient=patient)
            encoded = time.perf_counter()
            pending = Pending(bandit, command, context, ready)
            drawn, earlier = await self._batcher.decide(pending)
        except (InvalidRequest, UnknownAction, Unavailable) as error:
            return await self._stands(command, error)
        answer = self._stored(pending, drawn, earlier)
        waited_s = time.perf_counter() - encoded
        self._timed(command, answer, encoded - started, drawn, waited_s)
        return answer

    async def select_all(self, commands: Sequence[SelectCommand]) -> list[Decision | ServiceError]:
        """Answer the selects of a batch; each succeeds or fails on its own, as by `select`.

        They are waited for together, but for those whose contexts or candidates are encoded off the
        event loop.
        """
        started = time.perf_counter()
        found: list[Decision | ServiceError | None] = [None] * len(commands)
        alone: dict[int, asyncio.Task[Decision]] = {}
        places: list[int] = []
        plain: list[Pending] = []
        for place, command in enumerate(commands):
            if place and place % AT_ONCE == 0:
                await asyncio.sleep(0)
            ready = await self._plain(command)
            if isinstance(ready, Pending):
                places.append(place)
                plain.append(ready)
            elif ready is None:
                alone[place] = asyncio.create_task(self.select(command, patient=True))
            else:
                found[place] = ready
        encode_s = (time.perf_counter() - started) / max(1, len(commands))
        drawn_from = time.perf_counter()
        outcomes = await self._batcher.decide_all(plain) if plain else []
        waited_s = time.perf_counter() - drawn_from
        for number, (place, pending, outcome) in enumerate(
            zip(places, plain, outcomes, strict=True)
        ):
            if number and number % AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                if isinstance(outcome, Exception):
                    found[place] = await self._failed(pending.command, outcome)
                    continue
                found[place] = answer = self._stored(pending, *outcome)
            except ServiceError as error:
                found[place] = error
                continue
            self._timed(pending.command, answer, encode_s, outcome[0], waited_s)
        for place, result in zip(
            alone, await asyncio.gather(*alone.values(), return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException) and not isinstance(result, ServiceError):
                raise result
            found[place] = result
        about(None)
        return [each for each in found if each is not None]  # of all

    async def _plain(self, command: SelectCommand) -> Pending | Decision | ServiceError | None:
        """Return a select of a batch that is ready to be drawn, or what answers it already.

        None: something of it is to be encoded off the event loop.
        """
        try:
            bandit = self._asked(command)
        except ServiceError as error:
            return error
        try:
            if _brings_many(command.candidates) or bandit.model.slow_encoder is not None:
                return None
            context = bandit.context(command.context)
        except ServiceError as error:
            return await self._failed(command, error)
        return Pending(bandit, command, context, context)

    def _timed(
        self,
        command: SelectCommand,
        answer: Decision,
        encode_s: float,
        drawn: Drawn,
        waited_s: float,
    ) -> None:
        """Note where the time of an answered select went.

        Args:
            command: What was asked for.
            answer: Its answer.
            encode_s: Seconds of everything before it was given to the batcher.
            drawn: What the batcher drew.
            waited_s: Seconds from then until it was stored.
        """
        encode_s += drawn.encode_s
        commit_s = waited_s - drawn.encode_s - drawn.draw_s
        self._metrics.stages.observe(command.decode_s, encode_s, drawn.draw_s, commit_s)
        if spans.active is not None:
            stages = {
                "decode": command.decode_s, "encode": encode_s, "draw": drawn.draw_s,
                "commit": commit_s,
            }  # fmt: skip
            spans.active.ended("select", stages, _span_attributes(command.bandit, answer))

    def _asked(self, command: SelectCommand) -> Bandit:
        """Return the bandit of a select.

        Raises:
            UnknownBandit: There is none.
            InvalidRequest: The id of the decision cannot be a caller's.
        """
        if command.decision_id is not None:
            about(command.decision_id)
            if is_server_form(command.decision_id):
                raise InvalidRequest("decision_id", "has the form of the ids that servers make")
        return self._bandit(command.bandit)

    async def _failed(self, command: SelectCommand, error: Exception) -> Decision | ServiceError:
        """Return what answers a select of a batch that failed; raises what no request explains."""
        if isinstance(error, InvalidRequest | UnknownAction | Unavailable):
            try:
                return await self._stands(command, error)
            except ServiceError as second:
                return second
        if isinstance(error, ServiceError):
            return error
        raise error

    async def _stands(self, command: SelectCommand, error: ServiceError) -> Decision:
        """Return the answer of a repeated select that fails now: it still stands.

        The actions that it named may be retired, for example. What can be read may not be durable
        yet, so that this waits until it is. It reads again then: a database that has ended
        meanwhile may have lost it.

        Raises:
            ServiceError: It is no repeated one; or it is, of another request; or the store takes
                no writes, so that nobody knows whether what can be read stays.
        """
        own_id = command.decision_id
        in_doubt = isinstance(error, Unavailable) and not isinstance(error, EncoderBusy)
        if own_id is None or in_doubt or self._reader.answer(own_id) is None:
            raise error
        await self._commit(self._store.confirm)
        earlier = self._reader.answer(own_id)
        if earlier is None:
            raise error
        return _repeated(own_id, command.body_hash, earlier)

    def _stored(self, pending: Pending, drawn: Drawn, earlier: StoredAnswer | None) -> Decision:
        """Return the answer of a select whose decision is stored, and count it.

        Raises:
            Conflict: Its id has a decision for another request.
        """
        bandit, command, record = pending.bandit, pending.command, drawn.record
        about(record.decision_id)
        if earlier is None:
            answer = Decision.of(record)
            if command.decision_id is not None:
                known = bandit.configurations
                changed = known.rules(record.position) if known.rules_changed else None
                self._recent.made(record, bandit.record, changed)
            bandit.vitals.decided(
                record.time, [chosen.id for chosen in record.chosen], record.propensity,
                choice=drawn.several, activated=record.activated,
            )  # fmt: skip
            if bandit.has_objects:
                named = named_inputs(bandit.model.policy)
                bandit.inputs.selected(named, record.context, record.chosen[0].features)
            if drawn.late_propensity is not None:
                self._fill_in(record, drawn.late_propensity)
            if DECISIONS.isEnabledFor(logging.DEBUG):
                DECISIONS.debug("decision", extra=_log_fields(command.bandit, answer))
        else:
            answer = _repeated(record.decision_id, record.body_hash, earlier)
        bandit.vitals.selects += 1
        return answer

    def _fill_in(self, record: DecisionRecord, compute: Callable[[], float]) -> None:
        """Compute a propensity on a thread after the answer, and add it to the decision."""

        def stored(_: None, error: Exception | None) -> None:
            if error is not None:
                fields = {"decision_id": record.decision_id}
                log.warning("a propensity could not be stored: %s", error, extra=fields)

        def computed(future: asyncio.Future[float]) -> None:
            self._late.discard(future)
            if not future.cancelled():
                self._store.append_propensity(record.key, future.result(), stored)

        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._panels, compute)
        self._late.add(future)
        future.add_done_callback(computed)

    async def _ready(
        self,
        bandit: Bandit,
        context: NDArray[Any],
        candidates: CandidateInput,
        *,
        patient: bool = False,
    ) -> NDArray[Any] | EncodedContext:
        """Return a context as the served model takes it: encoded, where encoding takes long."""
        while (encoder := bandit.model.slow_encoder) is not None:
            bandit.offer(candidates)  # refuses bad candidates before anything is encoded
            try:
                part = await self._encoder_queue.encode(bandit, context, patient=patient)
            except ValueError as error:
                raise InvalidRequest.from_value_error(error, "context") from error
            if bandit.model.slow_encoder is encoder:  # else a swap came in between
                return part
        return context

    async def _encoded(self, bandit: Bandit, candidates: CandidateInput) -> CandidateInput:
        """Return inline candidates as the served encoder takes them, encoded off the event loop."""
        policy = bandit.model.policy
        if not isinstance(candidates, InlineCandidates) or not isinstance(policy, LinearHead):
            return candidates
        features = bandit.features(candidates.features, len(candidates.ids), "candidates")
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._actions, EncodedActions.of, policy, features)
        return dataclasses.replace(candidates, encoded=done)

    def num_candidates(self, command: SelectCommand) -> int:
        """Return how many candidates a select has, at most.

        Raises:
            UnknownBandit: There is no such bandit any more.
        """
        given = command.candidates
        if given is None:
            return len(self._bandit(command.bandit).model.catalogue)
        return len(given.ids if isinstance(given, InlineCandidates) else given)

    def chances(
        self, command: SelectCommand, decision: Decision
    ) -> list[tuple[ActionId, int, float]]:
        """Return each candidate of a decision that has propensities: its id, place and chance, K.

        A place is that in the list of the request, else a slot of the catalogue.
        """
        found = decision.propensities
        assert found is not None, "it has them"
        indexes, values = found.indexes.tolist(), found.values.tolist()
        listed = listed_ids(command)
        if listed is None:  # a slot has its action for ever
            names = self._bandit(command.bandit).model.catalogue.ids
            return [(names[i], i, chance) for i, chance in zip(indexes, values, strict=True)]
        retrieved = command.retrieve is not None
        offered = listed if retrieved else decision.candidates or listed
        places = {name: place for place, name in enumerate(listed)}
        return [
            (offered[i], places[offered[i]], chance)
            for i, chance in zip(indexes, values, strict=True)
        ]

    async def score(self, name: str, context: Any, candidates: CandidateInput) -> Scores:
        """Return the served model's expectation of the candidates; stores nothing.

        Raises:
            UnknownBandit, UnknownAction, InvalidRequest: The request.
            Unavailable: Too many contexts wait for a slow encoder.
        """
        bandit = self._bandit(name)
        array = bandit.context(context)
        if _brings_many(candidates):
            candidates = await self._encoded(bandit, candidates)
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


@asynccontextmanager
async def finished(selecting: Selecting) -> AsyncIterator[None]:
    """Wait for late propensities at the exit."""
    try:
        yield
    finally:
        await selecting.finish()


def _brings_many(candidates: CandidateInput) -> bool:
    """Whether candidates are so many objects that encoding them is not for the event loop."""
    return (
        isinstance(candidates, InlineCandidates)
        and candidates.objects
        and len(candidates.ids) > MANY_OBJECTS
    )


def _repeated(decision_id: DecisionId, body_hash: bytes | None, earlier: StoredAnswer) -> Decision:
    """Answer a select whose id has a decision already."""
    if earlier.body_hash is None or earlier.body_hash != body_hash:
        raise Conflict(f"decision {decision_id!r} was made for another request")
    return Decision(
        decision_id, earlier.chosen, earlier.propensity, earlier.snapshot, earlier.position,
        earlier.propensities, earlier.arm, earlier.candidates,
    )  # fmt: skip


def _span_attributes(bandit: str, decision: Decision) -> dict[str, Any]:
    return {
        "bandexa.bandit": bandit,
        "bandexa.decision_id": decision.decision_id,
        "bandexa.snapshot": decision.snapshot,
        "bandexa.position": decision.position,
        "bandexa.arm": decision.arm or "",
    }


def _log_fields(bandit: str, decision: Decision) -> dict[str, Any]:
    return {
        "bandit": bandit,
        "action": [chosen.id for chosen in decision.chosen],
        "arm": decision.arm,
        "propensity": decision.propensity,
        "snapshot": decision.snapshot,
        "position": decision.position,
    }
