"""Arrays and objects of a request, checked against the bandit's configuration before their use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.byte_rows import longest, resized
from bandexa_core.policies.named_inputs import object_of, padded
from bandexa_core.schema import Features, accept, to_bytes
from bandexa_core.schema.objects import flatten
from bandexa_core.schema.personal import as_logged, is_digest
from bandexa_core.spec import MAX_REWARD
from bandexa_core.spec.inputs import ActionsSpec, ContextSpec
from service.store.errors import InvalidRequest

# Products of such numbers stay far below what a posterior refuses (rows.MAX_NORM): whatever is
# answered can be learned from.
MAX_SIZE = MAX_REWARD


def conform(value: Any, shape: tuple[int, ...], dtype: str, field: str) -> NDArray[Any]:
    """Return `value` as a finite, read-only array of exactly this shape and dtype.

    Raises:
        InvalidRequest: It cannot be one; names `field`.
    """
    if isinstance(value, np.ndarray):
        array = value
    else:
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError) as error:
            raise InvalidRequest(field, "must be evenly nested lists of numbers") from error
    if array.dtype.kind not in "iuf" and array.size:
        raise InvalidRequest(field, "must be evenly nested lists of numbers")
    if array.shape != shape:
        raise InvalidRequest(field, f"has shape {list(array.shape)}, needs {list(shape)}")
    # Checked before any cast, so that nothing overflows; the comparison is false for NaN, too.
    if dtype != "uint8" and array.size:
        size = np.maximum.reduce(np.abs(array), axis=None)
        if not size <= MAX_SIZE:
            raise InvalidRequest(field, f"must hold finite numbers, at most {MAX_SIZE:g} in size")
    if array.dtype == dtype:
        out = array if array.dtype.isnative and array.flags.c_contiguous else array.copy()
    elif dtype == "uint8":
        if not ((array >= 0) & (array <= 255) & (array == np.floor(array))).all():
            raise InvalidRequest(field, "must hold whole numbers from 0 to 255")
        out = array.astype(np.uint8)
    else:
        out = array.astype(dtype)
    out.setflags(write=False)
    return out


MOST_ROW_BYTES = 128 << 20  # of the objects of one request, with their padding


@dataclass(frozen=True, slots=True)
class NamedSide:
    """What the objects of one side may be: those of contexts, or those of actions.

    Attributes:
        declared: The named features.
        max_bytes: The most bytes of an object as JSON.
        salt: The key of the digests that are logged in place of personal values.
        takes_digests: Whether objects are of a log, so that a digest in place of a personal value
            is logged as it is.
        any_length: Whether objects may be longer: those of a log are read, under whichever limit
            they were accepted.
    """

    declared: Features
    max_bytes: int
    salt: bytes
    takes_digests: bool = False
    any_length: bool = False

    @classmethod
    def of(cls, spec: ContextSpec | ActionsSpec, salt: bytes) -> Self | None:
        """Return the side that a configuration describes; None where it has numbers."""
        declared = spec.declared
        return None if declared is None else cls(declared, spec.max_bytes, salt)

    @classmethod
    def of_logged(cls, spec: ContextSpec | ActionsSpec) -> Self | None:
        """Return the side for objects of a log: what it has of personal values is taken as it is.

        A digest is a category there, and not hashed again.
        """
        declared = spec.declared
        if declared is None:
            return None
        fields = {path: replace(known, log="keep") for path, known in declared.learned.items()}
        return cls(replace(declared, fields=fields), spec.max_bytes, b"", any_length=True)

    def copied(self, rows: NDArray[Any], other: Features) -> NDArray[np.uint8]:
        """Return objects of another bandit's log, uint8 (N, R), as this one's log has them.

        They are uint8 (N, max_bytes), or wider where one of them is longer.

        What is personal in both is copied as it is, so that no digest is hashed again; what only
        this bandit declares so is hashed or dropped.

        Args:
            rows: The objects as they are logged.
            other: What is declared for them where they are from.
        """
        here = {path for path in self.declared.personal if path not in other.personal}
        if not here:
            return resized(rows, max(self.max_bytes, longest(rows)))
        fields = {
            path: known if path in here else replace(known, log="keep")
            for path, known in self.declared.fields.items()
        }
        declared = replace(self.declared, fields=fields)
        found = [to_bytes(as_logged(declared, object_of(row), self.salt)) for row in rows]
        size = max(self.max_bytes, *map(len, found), 0)
        return np.array([padded(data, size) for data in found])

    def row(self, value: Any, field: str) -> NDArray[np.uint8]:
        """Return an object as it is logged: its JSON with zeros behind it, uint8 (max_bytes,).

        Args:
            value: The decoded object.
            field: Its place in the request, such as "context".

        Raises:
            InvalidRequest: It is not what is declared, or too large; names the field by its path.
        """
        try:
            declared = self._with_digests(value) if self.takes_digests else self.declared
            data = accept(declared, value, field, self.salt)
        except ValueError as error:
            raise _refusal(error, field) from error
        size = max(self.max_bytes, len(data)) if self.any_length else self.max_bytes
        try:
            return padded(data, size)
        except ValueError as error:
            raise InvalidRequest(field, str(error)) from error

    def _with_digests(self, value: Any) -> Features:
        """Return what is declared for an object, without the rules for its digests."""
        declared = self.declared
        if not declared.personal or not isinstance(value, dict):
            return declared
        known = flatten(value)
        digests = {path for path in declared.personal if is_digest(known.get(path))}
        fields = {
            path: replace(declared.learned[path], log="keep") if path in digests else field
            for path, field in declared.fields.items()
        }
        return replace(declared, fields=fields)

    def rows(self, values: Sequence[Any], field: str) -> NDArray[np.uint8]:
        """Return objects as they are logged, uint8 (N, max_bytes).

        Args:
            values: The decoded objects.
            field: The place of each in the request, with "{}" for its number.

        Raises:
            InvalidRequest: One is not what is declared, or they are too many for one request.
        """
        most = MOST_ROW_BYTES // self.max_bytes
        if len(values) > most:
            side = field.partition(".")[0]
            raise InvalidRequest(side, f"at most {most} objects of {self.max_bytes} bytes at once")
        rows = np.zeros((len(values), self.max_bytes), np.uint8)
        for number, value in enumerate(values):
            row = self.row(value, field.format(number))
            if len(row) > rows.shape[1]:
                rows = resized(rows, len(row))
            rows[number, : len(row)] = row
        rows.setflags(write=False)
        return rows


def _refusal(error: ValueError, field: str) -> InvalidRequest:
    """Return the refusal of an object, whose message begins with the place of what is wrong."""
    place, colon, message = str(error).partition(": ")
    if colon and place.startswith(field):
        return InvalidRequest(place, message, quotes=True)
    return InvalidRequest(field, str(error), quotes=True)
