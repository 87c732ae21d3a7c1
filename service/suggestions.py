"""Which key a caller may have meant: the nearest one that belongs where an unknown one stood.

Asked only when a request is refused; what belongs where is read off the models' fields.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

LONGEST = 48  # characters of a key that is compared; twice what any of ours has


def nearest_key(model: Any, path: Sequence[str | int]) -> str | None:
    """Return the key that the last one of `path` resembles, among those `model` has there.

    Args:
        model: A pydantic model, a dataclass, or a union or list of them.
        path: Where the unknown key stands: keys, indexes, and pydantic's names of union members.
    """
    if not path or len(key := str(path[-1])) > LONGEST:
        return None
    members = [_fields(member) for member in _members(model)]
    for step in path[:-1]:
        inner = [fields[step] for fields in members if step in fields]
        if inner:  # else it is an index, or tells members of a union apart
            members = [_fields(member) for part in inner for member in _members(part)]
    return _nearest(key, tuple(sorted({name for fields in members for name in fields})))


@lru_cache(maxsize=1024)  # the items of a batch have the same mistake
def _nearest(key: str, known: tuple[str, ...]) -> str | None:
    found = difflib.get_close_matches(key, known, n=1)
    return found[0] if found else None


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the models that an annotation is made of."""
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    ):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _members(part)


@lru_cache(maxsize=256)
def _fields(model: Any) -> dict[str | int, Any]:
    """Return the annotations of a model's fields by name."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    hints = get_type_hints(model)
    return {field.name: hints[field.name] for field in dataclasses.fields(model)}
