"""Objects of ones as the sets that they are: {"tags": {"vegan": 1, "hot": 1}} has two tags.

Vowpal Wabbit and Azure Personalizer have no lists of texts, so their users write a set as an object
whose features are all 1. As numbers, each of its names would be a field of its own that never
varies where it is present, names seen for the first time would be unknown, and the values that a
context and an action have in common would not be seen. So, where features are "namespaces", such an
object is one field of categories.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from bandexa_core.schema.features import field_around
from bandexa_core.schema.limits import MAX_FIELDS

LEAST_NAMES = 2  # one name alone is as well a field that is there or missing


def sets_of(rows: Sequence[Mapping[str, Any]], pinned: Collection[str]) -> tuple[str, ...]:
    """Return the paths of objects that are sets: at least two names, and no value but 1 in any row.

    Of an object in an object the outer one counts where both are. An object with a declared field
    in it is none.

    Args:
        rows: Values by path, without nulls.
        pinned: The paths of declared fields.
    """
    others = {prefix for path in pinned for prefix in _prefixes(path)} | set(pinned)
    names: dict[str, set[str]] = {}
    for row in rows:
        for path, value in row.items():
            if "." not in path or not _is_one(value):
                others.add(path)
                others.update(_prefixes(path))
            elif path not in others:
                for prefix in _prefixes(path):
                    found = names.setdefault(prefix, set())
                    if len(found) < LEAST_NAMES:
                        found.add(path[len(prefix) + 1 :])
    whole = {
        prefix
        for prefix, found in names.items()
        if prefix not in others
        and len(found) >= LEAST_NAMES
        and field_around(prefix, pinned) is None
    }
    outer = [prefix for prefix in whole if not any(each in whole for each in _prefixes(prefix))]
    return tuple(sorted(outer)[:MAX_FIELDS])


def gathered(row: Mapping[str, Any], sets: Collection[str]) -> dict[str, Any]:
    """Return values by path with the names in each set as a list at its path.

    A name is in its set unless its value is 0 or false, or no number.
    """
    found: dict[str, Any] = {}
    lists: dict[str, list[str]] = {}
    for path, value in row.items():
        around = field_around(path, sets)
        if around is None:
            found[path] = value
        elif isinstance(value, int | float):
            names = lists.setdefault(around, [])
            if value:
                names.append(path[len(around) + 1 :])
    for path, names in lists.items():
        known = found.get(path)
        found[path] = [*known, *names] if isinstance(known, list | tuple) else names
    return found


def _prefixes(path: str) -> Iterator[str]:
    at = path.find(".")
    while at >= 0:
        yield path[:at]
        at = path.find(".", at + 1)


def _is_one(value: Any) -> bool:
    return isinstance(value, int | float) and value == 1
