"""Multi-slot Rank, Reward and Activate: an action for each of several slots.

Each slot is a decision of its own, in the order of the slots: its context is that of the request
with the features of the slot, its candidates are the actions that no earlier slot has and that it
does not exclude, and its propensity is the probability given the earlier ones. So the probability
of the whole list is the product, and each slot has its own reward, window and default.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256

import msgspec
from msgspec.structs import replace

from bandexa_core.ids import DecisionId
from bandexa_core.schema.namespaces import SLOT, SLOT_FEATURES
from service.http.codec import body_hash
from service.http.personalizer import events, ids
from service.http.personalizer.bodies import (
    MultiSlotRankAnswer,
    MultiSlotRankRequest,
    Slot,
    SlotAnswer,
    SlotReward,
)
from service.http.personalizer.errors import Refused
from service.http.personalizer.features import EVENT, SLOTS, united
from service.http.personalizer.filling import can_be_filled, fillable
from service.http.personalizer.loops import Loop
from service.http.personalizer.rank import check_actions, inline
from service.serving.engine import Engine
from service.serving.select.commands import InlineCandidates, SelectCommand, place_of
from service.store.errors import Conflict, InvalidRequest
from service.store.objects import row_identity
from service.store.records import RewardReport

_MARK = 12  # digits that identify the slots of an event


@dataclass(frozen=True, slots=True)
class SlotsCommand:
    """A decoded multi-slot Rank.

    Attributes:
        body: The request.
        event: The event's id, the caller's or a new one.
        actions: The candidates of the whole request.
        allowed: The places among them that each slot may take.
        selects: What the engine is asked for each slot; the candidates follow from earlier ones.
    """

    body: MultiSlotRankRequest
    event: str
    actions: InlineCandidates
    allowed: list[frozenset[int]]
    selects: list[SelectCommand]


def slots_command(
    loop: Loop, body: MultiSlotRankRequest, raw: bytes, request_id: str | None, arrived: float
) -> SlotsCommand:
    """Return what a multi-slot Rank asks for; see `rank.rank_command`.

    Raises:
        InvalidRequest: The request; names the field.
    """
    actions = check_actions(body.actions, frozenset())
    allowed = _allowed(body, [each.id for each in actions])
    event = body.event_id
    if event is None:
        event = ids.new_event() if request_id is None else ids.event_of(loop.name, request_id, raw)
    candidates = inline(loop, actions)
    shared = united(body.context_features or (), "contextFeatures")
    contexts = []
    for number, slot in enumerate(body.slots):
        own = united(slot.features or (), f"slots.{number}.features", SLOT_FEATURES)
        context = shared | own | {SLOT: slot.id}
        if ids.is_digest(decision_of(loop.name, event, number)):
            context[EVENT] = event
        if number == 0:
            context[SLOTS] = [_mark(each.id) for each in body.slots]
        contexts.append(loop.contexts.row(context, f"slots.{number}"))
    whole = {
        "contexts": [row_identity(row) for row in contexts],
        "actions": [
            {"id": each, "features": row_identity(features)}
            for each, features in zip(candidates.ids, candidates.features, strict=True)
        ],
        "slots": [json.dumps(sorted(each)) for each in allowed],
        "activate": not body.defer_activation,
    }
    activate = not body.defer_activation and loop.mode != "LoggingOnly"
    spent = time.perf_counter() - arrived
    baselines = [ids.action_of(slot.baseline_action) for slot in body.slots]
    selects = [
        SelectCommand(
            bandit=loop.name, context=row, candidates=None, retrieve=None,
            decision_id=decision_of(loop.name, event, number), num=1, activate=activate,
            body_hash=body_hash(whole | {"slot": number}), decode_s=spent, all_propensities=True,
            served=baseline,
        )
        for number, (row, baseline) in enumerate(zip(contexts, baselines, strict=True))
    ]  # fmt: skip
    return SlotsCommand(body, event, candidates, allowed, selects)


def _allowed(body: MultiSlotRankRequest, names: list[str]) -> list[frozenset[int]]:
    """Return the places of the actions that each slot may take.

    Raises:
        InvalidRequest: The slots contradict the actions, or each other.
    """
    slots, places = body.slots, {name: place for place, name in enumerate(names)}
    if len(slots) > len(names):
        raise InvalidRequest("slots", "there are more slots than actions")
    if len({slot.id for slot in slots}) < len(slots):
        raise InvalidRequest("slots", "two slots have the same id")
    if len({slot.baseline_action for slot in slots}) < len(slots):
        raise InvalidRequest("slots", "two slots have the same baselineAction")
    return [_places(slot, number, places) for number, slot in enumerate(slots)]


def _places(slot: Slot, number: int, places: dict[str, int]) -> frozenset[int]:
    excluded = slot.excluded_actions or ()
    for each in excluded:
        if each not in places:
            raise InvalidRequest(f"slots.{number}.excludedActions", "is none of the actions")
    if slot.baseline_action not in places:
        raise InvalidRequest(f"slots.{number}.baselineAction", "is none of the actions")
    if slot.baseline_action in excluded:
        raise InvalidRequest(f"slots.{number}.baselineAction", "is excluded in its slot")
    return frozenset(places.values()) - {places[each] for each in excluded}


async def rank_slots(engine: Engine, command: SlotsCommand) -> tuple[bytes, list[SelectCommand]]:
    """Decide slot by slot; returns the body of the answer, and what was asked for each slot.

    A crash in between leaves the decisions so far: the repeated request finds them.

    Raises:
        Refused: The event is that of another Rank.
        InvalidRequest: Too few actions are within their dates; nothing was stored.
    """
    body, taken = command.body, frozenset[int]()
    allowed = _offered_now(engine, command)
    slots, asked = [], []
    for number, slot in enumerate(body.slots):
        offered = fillable(number, allowed, taken)
        candidates = InlineCandidates(
            tuple(command.actions.ids[each] for each in offered),
            command.actions.features[offered], objects=True,
        )  # fmt: skip
        select = replace(command.selects[number], candidates=candidates)
        try:
            decision = await engine.selecting.select(select)
        except Conflict:
            message = f"eventId: {command.event!r} is the event of another Rank"
            raise Refused("InvalidRankRequest", message, 409) from None
        chosen = offered[place_of(select, decision.chosen[0])]
        taken |= {chosen}
        slots.append(SlotAnswer(id=slot.id, reward_action_id=body.actions[chosen].id))
        asked.append(select)
    answer = MultiSlotRankAnswer(slots=slots, event_id=command.event)
    return msgspec.json.encode(answer), asked


def _offered_now(engine: Engine, command: SlotsCommand) -> list[frozenset[int]]:
    """Return which actions each slot may take now: none outside its dates.

    All slots of an event that has an answer may take what they could, and are answered as before.

    Raises:
        InvalidRequest: Not all slots can be filled.
    """
    first = command.selects[0]
    limits = engine.bandit(first.bandit).model.limits
    absent = limits.absent(time.time()) if limits.has_dates else frozenset()
    gone = {place for place, name in enumerate(command.actions.ids) if name in absent}
    assert first.decision_id is not None, "each has an id"
    if not gone or engine.reader.answer(first.decision_id) is not None:
        return command.allowed
    allowed = [each - gone for each in command.allowed]
    if not can_be_filled(allowed):
        raise InvalidRequest("slots", "cannot all be filled: actions are outside their dates")
    return allowed


# -- what became of them ------------------------------------------------------------------------


async def reward_slots(
    engine: Engine, name: str, event: str, rewards: list[SlotReward], request_id: str | None
) -> list[RewardReport]:
    """Report how slots went; returns what was reported of those that are known.

    Raises:
        InvalidRequest: A reward cannot be taken.
    """
    marks = await _marks(engine, name, event)
    reports, times = [], Counter[str]()
    for each in rewards:
        mark = _mark(each.slot_id)
        if mark not in marks:
            engine.metrics.unknown_events.inc()
            continue
        decision = decision_of(name, event, marks.index(mark))
        times[mark] += 1  # another reward of the same slot is not a try of the first one
        own = None if request_id is None else f"{request_id}{'+' * (times[mark] - 1)}"
        reports.append(events.report_of(engine, name, decision, each.value, own))
    for report in reports:  # none is stored where another one is refused
        await events.check(engine, report)
    for report in reports:
        await events.reward(engine, report)
    return reports


async def activate_slots(engine: Engine, name: str, event: str) -> None:
    """Have all slots of a deferred event count."""
    marks = await _marks(engine, name, event)
    if not marks:
        engine.metrics.unknown_events.inc()
    for number in range(len(marks)):
        await events.activate(engine, decision_of(name, event, number))


def decision_of(name: str, event: str, number: int) -> DecisionId:
    """Return the id of the decision of a slot, by its place."""
    return ids.decision_of(name, event, str(number))


async def _marks(engine: Engine, name: str, event: str) -> list[str]:
    """Return what the first slot's decision has of all slots; nothing of an unknown event."""
    record, decision = engine.bandit(name).record, decision_of(name, event, 0)

    def found() -> list[str]:
        with engine.store.history() as history:
            stored = history.decision(record, decision)
        if stored is None:
            return []
        context = msgspec.json.decode(stored.record.context.tobytes() or b"{}")
        marks = context.get(SLOTS) or []
        return [str(each) for each in marks]

    return await asyncio.get_running_loop().run_in_executor(None, found)


def _mark(slot: str) -> str:
    return sha256(slot.encode()).hexdigest()[:_MARK]
