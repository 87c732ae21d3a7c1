"""Statements of `service.store.sql` as PostgreSQL takes them: marks become `$1`, `$2`, ...

SQLite's driver stores any value in any column; PostgreSQL's wants the type of the parameter. Bytes
for a text are an id of 32 hex digits, a number for a text is a value of the table `meta`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_LIST = re.compile(r"\bIN\s+\(\?(?:, \?)*\)")
_MARK = re.compile(r"\?(\d+)?|(?<![:\w]):([a-z_]+)")


class Translated(NamedTuple):
    """A statement with numbered marks.

    Attributes:
        sql: The statement.
        names: Of its parameters, where it has named ones.
        is_list: Whether all of its parameters are one list.
    """

    sql: str
    names: tuple[str, ...] = ()
    is_list: bool = False

    def arguments(self, parameters: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any]:
        """Return parameters in the order of the marks."""
        if isinstance(parameters, Mapping):
            return [parameters[name] for name in self.names]
        if self.is_list:
            return [list(parameters)]
        return parameters


def translated(sql: str) -> Translated:
    """Return a statement with numbered marks.

    A list of values, where there is nothing else, is one parameter: the statement is then the same
    for any number of them.
    """
    listed = _LIST.sub("= ANY($1)", sql)
    if listed != sql and "?" not in listed:
        return Translated(listed, is_list=True)
    names: list[str] = []
    count = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal count
        number, name = found.groups()
        if name is not None:
            if name not in names:
                names.append(name)
            return f"${names.index(name) + 1}"
        if number is not None:
            return f"${number}"
        count += 1
        return f"${count}"

    return Translated(_MARK.sub(mark, sql), tuple(names))


def as_text(value: Any) -> Any:
    """Return a value for a column of text."""
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str) else repr(value)


def _as_texts(values: Any) -> Any:
    return [as_text(value) for value in values]


def _as_int(value: Any) -> Any:
    return None if value is None else int(value)


def _as_float(value: Any) -> Any:
    """Return a number without a negative zero, which SQLite does not store either."""
    return None if value is None else value + 0.0


def converters(types: Sequence[str]) -> list[tuple[int, Callable[[Any], Any]]]:
    """Return what to apply to which parameters, given the names of their types."""
    found: list[tuple[int, Callable[[Any], Any]]] = []
    for place, name in enumerate(types):
        if name in ("text", "varchar"):
            found.append((place, as_text))
        elif name == "text[]":
            found.append((place, _as_texts))
        elif name in ("int2", "int4", "int8"):
            found.append((place, _as_int))
        elif name == "float8":
            found.append((place, _as_float))
    return found
