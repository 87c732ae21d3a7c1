"""What a log stores of an object whose fields are personal: all of it, a digest, or nothing.

The rules are applied before an object becomes a row, so that whoever comes later, the model as well
as the store, has only what is stored. A digest is keyed by a salt of the bandit: without that key
nobody can compute it from a guessed value, and two bandits have different ones of the same value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from bandexa_core.schema.features import Features, field_around
from bandexa_core.schema.fields import CategoriesField, Field
from bandexa_core.schema.limits import LEAST_INTEGER, MOST_INTEGER
from bandexa_core.schema.objects import JsonObject, dumps, flatten
from bandexa_core.schema.values import as_number, as_text, as_time, as_truth

DIGEST_BYTES = 12  # 24 hex digits: two of a billion values are alike with a chance of 1e-11
_DIGEST = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")


def as_logged(features: Features, value: JsonObject, salt: bytes) -> JsonObject:
    """Return a checked object as it is logged.

    Args:
        features: What is declared.
        value: The object, which `check` has let pass. It is not changed.
        salt: The key of digests, at most 64 bytes.
    """
    if not features.personal:
        return value
    return _logged(features, value, "", salt)


def _logged(features: Features, value: JsonObject, prefix: str, salt: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        path = prefix + name
        place = personal_around(path, features)
        if place is None:
            inner = isinstance(item, dict)
            found[name] = _logged(features, item, f"{path}.", salt) if inner else item
        elif features.personal[place] == "hash":
            found[name] = _hashed(features.fields[place], path, item, salt)
    return found


def personal_around(path: str, features: Features) -> str | None:
    """Return the field of a path, or the one that it is a part of, if its values are not stored."""
    return path if path in features.personal else field_around(path, features.personal)


def _hashed(known: Field, path: str, item: Any, salt: bytes) -> Any:
    """Return the digest of a value; of a list of categories, one for each entry."""
    if item is None:
        return None
    if isinstance(known, CategoriesField) and isinstance(item, list | tuple):
        return [digest(salt, path, as_text(entry) or "") for entry in item]
    text = _text(known, item)
    return digest(salt, path, dumps({"": canonical(item)}).decode() if text is None else text)


def _text(known: Field, item: Any) -> str | None:
    """Return a value as one text for all forms that its field reads alike: 7, 7.0 and "7"."""
    if known.type == "number":
        return as_text(as_number(item))
    if known.type == "bool":
        return as_text(as_truth(item))
    if known.type == "time":
        time = as_time(item)
        return None if time is None else repr(time)
    return None if known.type in ("vector", "image", "ignore") else as_text(item)


def digest(salt: bytes, path: str, text: str) -> str:
    """Return the digest of a text at a path, as 24 hex digits."""
    data = f"{len(path)}:{path}{text}".encode("utf-8", "surrogatepass")
    return blake2b(data, key=salt, person=b"bandexa.fields", digest_size=DIGEST_BYTES).hexdigest()


def is_digest(value: Any) -> bool:
    """Whether a value has the form of a digest; or a list, and all its entries have."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, str) and is_digest(item) for item in value)
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def canonical(value: Any) -> Any:
    """Return a JSON value so that equal numbers are written alike: 1.0 as 1, -0.0 as 0."""
    if isinstance(value, float):
        if math.isfinite(value) and value.is_integer() and LEAST_INTEGER <= value <= MOST_INTEGER:
            return int(value)
        return value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Mapping):
        return {name: canonical(item) for name, item in value.items()}
    return value


def identity(value: JsonObject) -> bytes:
    """Return the same bytes for all objects that say the same.

    The order of keys, nulls, 1 or 1.0, and {"a": {"b": 1}} or {"a.b": 1} make no difference.
    """
    return dumps({path: canonical(item) for path, item in flatten(value).items()})
