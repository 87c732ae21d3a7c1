"""Rank: which of these actions for this context?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from bandexa_core.schema.namespaces import ACTION
from service.http.codec import body_hash
from service.http.personalizer import ids
from service.http.personalizer.bodies import Action, RankAnswer, Ranked, RankRequest
from service.http.personalizer.errors import Refused
from service.http.personalizer.features import EVENT, united
from service.http.personalizer.loops import Loop
from service.http.personalizer.ranking import ranked
from service.serving.engine import Engine
from service.serving.select.commands import InlineCandidates, SelectCommand, place_of
from service.store.errors import Conflict, InvalidRequest
from service.store.objects import row_identity


@dataclass(frozen=True, slots=True)
class RankCommand:
    """A decoded Rank: what the caller sent, and the select that answers it.

    Attributes:
        body: The request.
        event: The event's id, the caller's or a new one.
        excluded: The actions that must not be chosen.
        select: What the engine is asked for.
    """

    body: RankRequest
    event: str
    excluded: frozenset[str]
    select: SelectCommand


def rank_command(
    loop: Loop, body: RankRequest, raw: bytes, request_id: str | None, arrived: float
) -> RankCommand:
    """Return what a Rank asks for; decides nothing.

    Args:
        loop: Whom it asks.
        body: The request.
        raw: Its bytes.
        request_id: The client's id of the request, the same in every try; None without one.
        arrived: When its body was complete, by perf_counter.

    Raises:
        InvalidRequest: The request; names the field.
    """
    name = loop.name
    excluded = frozenset(body.excluded_actions or ())
    offered = check_actions(body.actions, excluded)
    event = body.event_id
    if event is None:
        event = ids.new_event() if request_id is None else ids.event_of(name, request_id, raw)
    decision = ids.decision_of(name, event)
    context = united(body.context_features or (), "contextFeatures")
    if ids.is_digest(decision):
        context[EVENT] = event
    candidates = inline(loop, offered)
    row = loop.contexts.row(context, "contextFeatures")
    parts = {
        "context": row_identity(row),
        "actions": [
            {"id": each, "features": row_identity(features)}
            for each, features in zip(candidates.ids, candidates.features, strict=True)
        ],
        "all": [each.id for each in body.actions],
        "activate": not body.defer_activation,
    }
    select = SelectCommand(
        bandit=name, context=row, candidates=candidates, retrieve=None, decision_id=decision,
        num=1, activate=not body.defer_activation and loop.mode != "LoggingOnly",
        body_hash=body_hash(parts), decode_s=time.perf_counter() - arrived, all_propensities=True,
        served=candidates.ids[0],
    )  # fmt: skip
    return RankCommand(body, event, excluded, select)


def check_actions(actions: list[Action], excluded: frozenset[str]) -> list[Action]:
    """Return the actions that may be chosen.

    Raises:
        InvalidRequest: Two have one id, or none may be chosen.
    """
    if len({each.id for each in actions}) < len(actions):
        raise InvalidRequest("actions", "two actions have the same id")
    offered = [each for each in actions if each.id not in excluded]
    if not offered:
        raise InvalidRequest("excludedActions", "all actions are excluded")
    return offered


def inline(loop: Loop, actions: list[Action]) -> InlineCandidates:
    """Return actions as candidates that bring their features, and their ids among these.

    Raises:
        InvalidRequest: The features; names the place.
    """
    objects = [
        united(each.features, f"actions.{number}.features") | {ACTION: each.id}
        for number, each in enumerate(actions)
    ]
    rows = loop.actions.rows(objects, "actions.{}.features")
    return InlineCandidates(tuple(ids.action_of(each.id) for each in actions), rows, objects=True)


async def rank(engine: Engine, command: RankCommand) -> bytes:
    """Decide, and return the body of the answer.

    Raises:
        Refused: The event is that of another Rank.
    """
    try:
        decision = await engine.selecting.select(command.select)
    except Conflict:
        message = f"eventId: {command.event!r} is the event of another Rank"
        raise Refused("InvalidRankRequest", message, 409) from None
    body = command.body
    offered = [each.id for each in body.actions if each.id not in command.excluded]
    found = engine.selecting.chances(command.select, decision)
    chances = {offered[place]: chance for _, place, chance in found}
    chosen = offered[place_of(command.select, decision.chosen[0])]
    absent = command.excluded | (set(offered) - chances.keys())  # outside their dates
    ranking = ranked([each.id for each in body.actions], absent, chosen, chances)
    return msgspec.json.encode(
        RankAnswer(
            ranking=[Ranked(id=each, probability=chance) for each, chance in ranking],
            event_id=command.event,
            reward_action_id=chosen,
        )
    )
