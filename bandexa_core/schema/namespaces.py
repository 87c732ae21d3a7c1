"""Lists of JSON objects as Vowpal Wabbit's parser reads them, as one object with named features.

Azure Personalizer gives what its callers send to that parser, which has these rules: an object
under a key opens a namespace of that name, and only the innermost key counts; what is at the top is
in a namespace of its own; an array of numbers is a namespace, whose features are numbered; null is
nothing; keys that begin with an underscore are none, but for `_text`, a text of words. A feature is
known by namespace and name, so one that comes twice is one feature.

Here a path is NAMESPACE.NAME, or the name alone at the top. An array of numbers is a vector, a
`_text` its words. What is beyond the limits of named features in Vowpal Wabbit's eyes is no mistake
(long texts, huge whole numbers): it is shortened to what identifies it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from bandexa_core.schema.limits import (
    LEAST_INTEGER,
    MAX_ENTRIES,
    MAX_PATH_BYTES,
    MAX_TEXT_BYTES,
    MOST_INTEGER,
)

TEXT = "_text"
ACTION = "i.id"  # the id of an action: every action has it as a feature
SLOT, SLOT_FEATURES = "slot.id", "sj"
_DIGITS = 16  # of a digest behind what was shortened


class WrongFeature(ValueError):
    """What Personalizer refuses as a feature.

    Attributes:
        place, message: Where it is, and what is wrong with it.
    """

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message


Features = Sequence[Mapping[str, Any]]


def united(objects: Features, field: str, top: str = "") -> dict[str, Any]:
    """Return the features of a list of objects, by path.

    Args:
        objects: As they were decoded.
        field: The place of the list in the request, such as "contextFeatures".
        top: The namespace of what is at the top; "": none.

    Raises:
        WrongFeature: They have what Personalizer refuses; names the place.
    """
    found: dict[str, list[Any]] = {}
    for number, each in enumerate(objects):
        for path, value in _features(each, top, f"{field}.{number}"):
            found.setdefault(path, []).append(value)
    return {path: values[0] if len(values) == 1 else _joined(values)
            for path, values in found.items()}  # fmt: skip


def _features(value: Mapping[str, Any], namespace: str, where: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if not name:
            raise WrongFeature(where, "the name of a feature must not be empty")
        place = f"{where}.{name[:80]}"
        if name == TEXT and isinstance(item, str):
            words = list(dict.fromkeys(map(_text, item.split())))[:MAX_ENTRIES]
            if words:
                yield _path(namespace, TEXT), words
        elif name.startswith("_") or item is None:
            continue
        elif isinstance(item, dict):
            yield from _features(item, name, place)
        elif isinstance(item, list):
            if item:
                yield _path("", name), [_number(each, place) for each in item]
        elif isinstance(item, str):
            yield _path(namespace, name), _text(item)
        elif isinstance(item, bool):
            yield _path(namespace, name), item
        else:
            yield _path(namespace, name), _number(item, place)


def _number(value: Any, place: str) -> float | int:
    """Return a number of a feature.

    Raises:
        WrongFeature: It is none: arrays have numbers alone.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongFeature(place, "an array of features has numbers alone")
    if isinstance(value, int) and LEAST_INTEGER <= value <= MOST_INTEGER:
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise WrongFeature(place, "must be a finite number")
    return number


def _joined(values: list[Any]) -> Any:
    """Return one value of a feature that comes several times.

    Numbers add up, as weights of one feature do; different texts are features that all hold.
    """
    if all(isinstance(each, bool) for each in values):
        return any(values)
    if all(isinstance(each, int | float) for each in values):
        return math.fsum(values) if all(abs(each) < 1e300 for each in values) else values[-1]
    if all(isinstance(each, list) for each in values) and not isinstance(values[0][0], str):
        return values[-1]
    flat = [one for each in values for one in (each if isinstance(each, list) else [each])]
    return list(dict.fromkeys(each if isinstance(each, str) else f"{each}" for each in flat))[
        :MAX_ENTRIES
    ]


def _path(namespace: str, name: str) -> str:
    return _short(f"{namespace}.{name}" if namespace else name, MAX_PATH_BYTES)


def _text(value: str) -> str:
    return _short(value, MAX_TEXT_BYTES)


def _short(text: str, most: int) -> str:
    """Return a text, or its beginning and a digest where it is longer than `most` bytes."""
    data = text.encode()
    if len(data) <= most:
        return text
    begin = data[: most - _DIGITS - 1].decode("utf-8", "ignore")
    return f"{begin}~{sha256(data).hexdigest()[:_DIGITS]}"
