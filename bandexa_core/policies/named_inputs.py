"""Objects with named features as the inputs of an encoder: by encodings that a snapshot freezes.

The log has objects as JSON, padded with zeros to the bytes that the bandit allows. An encoding
makes rows of numbers of them, and learns new values and scales in a round. Legend: N rows, R bytes
of an object, X and A columns of an encoded context and action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.policies.standardizing import InputRows, spaced
from bandexa_core.schema import Encoding, Features, fit, from_bytes
from bandexa_core.schema.encoding import ImagePlace
from bandexa_core.schema.objects import JsonObject
from bandexa_core.schema.shared import SharedColumns, shared_columns
from bandexa_core.spec import BanditSpec

GROWTH = 1.25  # of the rows behind an encoding, before the next one is fitted
MOST_REMEMBERED = 1 << 16  # encoded actions, and
REMEMBERED_BYTES = 64 << 20  # of them with their objects at most, where these are large
_SIDES = ("x", "a")


class NamedCross(NamedTuple):
    """A product of two fields that a linear model has.

    Attributes:
        context, action: The fields' paths; of a side with numbers, the number of the column.
        inputs: The inputs that it has.
        shared: Whether it is how many values both have in common.
        gain: By which share of the variance of rewards it lowered the error of held-out rows.
    """

    context: str
    action: str
    inputs: int
    shared: bool
    gain: float


def padded(data: bytes, size: int) -> NDArray[np.uint8]:
    """Return the bytes of an object as they are logged, uint8 (size,).

    Raises:
        ValueError: They are too many.
    """
    if len(data) > size:
        raise ValueError(f"has {len(data)} bytes as JSON, at most {size} are allowed")
    row = np.zeros(size, np.uint8)
    row[: len(data)] = np.frombuffer(data, np.uint8)
    row.setflags(write=False)
    return row


def object_of(row: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the object of one logged row, (R,); an erased one is empty."""
    return _object(row.tobytes())


def objects_of(rows_NR: NDArray[np.uint8]) -> list[JsonObject]:
    """Return the objects of logged rows."""
    return [object_of(row) for row in rows_NR]


@dataclass(frozen=True, slots=True, eq=False)
class NamedInputs:
    """The encodings of both sides; a side without named features has none.

    Attributes:
        x, a: The encoding of contexts, and of actions.
    """

    x: Encoding | None
    a: Encoding | None
    _rows: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def initial(cls, spec: BanditSpec) -> Self | None:
        """Return the encodings before any row; None where nothing has named features."""
        if not spec.has_named_features:
            return None
        return cls(_initial(spec.context.declared), _initial(spec.actions.declared))

    @property
    def num_rows(self) -> int:
        """Learned values behind the encodings; 0: everything is hashed."""
        return max(side.num_rows for side in (self.x, self.a) if side is not None)

    def is_due(self, num_rows: int) -> bool:
        """Whether encodings are to be fitted at `num_rows` learned values."""
        return num_rows > GROWTH * self.num_rows

    @property
    def image(self) -> ImagePlace | None:
        """Where the pixels of an encoded context are; None without an image."""
        return None if self.x is None else self.x.image

    def sizes(self, spec: BanditSpec) -> tuple[tuple[int, ...], int]:
        """Return the shape of contexts and the size of actions as encoders take them."""
        shape = spec.context.stored_shape if self.x is None else (_width(self.x),)
        return shape, spec.action_dim if self.a is None else _width(self.a)

    def fields(self, sizes: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the number of the field of each column, for contexts and for actions.

        Args:
            sizes: The columns of both; those of a side without names are fields of their own.
        """
        return _fields(self.x, sizes[0]), _fields(self.a, sizes[1])

    def field_names(self, sizes: tuple[int, int]) -> tuple[list[str], list[str]]:
        """Return the names of the fields that `fields` numbers; without names, their numbers."""
        return _field_names(self.x, sizes[0]), _field_names(self.a, sizes[1])

    def shared(self) -> list[SharedColumns]:
        """Return the columns of both sides that stand for the same values, by pairs of fields."""
        return [] if self.x is None or self.a is None else shared_columns(self.x, self.a)

    def contexts(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return one context (R,) or several (N, R) as numbers, float32 (..., X)."""
        assert self.x is not None, "contexts are arrays here"
        if raw.ndim == 1:
            row: NDArray[np.float32] = _encoded(self.x, [object_of(raw)])[0]
            return row
        return _encoded(self.x, objects_of(raw))

    def actions(self, raw_NR: NDArray[Any]) -> NDArray[np.float32]:
        """Return actions (N, R) as numbers, float32 (N, A); equal ones are encoded once.

        Several threads may call it: none counts on what another one may forget meanwhile.
        """
        encoding, known = self.a, self._rows
        assert encoding is not None, "actions are numbers here"
        width = _width(encoding)
        keys = [row.tobytes() for row in raw_NR]
        if not keys:
            return np.zeros((0, width), np.float32)
        rows = {key: row for key in keys if (row := known.get(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in rows]
        if missing:
            found = _encoded(encoding, [_object(key) for key in missing])
            new = dict(zip(missing, found, strict=True))
            rows |= new
            most = min(MOST_REMEMBERED, REMEMBERED_BYTES // (raw_NR.shape[1] + 4 * width))
            if len(known) + len(new) > most:
                known.clear()
            if len(new) <= most:
                known.update(new)
        return np.stack([rows[key] for key in keys])

    def fitted(self, rows: InputRows | None, catalogue_KR: NDArray[Any], num_rows: int) -> Self:
        """Return encodings fitted to the inputs of learned rows, and to the catalogue.

        Args:
            rows: Inputs of learned rows; None without any.
            catalogue_KR: The enabled actions, whose values are known before they are chosen.
            num_rows: Learned values so far.
        """
        if rows is None:
            return self
        x, a = self.x, self.a
        if x is not None:
            x = _counted(fit(x.features, objects_of(rows.contexts), rows.weights), num_rows)
        if a is not None:
            chosen, offered = objects_of(rows.actions), objects_of(spaced(catalogue_KR))
            weights = np.ones(len(chosen)) if rows.weights is None else rows.weights
            whole = np.concatenate([weights, np.ones(len(offered))])
            a = _counted(fit(a.features, [*chosen, *offered], whole), num_rows)
        return type(self)(x, a)

    def norms(self, rows: InputRows) -> dict[str, float]:
        """Return the mean squared length of the encoded rows of each named side.

        The pixels of an image are left out: they have layers of their own.
        """
        found = {}
        if self.x is not None:
            contexts = self.contexts(rows.contexts)
            if self.image is not None:
                first, size = self.image.first, math.prod(self.image.shape)
                contexts = np.delete(contexts, slice(first, first + size), axis=1)
            found["x"] = _mean_square(contexts)
        if self.a is not None:
            found["a"] = _mean_square(self.actions(rows.actions))
        return found

    def places(self, before: NamedInputs) -> dict[str, NDArray[np.intp]]:
        """Return for each named side which column each of its columns was `before`; -1: none."""
        return {
            side: _places(getattr(self, side), getattr(before, side))
            for side in _SIDES
            if getattr(self, side) is not None
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the encodings as named arrays."""
        sides = ((side, getattr(self, side)) for side in _SIDES)
        return {
            side: np.frombuffer(encoding.to_bytes(), np.uint8)
            for side, encoding in sides
            if encoding is not None
        }

    def loaded(self, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """Return the encodings that `tensors` wrote, of the same features.

        Raises:
            ValueError: One is missing, or is no encoding of these features.
        """
        if tensors.keys() != self.tensors().keys():
            raise ValueError("encoding: the snapshot has others")
        found = {side: Encoding.from_bytes(tensors[side].tobytes()) for side in tensors}
        for side, encoding in found.items():
            if encoding.features != getattr(self, side).features:
                raise ValueError("encoding: the snapshot has one of other features")
        return type(self)(found.get("x"), found.get("a"))


def _object(data: bytes) -> dict[str, Any]:
    return from_bytes(data.rstrip(b"\0") or b"{}")


def _initial(features: Features | None) -> Encoding | None:
    return None if features is None else Encoding.initial(features)


def _width(encoding: Encoding) -> int:
    return max(1, encoding.width)


def _fields(encoding: Encoding | None, size: int) -> NDArray[np.intp]:
    if encoding is None:
        return np.arange(size)
    if encoding.is_first or not encoding.width:
        return np.zeros(size, np.intp)
    return np.repeat(np.arange(len(encoding.parts)), [len(part.columns) for part in encoding.parts])


def _field_names(encoding: Encoding | None, size: int) -> list[str]:
    if encoding is None:
        return [str(number) for number in range(size)]
    return [part.path for part in encoding.parts]


def _encoded(encoding: Encoding, objects: Sequence[JsonObject]) -> NDArray[np.float32]:
    rows = encoding.encode(objects)
    # No field has varied: an encoder gets one column of zeros.
    return rows if encoding.width else np.zeros((len(objects), 1), np.float32)


def _mean_square(rows_NF: NDArray[np.float32]) -> float:
    return float(np.einsum("nf,nf->", rows_NF, rows_NF)) / max(1, len(rows_NF))


def _counted(encoding: Encoding, num_rows: int) -> Encoding:
    """Return the encoding as one of all rows, of which it has seen a sample.

    That of rows without any weight has seen none, and remains one that hashes everything.
    """
    if encoding.is_first:
        return encoding
    return replace(encoding, num_rows=num_rows)


def _places(now: Encoding, before: Encoding) -> NDArray[np.intp]:
    return now.places_in(before) if now.width else np.full(1, -1, np.intp)
