"""Reads JSON values as the dataclasses of `answers`, driven by the types of their fields.

Fields with a default belong to the client and are not read, unless they are `SENT`. Unknown keys of
the service are ignored. The readers of a type are built once.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_Reader = Callable[[object], Any]


class Mismatch(ValueError):
    """A value does not have the expected type; the message names the field."""


def decode(kind: type[T], value: object) -> T:
    """Return a decoded JSON value as `kind`.

    Raises:
        Mismatch: The value or a part of it has another type, or a field is missing.
    """
    reader: _Reader = _reader(cast(Hashable, kind))
    result: T = reader(value)
    return result


def as_object(value: object) -> Mapping[str, object]:
    """Return a decoded JSON value that is an object.

    Raises:
        Mismatch: It is something else.
    """
    if not isinstance(value, dict):
        raise _mismatch("a JSON object", value)
    return value


@functools.cache
def _reader(kind: Any) -> _Reader:
    """Return the reader of a type: a dataclass, a container of types, or a scalar."""
    arguments = get_args(kind)
    if kind is object or kind is Any:
        return lambda value: value
    if dataclasses.is_dataclass(kind):
        return _record_reader(kind)
    if get_origin(kind) is tuple:
        return _list_reader(_reader(arguments[0]))
    if get_origin(kind) is Mapping:
        return _table_reader(_reader(arguments[1]))
    if NoneType in arguments:
        present = _reader(next(one for one in arguments if one is not NoneType))
        return lambda value: None if value is None else present(value)
    if get_origin(kind) is UnionType:  # of a list and an object
        listed, table = (_reader(one) for one in arguments)
        return lambda value: table(value) if isinstance(value, dict) else listed(value)
    return _SCALARS[kind]


def _record_reader(kind: Any) -> _Reader:
    hints = get_type_hints(kind)
    readers = [
        (field.name, _reader(hints[field.name]))
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING or field.metadata.get("sent")
    ]

    def read(value: object) -> Any:
        found, fields, name = as_object(value), {}, ""
        try:
            for name, reader in readers:
                fields[name] = reader(found.get(name))
        except Mismatch as error:
            raise Mismatch(f"{name}: {error}") from None
        return kind(**fields)

    return read


def _list_reader(item: _Reader) -> _Reader:
    def read(value: object) -> Any:
        if not isinstance(value, list):
            raise _mismatch("a list", value)
        return tuple([item(one) for one in value])

    return read


def _table_reader(item: _Reader) -> _Reader:
    return lambda value: {key: item(one) for key, one in as_object(value).items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _mismatch("a text", value)
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _mismatch("an integer", value)
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _mismatch("a number", value)
    return float(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise _mismatch("true or false", value)
    return value


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error as error:
        raise Mismatch(f"not base64: {error}") from None


def _mismatch(expected: str, value: object) -> Mismatch:
    return Mismatch(f"expected {expected}, found {value!r:.80}")


_SCALARS: Mapping[Any, _Reader] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _truth,
    bytes: _bytes,
}
