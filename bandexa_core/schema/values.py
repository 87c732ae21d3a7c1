"""Reads one JSON value as a type. None: it is not of that type, and cannot be converted to it.

Conversions are those that a client's language makes by itself: numbers as text, text as numbers,
truth values as text. All functions are total: no value whatsoever raises, and the time they take
is linear in the size of the value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bandexa_core.schema.limits import (
    LEAST_INTEGER,
    MAX_ENTRIES,
    MAX_ITEMS,
    MOST_INTEGER,
    is_text,
)

DAY_S = 86_400.0
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NUMBER_CHARACTERS = 64
_TIME_CHARACTERS = 40
_EPOCH, _UTC_EPOCH = datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)
MAX_PIXEL = 255
_WHOLE = {int}
_WORDS = {"true": True, "false": False}
# Unix times are seconds up to here, the year 5138, and milliseconds beyond.
_MOST_SECONDS = 1e11
_RECENT, _RECENT_END = 1e9, 2.2e9  # seconds


def as_number(value: object) -> float | None:
    """Return a value as a finite number; texts like "12.5" and truth values are converted."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return float(value) if LEAST_INTEGER <= value <= MOST_INTEGER else None
    if isinstance(value, str):
        return _number_of_text(value)
    return None


def _number_of_text(text: str) -> float | None:
    if len(text) > _NUMBER_CHARACTERS:
        return None
    stripped = text.strip()
    if not _NUMBER.fullmatch(stripped):
        return None
    number = float(stripped)
    return number if math.isfinite(number) else None


def as_text(value: object) -> str | None:
    """Return a value as text: 7 and 7.0 are "7", true is "true"; too long ones are no text."""
    if isinstance(value, str):
        return value if is_text(value) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value)) if LEAST_INTEGER <= value <= MOST_INTEGER else None
    if isinstance(value, float) and math.isfinite(value):
        whole = value.is_integer() and abs(value) < 2**53
        return str(int(value)) if whole else repr(float(value))
    return None


def as_truth(value: object) -> bool | None:
    """Return a value as true or false; 1, 0, "true" and "false" are converted."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if isinstance(value, str) and len(value) <= 5:
        return _WORDS.get(value.lower())
    return None


def as_time(value: object) -> tuple[float, float] | None:
    """Return a time as Unix seconds, and as seconds of the clock it was written by.

    The second number counts as Unix seconds do, but by the local clock of the text's offset: its
    remainder by a day is the local time of day. Unix milliseconds are converted to seconds.
    """
    if isinstance(value, str) and is_date(value):
        return _time_of_date(value)
    if isinstance(value, bool):
        return None
    number = as_number(value)
    if number is None:
        return None
    seconds = number if abs(number) <= _MOST_SECONDS else number / 1000.0
    return (seconds, seconds) if abs(seconds) <= _MOST_SECONDS else None


def is_date(text: str) -> bool:
    """Return whether a text looks like a date, with or without a time of day."""
    return text[4:5] == "-" == text[7:8] and len(text) <= _TIME_CHARACTERS


def looks_like_time(value: object) -> bool:
    """Return whether a value of no declared type is probably a time.

    Texts have to be dates. Of numbers, those that are Unix seconds or milliseconds of 2001 to 2039:
    other things are rarely so large.
    """
    if isinstance(value, str):
        return is_date(value) and _time_of_date(value) is not None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Two comparisons, and not a division: a whole number may be too large for one.
    return _RECENT <= value <= _RECENT_END or 1e3 * _RECENT <= value <= 1e3 * _RECENT_END


def _time_of_date(text: str) -> tuple[float, float] | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    offset = time.utcoffset()
    if offset is None:
        local = (time - _EPOCH).total_seconds()
        return local, local
    instant = (time - _UTC_EPOCH).total_seconds()
    return instant, instant + offset.total_seconds() if offset else instant


def as_texts(value: object) -> Sequence[str] | None:
    """Return a list of values as texts, at most 100; a single value is a list of one."""
    if not isinstance(value, list | tuple):
        text = as_text(value)
        return None if text is None else (text,)
    if len(value) > MAX_ENTRIES:
        return None
    texts = [as_text(item) for item in value]
    found = [text for text in texts if text is not None]
    return found if len(found) == len(texts) else None


def as_vector(value: object, size: int) -> Sequence[float] | None:
    """Return a list of values as `size` finite numbers."""
    if not isinstance(value, list | tuple) or len(value) != size or size > MAX_ITEMS:
        return None
    numbers = [as_number(item) for item in value]
    found = [number for number in numbers if number is not None]
    return found if len(found) == size else None


def as_image(value: object, shape: Sequence[int]) -> list[int] | None:
    """Return nested lists of whole numbers from 0 to 255 as one list, row by row.

    Args:
        value: The lists.
        shape: How many entries the lists of each level have.
    """
    entries: list[Any] = [value]
    for size in shape:
        if not all(isinstance(each, list | tuple) and len(each) == size for each in entries):
            return None
        entries = [entry for each in entries for entry in each]
    if not _WHOLE.issuperset(map(type, entries)):
        entries = [
            int(entry) if type(entry) is float and entry.is_integer() else entry
            for entry in entries
        ]
        if not _WHOLE.issuperset(map(type, entries)):
            return None
    return entries if min(entries) >= 0 and max(entries) <= MAX_PIXEL else None


def is_plain(kind: str, value: object) -> bool:
    """Return whether a value has the JSON type of a field type, so that nothing is converted."""
    if kind == "vector":
        return isinstance(value, list | tuple) and all(_is_number(item) for item in value)
    if kind == "categories":
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if kind == "number":
        return _is_number(value)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "time":
        return is_date(value) if isinstance(value, str) else _is_number(value)
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
