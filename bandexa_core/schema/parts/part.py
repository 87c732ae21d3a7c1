"""What all fitted fields have in common."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

BOUND = 10.0  # no column has a larger value, so that none can drown the others

# Writes a value that is not null into the row that starts at a place, and returns what became of
# it, as `observed` has it. A row starts as that of an object without any field; a value that cannot
# be read leaves it so.
Write = Callable[[Any, "array[float]", int], int]


@dataclass(frozen=True, slots=True)
class Part:
    """One field of an encoding.

    Attributes:
        path: Where the value is in an object.
        missing: Whether a column, the last one, says that the value is missing.
    """

    kind: ClassVar[str] = ""

    path: str
    missing: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The name of each column."""
        path = escaped(self.path)
        names = [path + name for name in self._names()]
        return (*names, f"{path}?missing") if self.missing else tuple(names)

    def fill(self) -> list[float]:
        """Return the columns of an object without the field."""
        return [*self._fill(), 1.0] if self.missing else list(self._fill())

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        raise NotImplementedError

    def hashed(self, value: Any) -> Iterable[tuple[int, int]]:
        """Return the place and the hash of everything in a value that is hashed."""
        return ()

    def same_columns(self, before: Part) -> set[str]:
        """Return the columns that have the same value in both fields, whatever the object."""
        if replace(before, missing=self.missing) != self:
            return set()
        return set(self.columns) & set(before.columns)

    def _names(self) -> Iterable[str]:
        """Return what follows the path in the names of the columns before `missing`."""
        raise NotImplementedError

    def _fill(self) -> Sequence[float]:
        return [0.0 for _ in self._names()]


def escaped(path: str) -> str:
    """Return a path for the names of columns, where = # ? [ @ and backslash end a path."""
    if not any(mark in path for mark in "\\=#?[@"):
        return path
    return "".join(f"\\{letter}" if letter in "\\=#?[@" else letter for letter in path)


def require(holds: bool, what: str) -> None:
    """Raise a ValueError that says what a stored part must have, unless it has."""
    if not holds:
        raise ValueError(f"must have {what}")


def is_scale(mean: float, std: float, far: float) -> bool:
    """Return whether the constants of a scale are usable."""
    return math.isfinite(mean) and 0.0 < std < math.inf and 0.0 < far < math.inf
