"""The fitted fields of an encoding: each knows its columns, and writes one value into a row."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from bandexa_core.schema.parts.categorical import CategoriesPart, CategoryPart
from bandexa_core.schema.parts.hashed import HashPart, TextPart
from bandexa_core.schema.parts.images import ImagePart
from bandexa_core.schema.parts.numeric import NumberPart
from bandexa_core.schema.parts.part import Part, Write
from bandexa_core.schema.parts.plain import BoolPart, ConstantPart
from bandexa_core.schema.parts.timed import TimePart
from bandexa_core.schema.parts.vectors import VectorPart

_KINDS: dict[str, type[Part]] = {
    kind.kind: kind
    for kind in (
        BoolPart, ConstantPart, NumberPart, CategoryPart, CategoriesPart,
        TextPart, HashPart, TimePart, VectorPart, ImagePart,
    )
}  # fmt: skip


def part_to_json(part: Part) -> dict[str, Any]:
    """Return a part as a JSON object."""
    return {"kind": part.kind} | dataclasses.asdict(part)


def part_from_json(value: object) -> Part:
    """Return the part that `part_to_json` wrote.

    Raises:
        ValueError: The value describes no part.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None or not isinstance(value, dict):
        raise ValueError("encoding: a part of no known kind")
    names = {attribute.name for attribute in dataclasses.fields(cls)}
    if value.keys() != names | {"kind"}:
        raise ValueError(f"encoding: a {kind} has {', '.join(sorted(names))}")
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise ValueError(f"encoding: {kind}: {error}") from None


__all__ = [
    "BoolPart",
    "CategoriesPart",
    "CategoryPart",
    "ConstantPart",
    "HashPart",
    "ImagePart",
    "NumberPart",
    "Part",
    "TextPart",
    "TimePart",
    "VectorPart",
    "Write",
    "part_from_json",
    "part_to_json",
]
