"""Names every field of a decoded body that does not suit its struct, and what is wrong with it.

Runs for refused requests alone, so it may take its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Raw

from bandexa_core.wording import in_words, not_finite
from service.http.arrays import NO_ARRAY
from service.http.problems import nearest_key
from service.http.wording import NEEDED

MAX_NAMED = 20  # fields that one refusal names
UNKNOWN_KEY = "unknown key"


def field_errors(kind: type[msgspec.Struct], value: Any) -> list[tuple[str, str]]:
    """Return (field, message) for each field of `value` that does not suit the struct `kind`."""
    if not isinstance(value, dict):
        return [("body", "must be an object")]
    if any(not isinstance(key, str) for key in value):
        return [("body", "its keys must be texts")]
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    errors: list[tuple[str, str]] = []
    for name, field in fields.items():
        if name not in value:
            if field.required:
                errors.append((name, NEEDED))
        elif (found := _value_error(field.type, value[name])) is not None:
            path, message = found
            errors.append((".".join([name, *path]), message))
    unknown = [_printable(key) for key in value if key not in fields]
    errors += _unknown_keys(kind, [(key,) for key in unknown])
    return [_with_suggestion(kind, error) for error in errors[:MAX_NAMED]]


def _unknown_keys(kind: Any, paths: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return the errors of unknown keys; the first names the key that was probably meant."""
    found = [(".".join(path), UNKNOWN_KEY) for path in paths]
    if paths and (meant := nearest_key(kind, paths[0])) is not None:
        found[0] = (found[0][0], f"{UNKNOWN_KEY}; did you mean {meant!r}?")
    return found


def _with_suggestion(kind: Any, error: tuple[str, str]) -> tuple[str, str]:
    """Add the nearest key to an unknown key inside a list."""
    field, message = error
    if message != UNKNOWN_KEY or "." not in field:
        return error
    return _unknown_keys(kind, [tuple(field.split("."))])[0]


def _value_error(kind: Any, value: Any) -> tuple[list[str], str] | None:
    """Return where inside a field's value the error is, and what it is; None: the value fits."""
    if (found := not_finite(value)) is not None:
        return found
    try:
        if (checkable := _without_raw(kind)) is not None:
            msgspec.convert(value, checkable)
    except msgspec.ValidationError as error:
        return _entry_error(kind, value) or located(str(error))
    except (OverflowError, RecursionError, UnicodeError):
        return [], "is out of range"
    return None


def _entry_error(kind: Any, value: Any) -> tuple[list[str], str] | None:
    """Return the first error of an object's entries by its key, which the decoder leaves out."""
    if get_origin(kind) is Annotated:
        return _entry_error(get_args(kind)[0], value)
    if get_origin(kind) in (Union, UnionType):
        found = (_entry_error(each, value) for each in get_args(kind))
        return next((error for error in found if error is not None), None)
    if get_origin(kind) is not dict or not isinstance(value, dict):
        return None
    _, entry = get_args(kind)
    for key, item in value.items():
        if isinstance(key, str) and (error := _value_error(entry, item)) is not None:
            path, message = error
            return [_printable(key), *path], message
    return None


def _without_raw(kind: Any) -> Any:
    """Return the type without parts that are decoded later; None: all of it is."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if base is Raw:
        return None
    if base == list[Raw]:
        return Annotated[(list[Any], *kind.__metadata__)]
    return kind


def located(message: str) -> tuple[list[str], str]:
    """Split a message of msgspec into the path inside the value and what is wrong there."""
    text, _, place = message.partition(" - at `$")
    path = [
        part for part in place.rstrip("`").replace("[", ".").replace("]", "").split(".") if part
    ]
    if "features" in path:  # one error for the whole array, not for its first wrong number
        path = path[: path.index("features") + 1]
        return path, f"{NO_ARRAY}; or an object with named features"
    for start, message in (
        ("Object contains unknown field `", UNKNOWN_KEY),
        ("Object missing required field `", NEEDED),
    ):
        if text.startswith(start):
            return [*path, _printable(text[len(start) : -1])], message
    return path, in_words(text)


def _printable(key: str) -> str:
    return key.encode("utf-8", "replace").decode()
