"""Reads Vowpal Wabbit's decision service JSON: one decision a line, with what came of it.

Lines that are no decisions, such as rewards without one, are passed over. An action is named by its
`_tag`, else by a feature `id`, else by its number from 1. A list of objects is their union, and the
namespaces `FromUrl`, `i` and `j`, which Personalizer puts around features, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Any

import msgspec

from service.tools.importing.found import Found, offered
from service.tools.importing.shape import Shape, Unfit, finite

Row = dict[str, Any]
_WRAPPERS = ("FromUrl", "i", "j")
_OWN_KEYS = ("_tag", "_inc", "_id")


def read_dsjson(lines: IO[bytes], shape: Shape, names: list[str]) -> Iterator[Found]:
    """Yield the decisions of a file."""
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
            yield _decision(number, text.strip(), row, shape, names)
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
        return "has no context: it is no decision"
    if "_slots" in context or "_outcomes" in row:
        return "has several slots"
    if row.get("_skipLearn") or (row.get("DeferredAction") and not _was_activated(row)):
        return "was never activated"
    if not context.get("_multi"):
        return "offers no actions"
    return ""


def _was_activated(row: Row) -> bool:
    """Whether an observation says that a deferred decision took effect."""
    marks = [each for each in row.get("o") or () if isinstance(each, dict)]
    return any(each.get("DeferredAction") is False or each.get("ActionTaken") for each in marks)


def _decision(line: int, text: bytes, row: Row, shape: Shape, names: list[str]) -> Found:
    context, multi = row["c"], row["c"]["_multi"]
    ids = [_name(each, number, names) for number, each in enumerate(multi, 1)]
    if len(set(ids)) < len(ids):
        raise Unfit("_multi: an action is offered twice")
    order, chances = row.get("a"), row.get("p")
    if "_labelIndex" in row:
        chosen = int(row["_labelIndex"])
    elif "_label_Action" in row:
        chosen = int(row["_label_Action"]) - 1
    else:
        chosen = int((order or [])[0]) - 1
    if not 0 <= chosen < len(ids):
        raise Unfit(f"_labelIndex: {chosen} is none of {len(ids)} actions")
    propensity = row.get("_label_probability", chances[0] if chances else None)
    if propensity is not None and not 0.0 < finite(propensity, "_label_probability") <= 1.0:
        raise Unfit(f"_label_probability: {propensity} is none")
    features = [
        shape.features(_features(each, name)) for each, name in zip(multi, ids, strict=True)
    ]
    candidates, actions = offered(ids, features, shape.has_action_features)
    shared = {key: each for key, each in context.items() if not key.startswith("_")}
    item: Row = {
        "id": row.get("EventId") or "", "context": shape.context(_united(shared)),
        "candidates": candidates, "action": ids[chosen],
    }  # fmt: skip
    if row.get("Timestamp"):
        item["time"] = _time(row["Timestamp"])
    if propensity is not None:
        item["propensity"] = float(propensity)
    if row.get("_label_cost") is not None:
        item["value"] = -finite(row["_label_cost"], "_label_cost") + 0.0
    if order and chances and len(order) == len(chances) == len(ids):
        if sorted(order) != list(range(1, len(ids) + 1)):
            raise Unfit(f"a: is no order of the actions 1 to {len(ids)}")
        item["propensities"] = {
            ids[int(action) - 1]: finite(chance, "p")
            for action, chance in zip(order, chances, strict=True)
        }
    note = "counts once, although others were dropped (pdrop)" if row.get("pdrop") else ""
    return Found(line, item, text=text, actions=actions, note=note)


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
        if key in _WRAPPERS and isinstance(inner, dict):
            found |= inner
        else:
            found[key] = inner
    return found
