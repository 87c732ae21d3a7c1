"""What pydantic found wrong with a body, in words of JSON: which value a key may have.

Pydantic tries each form that a key may have, and reports what is wrong with every one of them; a
caller reads one message for the key, which names them all and the value that was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bandexa_core.schema.objects import shown
from bandexa_core.wording import BOUNDS, length_rule, meant, one_of, pattern_rule, short

NEEDED = "is needed"
_MUST = "must be "
_MEMBERS = frozenset({"float", "int", "str", "bool", "none", "decimal"})
_KINDS = {
    "dict": "an object", "dataclass": "an object", "model": "an object",
    "model_attributes": "an object", "mapping": "an object", "list": "a list", "tuple": "a list",
    "set": "a list", "frozen_set": "a list", "float": "a number", "int": "a whole number",
    "bool": "true or false", "string": "a text", "finite_number": "a finite number",
    "int_from_float": "a whole number", "none_required": "null",
}  # fmt: skip
_BOUNDS = {
    "greater_than_equal": (">=", "ge"), "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"), "less_than": ("<", "lt"),
}  # fmt: skip
_LENGTHS: dict[str, tuple[str, str, str]] = {
    "too_short": (">=", "min_length", "entries"), "too_long": ("<=", "max_length", "entries"),
    "string_too_short": (">=", "min_length", "characters"),
    "string_too_long": ("<=", "max_length", "characters"),
}  # fmt: skip


def worded(item: Mapping[str, Any]) -> str:
    """Return what is wrong by one of pydantic's errors, and the value that was sent."""
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind == "missing":
        return NEEDED
    if kind in _BOUNDS:
        bound, name = _BOUNDS[kind]
        return f"{_MUST}{BOUNDS[bound]} {short(context[name])}{_not(item)}"
    if kind in _LENGTHS:
        bound, name, what = _LENGTHS[kind]
        return length_rule(BOUNDS[bound], context[name], what)
    if kind == "string_pattern_mismatch":
        return pattern_rule(context["pattern"]) + _not(item)
    if kind == "literal_error":
        choices = _choices(context["expected"])
        return f"{_MUST}{one_of(choices)}{_not(item)}{_meant(item, choices)}"
    stem = kind.removesuffix("_type").removesuffix("_parsing")
    if stem in _KINDS:
        return f"{_MUST}{_KINDS[stem]}{_not(item)}"
    return str(item["msg"])


def _choices(expected: str) -> list[str]:
    """Return the values of a literal: "'a', 'b' or 'c'" has three."""
    return [part for each in expected.split(", ") for part in each.split(" or ")]


def _not(item: Mapping[str, Any]) -> str:
    return f", not {shown(item['input'])}" if "input" in item else ""


def _meant(item: Mapping[str, Any], choices: Sequence[str]) -> str:
    written = item.get("input")
    if not isinstance(written, str):
        return ""
    return meant(written, [choice.strip("'") for choice in choices])


def merged(
    items: Sequence[dict[str, Any]], message_of: Callable[[dict[str, Any]], tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return (field, message) of errors, those of one key as one message.

    Args:
        items: Errors of pydantic. Of a key that may have several forms, each form has one.
        message_of: Returns field and message of one.
    """
    forms: dict[str, list[str]] = {}
    for field, message in map(message_of, _without_members(items)):
        known = forms.setdefault(field, [])
        if message not in known:
            known.append(message)
    return [(field, _as_one(messages)) for field, messages in forms.items()]


def _without_members(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the names of plain members of unions off the end of a place: they are no keys."""
    several = len(items) > 1
    places = [tuple(item["loc"]) for item in items]

    def is_member(place: tuple[Any, ...]) -> bool:
        above = place[:-1]
        beside = (other for other in places if other != place and other[: len(above)] == above)
        return bool(above) and place[-1] in _MEMBERS and any(True for _ in beside)

    return [
        item | {"loc": place[:-1]} if several and is_member(place) else item
        for item, place in zip(items, places, strict=True)
    ]


def _as_one(messages: Sequence[str]) -> str:
    """Return messages about one key as one: "must be 'auto', or an object, not 5"."""
    if len(messages) == 1 or not all(message.startswith(_MUST) for message in messages):
        return "; ".join(messages)
    forms, tails = [], []
    for message in messages:
        form, _, tail = message.removeprefix(_MUST).partition(", not ")
        forms.append(form)
        tails.append(tail)
    tail = next((tail for tail in tails if "did you mean" in tail), tails[0])
    return f"{_MUST}{', or '.join(forms)}" + (f", not {tail}" if tail else "")
