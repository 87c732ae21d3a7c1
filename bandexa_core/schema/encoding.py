"""Turns plain objects into rows of float32, by constants that a snapshot freezes.

An encoding is a value: the same constants and the same object give the same row in every process.
Encoding never raises for a value, whatever it is: an object that was accepted under one
declaration must be encoded under the next one. What cannot be read counts as missing.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.schema.drift import Bins
from bandexa_core.schema.features import Features, field_to_json, fields_from_json
from bandexa_core.schema.fields import Field
from bandexa_core.schema.first_plan import HashedPlan
from bandexa_core.schema.limits import MAX_INPUTS
from bandexa_core.schema.objects import JsonObject, dumps, from_bytes
from bandexa_core.schema.observed import Observed
from bandexa_core.schema.parts import ImagePart, Part, part_from_json, part_to_json
from bandexa_core.schema.plans import FieldPlan

FIRST_WIDTH = 64
_FORMAT = 1
_KEYS = {"format", "features", "unknown", "strict", "fields", "num_rows", "parts", "width", "bins"}


class ImagePlace(NamedTuple):
    """Where the columns of a row are pixels, row by row.

    Attributes:
        first: The first of them.
        shape: (H, W) or (C, H, W).
    """

    first: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """How the objects of one side become rows.

    Attributes:
        features: What is declared.
        fields: The type of each field by its path: declared ones, as a model sees them, and those
            found in rows.
        num_rows: Rows behind the constants; 0: none, everything is hashed.
        parts: The fitted fields, in the order of their columns; empty where everything is hashed.
        first_width: The width of a row where everything is hashed.
        bins: What recent objects are compared with: see `drift`.
        columns: The name of each column: "age", "age[3]" (a piece of it, or a number of a vector),
            "country=DE", "country#2" (a bucket, or the place of a hash), "at@weekend" (a side of a
            time), "age?missing". In the next encoding a column of this name means the same, but for
            scales and edges that have moved, so that a model can move what it knows.
    """

    features: Features
    fields: Mapping[str, Field]
    num_rows: int
    parts: tuple[Part, ...]
    first_width: int = FIRST_WIDTH
    bins: tuple[Bins, ...] = ()
    columns: tuple[str, ...] = field(init=False)
    _plan: FieldPlan | HashedPlan = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.is_first:
            columns = tuple(f"#{number}" for number in range(self.first_width))
            if self.features.image is not None:
                path, known = self.features.image
                columns += ImagePart(path, False, known.shape).columns
            plan: FieldPlan | HashedPlan = HashedPlan(self.features, self.first_width)
        else:
            columns = tuple(name for part in self.parts for name in part.columns)
            ignored = {path for path, known in self.fields.items() if known.type == "ignore"}
            plan = FieldPlan(self.parts, ignored, self.sets)
        if len(columns) > MAX_INPUTS or len(set(columns)) < len(columns):
            raise ValueError(f"encoding: at most {MAX_INPUTS} columns, with different names")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "_plan", plan)

    @classmethod
    def initial(cls, features: Features, width: int = FIRST_WIDTH) -> Encoding:
        """Return the encoding before anything was fitted: signed hashes of path and value.

        A pure function: no row is needed, and none changes it.
        """
        return cls(features, features.learned, 0, (), width)

    @property
    def is_first(self) -> bool:
        """Whether nothing was fitted, and everything is hashed."""
        return self.num_rows == 0

    @property
    def image(self) -> ImagePlace | None:
        """Where the pixels are; None without an image."""
        if self.features.image is None:
            return None
        path, known = self.features.image
        first = self.first_width
        if not self.is_first:
            before = [part.path for part in self.parts].index(path)
            first = sum(len(part.columns) for part in self.parts[:before])
        return ImagePlace(first, known.shape)

    @property
    def sets(self) -> frozenset[str]:
        """The paths of objects whose names are the values of one field."""
        if not self.features.namespaces:
            return frozenset()
        declared = self.features.fields
        return frozenset(
            path
            for path, known in self.fields.items()
            if known.type == "categories" and path not in declared
        )

    @property
    def width(self) -> int:
        """The number of columns; 0 where no field has ever varied."""
        return len(self.columns)

    def encode(
        self, objects: Sequence[JsonObject], observed: Observed | None = None
    ) -> NDArray[np.float32]:
        """Return the rows of objects (N,) as float32 (N, width), each value within +-10.

        Args:
            objects: The objects, as they were decoded.
            observed: Counts what the objects had, at about twice the time.

        Raises:
            ValueError: One of them is no object.
        """
        width, plan = self.width, self._plan
        out = array("f", plan.empty * len(objects))
        base = 0
        for value in objects:
            if not isinstance(value, Mapping):
                raise ValueError("encode: must be given objects")
            if observed is None:
                plan.write(value, out, base)
            else:
                plan.observe(value, out, base, observed)
            base += width
        if not out:
            return np.zeros((len(objects), width), np.float32)
        return np.frombuffer(out, np.float32).reshape(len(objects), width)

    def places_in(self, before: Encoding, *, exact: bool = False) -> NDArray[np.intp]:
        """Return for each column (width,) which one it was `before`; -1: it is new.

        Args:
            before: The encoding that a model knows.
            exact: Only columns that have the same value in both, whatever the object: of a fitted
                number not one whose scale or edges have moved, and no bucket that lost a value. A
                linear posterior can move these without a rebuild.
        """
        places = {name: at for at, name in enumerate(before.columns)}
        found = np.array([places.get(name, -1) for name in self.columns], np.intp)
        if exact and not self.is_first:
            known = {part.path: part for part in before.parts}
            pairs = ((part, known[part.path]) for part in self.parts if part.path in known)
            same = set().union(*(part.same_columns(other) for part, other in pairs))
            found[[name not in same for name in self.columns]] = -1
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON-able values."""
        return {
            "format": _FORMAT,
            "features": self.features.to_json(),
            "unknown": self.features.unknown,
            "strict": self.features.strict,
            "fields": {path: field_to_json(known) for path, known in self.fields.items()},
            "num_rows": self.num_rows,
            "parts": [part_to_json(part) for part in self.parts],
            "width": self.first_width,
            "bins": [asdict(each) for each in self.bins],
        }

    @classmethod
    def from_json(cls, value: object) -> Encoding:
        """Return the encoding that `to_json` wrote.

        Raises:
            ValueError: The value describes no encoding.
        """
        is_ours = isinstance(value, dict) and value.get("format") == _FORMAT
        if not isinstance(value, dict) or not is_ours or value.keys() | {"bins"} != _KEYS:
            raise ValueError(f"encoding: must be an object of format {_FORMAT}")
        declared = Features.from_json(
            value["features"], unknown=value["unknown"], strict=value["strict"] is True
        )
        fields = value["fields"]
        if not isinstance(fields, dict):
            raise ValueError("encoding: fields are needed")
        num_rows, width, parts = value["num_rows"], value["width"], value["parts"]
        if not (type(num_rows) is int and num_rows >= 0 and isinstance(parts, list)):
            raise ValueError("encoding: num_rows and parts are needed")
        if not (type(width) is int and 1 <= width <= MAX_INPUTS):
            raise ValueError(f"encoding: width must be 1 to {MAX_INPUTS}")
        fitted = tuple(map(part_from_json, parts))
        try:
            bins = msgspec.convert(value.get("bins", []), tuple[Bins, ...])
        except msgspec.ValidationError as error:
            raise ValueError(f"encoding: bins: {error}") from None
        return cls(declared, fields_from_json(fields), num_rows, fitted, width, bins)

    def to_bytes(self) -> bytes:
        """Return the encoding as JSON, the same bytes for the same encoding."""
        return dumps(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Encoding:
        """Return the encoding that `to_bytes` wrote.

        Raises:
            ValueError: The bytes are no encoding.
        """
        return cls.from_json(from_bytes(data))
