"""Plain JSON objects: their fields by dotted paths, and the bytes that a log stores of them.

Nested objects are flattened: {"user": {"age": 3}} has the path "user.age", as {"user.age": 3} has.
null is the same as an absent key. An object may come from JSON, from msgpack or from Python; what
is no JSON value is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from bandexa_core.schema.limits import (
    LEAST_INTEGER,
    MAX_FIELDS,
    MAX_ITEMS,
    MAX_NAMES,
    MAX_NESTING,
    MAX_PATH_BYTES,
    MAX_TEXT_BYTES,
    MOST_INTEGER,
    is_text,
)

JsonObject = Mapping[str, Any]
_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(dict[str, Any])
_SHOWN = 40


def leaves(
    value: JsonObject, side: str, personal: Callable[[str], str | None] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield path and value of every field that is not null, checked to be JSON within the limits.

    Args:
        value: The object.
        side: What messages begin with, such as "context".
        personal: Returns the field that a path is a part of, if no message may show its values or
            what is in them; None: all may be shown.

    Raises:
        ValueError: It is no JSON object, or beyond a limit; the message names the path. At most 256
            fields are looked at.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{side}: {shown(value)} is no object")
    paths: set[str] = set()
    waiting: list[tuple[str, int, JsonObject]] = [("", 1, value)]
    num = 0
    while waiting:
        prefix, names, inner = waiting.pop()
        for name, item in inner.items():
            num += 1
            if num > MAX_FIELDS:
                raise ValueError(f"{side}: more than {MAX_FIELDS} fields")
            hidden = None
            if personal is None:
                path = _path(prefix, name, side)
            else:
                path, hidden = _path_of(prefix, name, side, personal)
            if item is None:
                continue
            where = f"{side}.{hidden or path}"
            if isinstance(item, dict):
                if names == MAX_NAMES:
                    raise ValueError(f"{where}: objects nest deeper than {MAX_NAMES} names")
                waiting.append((f"{path}.", names + 1, item))
                continue
            if path in paths:
                raise ValueError(f"{where}: given twice")
            paths.add(path)
            if hidden is None:
                check_value(item, where, names)
            else:
                _check_hidden(item, where, names)
            yield path, item


def _path_of(
    prefix: str, name: object, side: str, personal: Callable[[str], str | None]
) -> tuple[str, str | None]:
    """Return a path, and the personal field that it is a part of, or None.

    The names below such a field may not be shown either.
    """
    around = personal(prefix[:-1]) if prefix else None
    try:
        path = _path(prefix, name, side)
    except ValueError:
        if around is None:
            raise
        raise ValueError(f"{side}.{around}: has a key that is none; it is not shown") from None
    return path, around or personal(path)


def _check_hidden(value: object, where: str, nesting: int) -> None:
    """Check a value of a personal field, which no message may show."""
    try:
        check_value(value, where, nesting)
    except ValueError:
        problem = "is no JSON value within the limits; its value is not shown"
        raise ValueError(f"{where}: {problem}") from None


def _path(prefix: str, name: object, side: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{side}: {shown(name)} is no key, which is a text")
    path = prefix + name
    if not name:
        raise ValueError(f"{side}: a key is empty")
    if not is_text(path, MAX_PATH_BYTES):
        problem = f"must be valid text of at most {MAX_PATH_BYTES} bytes"
        raise ValueError(f"{side}: the key {shown(name)} {problem}")
    return path


def check_value(value: object, where: str, nesting: int) -> None:
    """Refuse what is no JSON value within the limits, with a message about `where`.

    Args:
        value: Any value but None.
        where: Side and path.
        nesting: How many objects it is in.

    Raises:
        ValueError: See above.
    """
    if isinstance(value, str):
        if not is_text(value):
            problem = f"is no valid text of at most {MAX_TEXT_BYTES} bytes"
            raise ValueError(f"{where}: {shown(value)} {problem}")
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if not LEAST_INTEGER <= value <= MOST_INTEGER:
            raise ValueError(f"{where}: a whole number beyond 64 bits; send it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            number = "NaN" if math.isnan(value) else "infinity"
            raise ValueError(f"{where}: must be a finite number, not {number}")
    elif isinstance(value, list | tuple | dict):
        _check_container(value, where, nesting)
    else:
        raise ValueError(f"{where}: {shown(value)} is no JSON value")


def _check_container(value: Any, where: str, nesting: int) -> None:
    if nesting == MAX_NESTING:
        raise ValueError(f"{where}: nested deeper than {MAX_NESTING} levels")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"{where}: {len(value)} entries, at most {MAX_ITEMS}")
    if not isinstance(value, dict):
        for place, item in enumerate(value):
            check_value(item, f"{where}[{place}]", nesting + 1)
        return
    for name, item in value.items():
        if not isinstance(name, str) or not is_text(name, MAX_PATH_BYTES):
            raise ValueError(f"{where}: {shown(name)} is no key, which is a text")
        check_value(item, f"{where}.{name}", nesting + 1)


def flatten(value: JsonObject) -> dict[str, Any]:
    """Return the values of an object by path, without nulls, in the order of the paths.

    Nothing raises: what `leaves` would refuse is left out, and of more than 256 fields, those
    beyond. Values are as they are; whoever reads them as a type checks them.
    """
    found: dict[str, Any] = {}
    _flatten(value, "", 1, found)
    return dict(sorted(found.items()))


def _flatten(value: JsonObject, prefix: str, names: int, found: dict[str, Any]) -> None:
    for name, item in value.items():
        if item is None or not isinstance(name, str):
            continue
        path = prefix + name
        if isinstance(item, dict):
            if names < MAX_NAMES and len(path) <= MAX_PATH_BYTES:
                _flatten(item, f"{path}.", names + 1, found)
        elif len(found) < MAX_FIELDS and is_text(path, MAX_PATH_BYTES):
            found[path] = item


def to_bytes(value: JsonObject, side: str = "object") -> bytes:
    """Return the compact JSON of an object: keys in order, UTF-8; equal objects, equal bytes.

    Raises:
        ValueError: As `leaves`.
    """
    for _ in leaves(value, side):
        pass
    return dumps(value, side)


def from_bytes(data: bytes) -> dict[str, Any]:
    """Return the object that `to_bytes` wrote.

    Raises:
        ValueError: The bytes are no JSON object.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON object: {error}") from None


def dumps(value: Mapping[str, Any], side: str = "object") -> bytes:
    """Return the compact JSON of values that `leaves` has checked, with keys in order.

    Raises:
        ValueError: A value is of a type of Python's that is like one of JSON, but not the same.
    """
    try:
        return _encoder.encode(value if isinstance(value, dict) else dict(value))
    except (TypeError, msgspec.MsgspecError) as error:
        raise ValueError(f"{side}: {error}") from None


def shown(value: object) -> str:
    """Return a value for a message: in one line, short, and without lone surrogates."""
    if isinstance(value, str):
        text = repr(value[:_SHOWN])
        return text if len(value) <= _SHOWN else f"{text}..."
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(int(value)) if abs(value) <= MOST_INTEGER else "a huge number"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
