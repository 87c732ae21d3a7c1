"""How objects are written into rows before anything was fitted: all by signed hashes.

Nothing is known of the fields then but what was declared, and there is no state: the row is a pure
function of the object. Different fields share places, so a fitted encoding is better.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from bandexa_core.schema.features import Features, field_around
from bandexa_core.schema.fields import CategoriesField, CategoryField, Field, VectorField
from bandexa_core.schema.hashing import place
from bandexa_core.schema.objects import JsonObject, flatten
from bandexa_core.schema.observed import CONVERTED, OK, UNSEEN, WRONG, Observed
from bandexa_core.schema.parts.images import ImagePart
from bandexa_core.schema.parts.part import BOUND
from bandexa_core.schema.parts.timed import SIDES, cycles
from bandexa_core.schema.values import (
    as_number,
    as_text,
    as_texts,
    as_time,
    as_truth,
    as_vector,
    is_plain,
    looks_like_time,
)
from bandexa_core.schema.words import hashed_terms, is_prose

Entry = tuple[int, float]
_CACHED_CHARACTERS = 64


class HashedPlan:
    """Writes objects without knowing anything of them: by signed hashes of path and value.

    Texts, truth values and categories are 1 or -1 at a place; several words or categories share a
    length of 1. A number x is asinh(x), which grows as its order of magnitude, at the place of its
    path. Times have their cycles. All ends at +-10. The pixels of an image follow as they are.

    Attributes:
        empty: The row of an object without any field, as float32 bytes.
    """

    def __init__(self, features: Features, width: int) -> None:
        self._declared, self._auto = features.learned, features.auto
        self._ignored = {path for path, known in self._declared.items() if known.type == "ignore"}
        self._width = width
        self._image: str | None = None
        pixels = 0
        if features.image is not None:
            self._image, known = features.image
            part = ImagePart(self._image, False, known.shape)
            self._write_image, pixels = part.writer(width), part.size
        self.empty = array("f", [0.0] * (width + pixels)).tobytes()

    def write(self, value: JsonObject, out: array[float], base: int) -> None:
        """Write an object into the row that starts at `base`."""
        sums: dict[int, float] = {}
        for path, item in flatten(value).items():  # in the order of paths: sums round alike
            known = self._declared.get(path)
            if path == self._image:
                self._write_image(item, out, base)
            elif known is not None or self._is_found(path):
                self._add(path, item, known, sums)
        for where, total in sums.items():
            out[base + where] = min(max(total, -BOUND), BOUND)

    def observe(self, value: JsonObject, out: array[float], base: int, observed: Observed) -> None:
        """Write an object, and count what it had."""
        observed.rows += 1
        self.write(value, out, base)
        for path, item in flatten(value).items():
            known = self._declared.get(path)
            if known is None and not self._is_found(path):
                if field_around(path, self._ignored) is None:
                    observed.add_unknown(path)
            elif path == self._image:
                observed.of(path).add(self._write_image(item, out, base))
            else:
                was_read = self._add(path, item, known, {})
                observed.of(path).add(_became(known, item) if was_read else WRONG)

    def _is_found(self, path: str) -> bool:
        """Return whether a path that is not declared is a field."""
        return self._auto and (not self._declared or field_around(path, self._declared) is None)

    def _add(self, path: str, item: Any, known: Field | None, sums: dict[int, float]) -> bool:
        """Add a value to the sums of its places; return whether it could be read."""
        kind = None if known is None else known.type
        if type(item) is str and len(item) <= _CACHED_CHARACTERS:
            entries = _entries_of_text(path, item, kind, self._width)
        else:
            size = known.size if isinstance(known, VectorField) else None
            entries = _entries(path, item, kind, size, self._width)
        if entries is None:
            return False
        for where, amount in entries:
            sums[where] = sums.get(where, 0.0) + amount
        return True


def _became(known: Field | None, item: Any) -> int:
    """Return what became of a value that was read, as a fitted field of this type would say.

    A vocabulary that is to be learned is not known yet, so that no value is outside of it.
    """
    if known is None or known.type == "ignore":
        return OK
    if isinstance(known, CategoryField | CategoriesField) and known.values is not None:
        texts = as_texts(item) or ()
        if not set(texts) <= set(known.values):
            return UNSEEN
    return OK if is_plain(known.type, item) else CONVERTED


def _entries(
    path: str, value: Any, kind: str | None, size: int | None, width: int
) -> Sequence[Entry] | None:
    """Return the places of a value and what it adds there; None where it is of a wrong type.

    Args:
        path: Its path.
        value: The value.
        kind: The type of its field; None: that which the value alone looks like.
        size: The size of a declared vector.
        width: The number of places.
    """
    is_declared = kind is not None
    if kind is None:
        kind = _kind(value)
    if kind == "text":
        text = as_text(value)
        return None if text is None else hashed_terms(path, text, width)
    if kind in ("category", "hash", "bool"):
        text = as_text(as_truth(value) if kind == "bool" else value)
        return None if text is None else (place(path, text, width),)
    if kind == "number":
        number = as_number(value)
        return None if number is None else (_number(path, number, width),)
    if kind == "categories":
        texts = as_texts(value)
        return None if texts is None else _categories(path, set(texts), width)
    if kind == "vector":
        numbers = as_vector(value, len(value) if size is None else size)
        if numbers is None:
            return None
        return [_number(f"{path}[{at}]", number, width) for at, number in enumerate(numbers)]
    if kind == "time":
        time = as_time(value)
        return None if time is None else _time(path, time[1], width)
    return () if is_declared else None


@lru_cache(1 << 14)
def _entries_of_text(path: str, text: str, kind: str | None, width: int) -> Sequence[Entry] | None:
    """Return `_entries` of a short text: most of them come again and again."""
    return _entries(path, text, kind, None, width)


def _kind(value: Any) -> str:
    """Return the type of field that a value alone looks like; empty where none."""
    if isinstance(value, bool):
        return "bool"
    if looks_like_time(value):
        return "time"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text" if is_prose(value) else "category"
    if isinstance(value, list | tuple):
        numeric = all(isinstance(entry, int | float) for entry in value)
        return "vector" if value and numeric else "categories"
    return ""


def _number(path: str, number: float, width: int) -> Entry:
    where, sign = place(path, "", width)
    return where, sign * min(max(math.asinh(number), -BOUND), BOUND)


def _categories(path: str, texts: set[str], width: int) -> list[Entry]:
    share = 1.0 / math.sqrt(len(texts)) if texts else 0.0
    entries = (place(path, text, width) for text in sorted(texts))
    return [(where, sign * share) for where, sign in entries]


def _time(path: str, local: float, width: int) -> list[Entry]:
    places = _time_places(path, width)
    return [(at, sign * side) for (at, sign), side in zip(places, cycles(local), strict=True)]


@lru_cache(1 << 10)
def _time_places(path: str, width: int) -> list[tuple[int, float]]:
    return [place(f"{path}@{side}", "", width) for side in SIDES if side != "age"]
