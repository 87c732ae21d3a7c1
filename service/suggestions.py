"""Which key a caller may have meant: the nearest one that belongs where an unknown one stood.

Asked only when a request is refused. What belongs where is read off the JSON schema of what was
asked for, which nested models, unions and dataclasses are all part of.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter


def nearest_key(model: Any, path: Sequence[str | int]) -> str | None:
    """Return the key that the last one of `path` resembles, among those `model` has there."""
    *outer, key = path
    schema = _schema(model)
    nodes = _expanded([schema], schema)
    for step in outer:
        inner = [part for node in nodes if (part := _inside(node, step)) is not None]
        if inner:  # else the step tells members of a union apart
            nodes = _expanded(inner, schema)
    known = sorted({name for node in nodes for name in node.get("properties", ())})
    found = difflib.get_close_matches(str(key), known, n=1)
    return found[0] if found else None


@lru_cache(maxsize=64)
def _schema(model: Any) -> dict[str, Any]:
    return TypeAdapter(model).json_schema()


def _inside(node: dict[str, Any], step: str | int) -> Any:
    if isinstance(step, int):
        return node.get("items")
    return node.get("properties", {}).get(step)


def _expanded(nodes: Iterable[dict[str, Any]], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return schemas with references followed and members of unions beside each other."""
    found: list[dict[str, Any]] = []
    for node in nodes:
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            found += _expanded([schema["$defs"][name]], schema)
        for union in ("anyOf", "oneOf", "allOf"):
            found += _expanded(node.get(union, ()), schema)
        found.append(node)
    return found
