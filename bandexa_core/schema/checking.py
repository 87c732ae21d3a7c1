"""Checks the object of a request against what is declared, with messages that name the place.

Only declared fields can be wrong. A field that types itself never is: its value counts as missing
where its type does not fit, because the type was guessed from rows and may change with more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bandexa_core.schema.features import Features, field_around
from bandexa_core.schema.fields import CategoriesField, Field, ImageField, VectorField
from bandexa_core.schema.limits import MAX_ENTRIES
from bandexa_core.schema.objects import JsonObject, dumps, leaves, shown
from bandexa_core.schema.personal import as_logged, personal_around
from bandexa_core.schema.values import (
    MAX_PIXEL,
    as_image,
    as_number,
    as_text,
    as_time,
    as_truth,
    is_plain,
)

_READERS = {
    "number": (as_number, "no number"),
    "bool": (as_truth, "neither true nor false"),
    "time": (as_time, "no time, which is ISO 8601 text or Unix seconds"),
    "category": (as_text, "no text"),
    "text": (as_text, "no text"),
    "hash": (as_text, "no text"),
}
_LIST = (as_text, "no list")


def check(features: Features, value: JsonObject, side: str) -> None:
    """Check an object of a request. No message has a value that is not to be logged.

    Args:
        features: What is declared.
        value: The object, as it was decoded.
        side: What messages begin with, such as "context" or "actions[3].features".

    Raises:
        ValueError: It is no JSON object within the limits, a declared field has a value of a wrong
            type, or a key is unknown where such are refused: "context.age: 'x12' is no number".
    """
    declared = features.fields
    personal = (lambda path: personal_around(path, features)) if features.personal else None
    for path, item in leaves(value, side, personal):
        known = declared.get(path)
        if known is not None:
            if path in features.personal:
                _check_quietly(known, item, f"{side}.{path}", features.strict)
            else:
                _check_field(known, item, f"{side}.{path}", features.strict)
        elif not features.auto:
            _check_unknown(features, path, side)


def accept(features: Features, value: JsonObject, side: str, salt: bytes = b"") -> bytes:
    """Check an object of a request, and return the bytes that a log stores of it.

    Args:
        features: What is declared.
        value: The object, as it was decoded.
        side: What messages begin with.
        salt: The key of the digests that are logged in place of some values.

    Raises:
        ValueError: As `check`.
    """
    check(features, value, side)
    return dumps(as_logged(features, value, salt), side)


def _check_unknown(features: Features, path: str, side: str) -> None:
    group = field_around(path, features.fields)
    if group is not None:
        known = features.fields[group].type
        if known == "ignore":
            return
        raise ValueError(f"{side}.{group}: an object is {_READERS.get(known, _LIST)[1]}")
    if features.unknown == "refuse":
        raise ValueError(f"{side}.{path}: is no declared field")


def _check_field(known: Field, item: Any, where: str, strict: bool) -> None:
    if isinstance(known, VectorField):
        _check_vector(known.size, item, where, strict)
    elif isinstance(known, ImageField):
        _check_image(known.shape, item, where)
    elif isinstance(known, CategoriesField):
        _check_categories(item, where, strict)
    elif known.type in _READERS:
        _check_one(known.type, item, where, strict)


def _check_quietly(known: Field, item: Any, where: str, strict: bool) -> None:
    """Check a value that is not to be logged: the message is of the type alone."""
    try:
        _check_field(known, item, where, strict)
    except ValueError:
        raise ValueError(f"{where}: is no {known.type}; its value is not shown") from None


def _check_one(kind: str, item: Any, where: str, strict: bool) -> None:
    read, problem = _READERS[kind]
    if read(item) is None or (strict and not is_plain(kind, item)):
        raise ValueError(f"{where}: {shown(item)} is {problem}")


def _check_vector(size: int, items: Any, where: str, strict: bool) -> None:
    if not isinstance(items, list | tuple):
        raise ValueError(f"{where}: {shown(items)} is no list of {size} numbers")
    if len(items) != size:
        raise ValueError(f"{where}: {len(items)} numbers, but {size} are declared")
    for place, item in enumerate(items):
        _check_one("number", item, f"{where}[{place}]", strict)


def _check_image(shape: Sequence[int], items: Any, where: str) -> None:
    """Check the lists of an image, level by level."""
    if not isinstance(items, list | tuple):
        raise ValueError(f"{where}: {shown(items)} is no list of {shape[0]} entries")
    if len(items) != shape[0]:
        raise ValueError(f"{where}: {len(items)} entries, but {shape[0]} are declared")
    if len(shape) > 1:
        for place, item in enumerate(items):
            _check_image(shape[1:], item, f"{where}[{place}]")
        return
    if as_image(items, shape) is None:
        place = next(at for at, item in enumerate(items) if as_image([item], (1,)) is None)
        problem = f"is no whole number from 0 to {MAX_PIXEL}"
        raise ValueError(f"{where}[{place}]: {shown(items[place])} {problem}")


def _check_categories(items: Any, where: str, strict: bool) -> None:
    if not isinstance(items, list | tuple):
        if strict or as_text(items) is None:
            raise ValueError(f"{where}: {shown(items)} is no list of texts")
        return
    if len(items) > MAX_ENTRIES:
        raise ValueError(f"{where}: {len(items)} entries, at most {MAX_ENTRIES}")
    for place, item in enumerate(items):
        _check_one("category", item, f"{where}[{place}]", strict)
