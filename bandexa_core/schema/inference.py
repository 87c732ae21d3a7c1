"""Proposes the type of a field from the values that were seen at its path.

A pure function of the values: the same rows give the same types, and more rows may give others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from bandexa_core.schema.features import field_around
from bandexa_core.schema.fields import (
    BoolField,
    CategoriesField,
    CategoryField,
    Field,
    HashField,
    IgnoredField,
    NumberField,
    TextField,
    TimeField,
    VectorField,
)
from bandexa_core.schema.limits import MAX_FIELDS, MAX_INPUTS
from bandexa_core.schema.values import as_number, as_text, looks_like_time
from bandexa_core.schema.words import is_prose

SHARE = 0.9  # of the values must fit a type; the others will count as missing
ONCE = 0.9  # of the ids: where more were seen once, none seems to come again
FEW = 12  # numeric texts of so few values are codes
LONG = 64  # characters: longer texts are nothing that repeats


def field_types(rows: Sequence[Mapping[str, Any]], pinned: Mapping[str, Field]) -> dict[str, Field]:
    """Return a type for every path of some rows, in the order of the paths.

    Args:
        rows: Values by path, without nulls.
        pinned: Fields whose type is given. They stay, with rows or without; an object in their
            place is of a wrong type, so its keys are no fields.

    Of more than 256 paths, those stay that most rows have, ties by name.
    """
    presence = Counter(path for row in rows for path in row if path not in pinned)
    for path in [path for path in presence if field_around(path, pinned)]:
        del presence[path]
    ranked = sorted(presence, key=lambda path: (-presence[path], path))
    found = dict(pinned)
    for path in ranked[: MAX_FIELDS - len(pinned)]:
        known = field_type([row[path] for row in rows if path in row])
        if known is not None:
            found[path] = known
    return dict(sorted(found.items()))


def field_type(values: Sequence[Any]) -> Field | None:
    """Return the type that values of one path seem to have; None where no type fits."""
    lists = [value for value in values if isinstance(value, list | tuple)]
    scalars = [value for value in values if isinstance(value, str | int | float)]
    if len(lists) > len(scalars):
        return _list_type(lists)
    return _scalar_type(scalars) if scalars else None


def _list_type(lists: Sequence[Sequence[Any]]) -> Field | None:
    """Equal lengths of numbers are vectors; other lists hold categories, unless of fractions."""
    entries = [entry for entries in lists for entry in entries]
    if not entries:
        return None
    numeric = _fits(entries, _is_number)
    (size, num), *_ = sorted(Counter(map(len, lists)).items(), key=lambda item: (-item[1], item[0]))
    if numeric and num >= SHARE * len(lists) and 1 <= size < MAX_INPUTS:
        return VectorField(size=size)
    if numeric and not all(_is_whole(entry) for entry in entries):
        return None
    return CategoriesField() if _fits(entries, lambda entry: as_text(entry) is not None) else None


def _scalar_type(values: Sequence[Any]) -> Field | None:
    counts = any(_is_number(value) and value not in (0, 1) for value in values)
    if _fits(values, _is_truth) and not counts:
        return BoolField()
    if _fits(values, looks_like_time):
        return TimeField()
    if _fits(values, lambda value: not isinstance(value, bool) and as_number(value) is not None):
        return CategoryField() if _are_codes(values) else NumberField()
    texts = [text for text in map(as_text, values) if text is not None]
    return _text_type(texts) if texts else None


def _are_codes(values: Sequence[Any]) -> bool:
    """Return whether numeric values are rather names: texts with leading zeros, or few texts.

    Whole numbers of few values are no codes here: the pieces of a number, with an edge at each
    value, can give each value its own effect as a column per value would, and learn faster where
    neighbours are alike.
    """
    texts = [value for value in values if isinstance(value, str)]
    if 2 * len(texts) <= len(values):
        return False
    leading = sum(text.startswith("0") and text[1:2].isdigit() for text in texts)
    return leading > (1.0 - SHARE) * len(texts) or len(set(texts)) <= FEW


def _text_type(texts: Sequence[str]) -> Field:
    """Values that repeat are categories; of the others, several words are text, one is an id.

    Ids that hardly ever come again, such as those of requests, are no input until they do: nothing
    can be learned of them, and their places would be noise.

    The share of values seen once estimates how much of what comes next was never seen (Good, "The
    Population Frequencies of Species and the Estimation of Population Parameters", 1953).
    """
    counts = Counter(texts)
    default = CategoryField()
    once = sum(num == 1 for num in counts.values())
    top = sum(num for _, num in counts.most_common(default.max_values))
    repeats = 2 * once <= len(texts) and 2 * top >= len(texts)
    if repeats and fmean(map(len, texts)) <= LONG:
        return default
    if _fits(texts, is_prose, 0.5):
        return TextField()
    return IgnoredField() if once > ONCE * len(texts) else HashField()


def _fits(values: Sequence[Any], test: Callable[[Any], bool], share: float = SHARE) -> bool:
    return sum(map(test, values)) >= share * len(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_truth(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 5 and value.lower() in ("true", "false")
    return isinstance(value, bool) or value in (0, 1)
