"""What is wrong with a value, in words of JSON: decoders name the types of Python.

Whoever sends a wrong value reads these words, and never those of a library.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

KINDS = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false",
    "array": "a list", "object": "an object", "null": "null", "bytes": "bytes",
}  # fmt: skip
ID_RULE = "must have 1 to 128 characters of A-Za-z0-9._:-"
_ID_CLASS = "[A-Za-z0-9._:-]{1,128}"
_TYPE = re.compile(r"Expected `([a-z |]+)`, got `([a-z]+)`")
_LENGTH = re.compile(r"Expected `(str|array|object|bytes)` of length (<=|>=|==) (\d+)")
_BOUND = re.compile(r"Expected `(?:int|float)[a-z |]*` (<=|>=|<|>) (\S+)")
_PATTERN = re.compile(r"Expected `str` matching regex '(.*)'")
BOUNDS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than", "==": "exactly"}
LONGEST = 64  # characters of a name that is compared with others


def in_words(message: str) -> str:
    """Return a message of msgspec in words of JSON; any other one stays as it is.

    "Expected `float`, got `str`" becomes "must be a number, not a text".
    """
    if found := _TYPE.fullmatch(message):
        wanted, got = found.groups()
        names = [name for name in wanted.split(" | ") if name != "null"]
        if names == ["int"] and got == "float":
            return "must be a whole number"
        kinds = dict.fromkeys(KINDS.get(name, name) for name in names)
        return f"must be {one_of(kinds)}, not {kind_of(got)}"
    if found := _LENGTH.fullmatch(message):
        kind, bound, number = found.groups()
        return length_rule(BOUNDS[bound], int(number), "characters" if kind == "str" else "entries")
    if found := _BOUND.fullmatch(message):
        return f"must be {BOUNDS[found[1]]} {short(found[2])}"
    if found := _PATTERN.fullmatch(message):
        return pattern_rule(found[1])
    return message


def kind_of(name: str) -> str:
    """Return a type of JSON that a value has, as a message names it."""
    return "a number" if name == "int" else KINDS.get(name, name)


def pattern_rule(pattern: str) -> str:
    """Return what a text has to be that does not match a pattern."""
    return ID_RULE if _ID_CLASS in pattern else f"must match {pattern}"


def length_rule(bound: str, number: int, what: str) -> str:
    """Return how many characters or entries there have to be."""
    one = {"characters": "character", "entries": "entry"}
    return f"must have {bound} {number} {one.get(what, what) if number == 1 else what}"


def one_of(names: Iterable[str]) -> str:
    """Return names as a list with "or": "a, b or c"."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def meant(name: str, known: Sequence[str], spoken: dict[str, str] | None = None) -> str:
    """Return "; did you mean 'X'?" where a name is like a known one, else "".

    Args:
        name: As it was written.
        known: The names that there are.
        spoken: Other words for some of these, as other systems have them.
    """
    if len(name) > LONGEST:
        return ""
    word = name.strip().lower()
    found = (spoken or {}).get(word)
    if found is None:
        found = next(iter(difflib.get_close_matches(word, known, n=1)), None)
    return "" if found is None or found == name else f"; did you mean {found!r}?"


def not_finite(value: Any) -> tuple[list[str], str] | None:
    """Return where in a decoded value NaN or an infinity is, and a message; None: nowhere.

    The place has keys, and numbers of objects in lists; a place in a list of numbers is a part of
    the message.
    """
    waiting: list[tuple[list[str], str, Any]] = [([], "", value)]
    while waiting:
        path, place, part = waiting.pop()
        if isinstance(part, float):
            if not math.isfinite(part):
                number = "NaN" if math.isnan(part) else "infinity"
                rule = f"must hold finite numbers; {place} is {number}"
                return path, rule if place else f"must be a finite number, not {number}"
        elif isinstance(part, list):
            waiting += [
                ([*path, str(at)], "", item)
                if isinstance(item, dict)
                else (path, f"{place}[{at}]", item)
                for at, item in reversed([*enumerate(part)])
            ]
        elif isinstance(part, dict):
            known = [(str(key).encode("utf-8", "replace").decode(), part[key]) for key in part]
            waiting += [([*path, key], "", item) for key, item in reversed(known)]
    return None


def short(number: str | float) -> str:
    """Return a bound as people write it: 1e+20 as 1e20, 5.0 as 5."""
    try:
        return f"{float(number):g}".replace("e+", "e")
    except ValueError:
        return str(number)
