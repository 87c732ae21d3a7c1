"""Reads Vowpal Wabbit's decision service JSON: one decision a line, with what came of it.

Lines that are no decisions, such as rewards without one, are passed over. An action is named by its
`_tag`, else by a feature `id`, else by its number from 1. A list of objects is their union. Lines
as Personalizer writes them are read as its doorway reads requests: see `joined`. A line of several
slots is a decision for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

import msgspec

from service.tools.importing.found import Found, offered
from service.tools.importing.joined import (
    APPRENTICE,
    WRAPPED,
    Modes,
    context_of,
    features_of,
    is_wrapped,
)
from service.tools.importing.names import action_of
from service.tools.importing.shape import Shape, Unfit, finite

Row = dict[str, Any]
_OWN_KEYS = ("_tag", "_inc", "_id")
DROPPED = "counts once, although others were dropped (pdrop)"


class Choice(NamedTuple):
    """What was chosen, and how it went.

    Attributes:
        slot: The slot that it is for; None: there is one.
        number: Its place among the slots.
        actions: The places in `_multi` of the actions that were offered.
        chosen: The place of the one that was chosen.
        propensity: Its probability; None: it is not known.
        chances: Those of the offered ones; None: they are not known.
        cost: The negative reward; None: it is not known.
    """

    slot: Row | None
    number: int
    actions: Sequence[int]
    chosen: int
    propensity: float | None
    chances: Sequence[float] | None
    cost: Any


def read_dsjson(
    lines: IO[bytes], shape: Shape, names: list[str], *, apprentice: bool = False
) -> Iterator[Found]:
    """Yield the decisions of a file.

    Args:
        lines: The file.
        shape: That of the bandit.
        names: The names of actions that have none, from 1.
        apprentice: Whether all lines are of Personalizer's mode Apprentice.
    """
    modes = Modes(always=apprentice)
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            yield Found(number, reason=f"is no JSON: {error}")
            continue
        reason = _not_one(row)
        if reason:
            yield Found(number, reason=reason, passed=True)
            continue
        try:
            yield from _decisions(number, text.strip(), row, shape, names, modes)
        except Unfit as error:
            yield Found(number, reason=str(error))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            yield Found(number, reason=f"is no decision: {type(error).__name__}: {error}")


def _not_one(row: Any) -> str:
    """Return why a line is none, although it may stand in such a file; "": it is one."""
    if not isinstance(row, dict):
        return "is no object"
    context = row.get("c")
    if not isinstance(context, dict):
        if "RewardValue" in row or "Observations" in row:
            return "is a reward without its decision"
        return "has no context: it is no decision"
    if row.get("_skipLearn") or (row.get("DeferredAction") and not _was_activated(row)):
        return "was never activated"
    if not context.get("_multi"):
        return "offers no actions"
    if "_outcomes" not in row and row.get("a") == []:
        return "has no ranking"
    return ""


def _was_activated(row: Row) -> bool:
    """Whether an observation says that a deferred decision took effect."""
    marks = [each for each in row.get("o") or () if isinstance(each, dict)]
    return any(each.get("DeferredAction") is False or each.get("ActionTaken") for each in marks)


def _decisions(
    line: int, text: bytes, row: Row, shape: Shape, names: list[str], modes: Modes
) -> Iterator[Found]:
    """Yield the decision of a line, or those of its slots.

    Raises:
        Unfit: It is none.
    """
    context, multi = row["c"], row["c"]["_multi"]
    wrapped = is_wrapped(context)
    called = [_name(each, number, names) for number, each in enumerate(multi, 1)]
    ids = [str(action_of(each)) for each in called]
    if len(set(ids)) < len(ids):
        raise Unfit("_multi: an action is offered twice")
    read = features_of if wrapped else _features
    features = [shape.features(read(each, name)) for each, name in zip(multi, called, strict=True)]
    shared = {key: each for key, each in context.items() if not key.startswith("_")}
    notes = [DROPPED] if row.get("pdrop") else []
    if "_outcomes" in row or "_slots" in context:
        choices = _slots(row)
    elif modes.is_apprentice(row):
        choices, notes = [_shown(row, len(ids))], [*notes, APPRENTICE]
    else:
        choices = [_chosen(row, len(ids))]
    for choice in choices:
        if choice.propensity is not None and choice.propensity <= 0.0:
            yield Found(line, reason="has no probability above 0", passed=True)
            continue
        own = context_of(shared, choice.slot) if wrapped else _united(shared)
        event = row.get("EventId") or ""
        if choice.slot is not None and event:
            event = f"{event}/{choice.number}"
        item = _item(choice, event, ids, shape.context(own))
        item["candidates"], actions = offered(
            [ids[each] for each in choice.actions],
            [features[each] for each in choice.actions],
            shape.has_action_features,
        )
        if row.get("Timestamp"):
            item["time"] = _time(row["Timestamp"])
        mark = b"" if choice.slot is None else b"#%d" % choice.number
        yield Found(line, item, text=text + mark, actions=actions, note="; ".join(notes))


def _item(choice: Choice, event: Any, ids: list[str], context: Any) -> Row:
    item: Row = {"id": event, "context": context, "action": ids[choice.chosen]}
    if choice.propensity is not None:
        item["propensity"] = choice.propensity
    if choice.cost is not None:
        item["value"] = -finite(choice.cost, "_label_cost") + 0.0
    if choice.chances is not None:
        item["propensities"] = {
            ids[place]: chance for place, chance in zip(choice.actions, choice.chances, strict=True)
        }
    return item


def _chosen(row: Row, num: int) -> Choice:
    """Return what a line chose."""
    order, chances = row.get("a"), row.get("p")
    if "_labelIndex" in row:
        chosen = int(row["_labelIndex"])
    elif "_label_Action" in row:
        chosen = int(row["_label_Action"]) - 1
    else:
        chosen = int((order or [])[0]) - 1
    if not 0 <= chosen < num:
        raise Unfit(f"_labelIndex: {chosen} is none of {num} actions")
    propensity = row.get("_label_probability", chances[0] if chances else None)
    if propensity is not None:
        propensity = _probability(propensity, "_label_probability")
    by_place = None
    if order and chances and len(order) == len(chances) == num:
        if sorted(order) != list(range(1, num + 1)):
            raise Unfit(f"a: is no order of the actions 1 to {num}")
        found = {int(action) - 1: finite(p, "p") for action, p in zip(order, chances, strict=True)}
        by_place = [found[place] for place in range(num)]
    return Choice(None, 0, range(num), chosen, propensity, by_place, row.get("_label_cost"))


def _shown(row: Row, num: int) -> Choice:
    """Return what a line of the mode Apprentice showed: the first action, for certain."""
    cost = row.get("_original_label_cost", row.get("_label_cost"))
    return Choice(None, 0, range(num), 0, 1.0, [1.0] + [0.0] * (num - 1), cost)


def _slots(row: Row) -> list[Choice]:
    """Return what a line chose for each of its slots.

    Raises:
        Unfit: The outcomes are not those of the slots.
    """
    slots, outcomes = row["c"].get("_slots") or [], row.get("_outcomes") or []
    num = len(row["c"]["_multi"])
    if not slots or len(slots) != len(outcomes):
        raise Unfit(f"_outcomes: there are {len(outcomes)}, and {len(slots)} slots")
    found = []
    for number, (slot, outcome) in enumerate(zip(slots, outcomes, strict=True)):
        order, chances = [int(each) for each in outcome["_a"]], outcome["_p"]
        wrong = len(set(order)) < len(order) or not all(0 <= each < num for each in order)
        if not order or len(order) != len(chances) or wrong:
            raise Unfit(f"_outcomes.{number}._a: is no order of actions")
        known = {place: finite(p, "_p") for place, p in zip(order, chances, strict=True)}
        places = sorted(known)
        propensity = _probability(chances[0], f"_outcomes.{number}._p")
        found.append(
            Choice(
                slot, number, places, order[0], propensity, [known[each] for each in places],
                outcome.get("_label_cost"),
            )
        )  # fmt: skip
    return found


def _probability(value: Any, what: str) -> float:
    number = finite(value, what)
    if number > 1.0:
        raise Unfit(f"{what}: {value} is none")
    return number


def _time(text: Any) -> float:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Unfit(f"Timestamp: {text!r} is no time") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _name(action: Row, number: int, names: list[str]) -> str:
    if action.get("_tag"):
        return str(action["_tag"])
    for space in (action.get("i"), action):
        known = space.get("id") if isinstance(space, dict) else None
        if isinstance(known, dict) and len(known) == 1:
            return str(next(iter(known)))
        if known is not None and not isinstance(known, dict | list):
            return str(known)
    return names[number - 1] if number <= len(names) else str(number)


def _features(action: Row, name: str) -> Row:
    """Return the features of an action, without what only names it."""
    rest = {key: each for key, each in action.items() if key not in _OWN_KEYS}
    if rest.get("id") in (name, {name: 1}):
        del rest["id"]
    inner = rest.get("i")
    if isinstance(inner, dict):
        inner = {key: each for key, each in inner.items() if key not in ("constant", "id")}
        rest["i"] = inner
    found = _united(rest)
    return found if isinstance(found, dict) else {}


def _united(value: Any) -> Any:
    """Return an object without lists of objects, and without namespaces that only wrap."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        found: Row = {}
        for each in value:
            found |= _united(each)
        return found
    if not isinstance(value, dict):
        return value
    found = {}
    for key, each in value.items():
        inner = _united(each)
        if key in WRAPPED and isinstance(inner, dict):
            found |= inner
        else:
            found[key] = inner
    return found
