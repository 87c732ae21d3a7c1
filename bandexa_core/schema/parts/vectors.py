"""A list of numbers of one size: each is centred, scaled and bounded as a number."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bandexa_core.schema.observed import CONVERTED, EXTREME, OK, WRONG
from bandexa_core.schema.parts.part import BOUND, Part, Write, is_scale, require
from bandexa_core.schema.values import as_vector

_NUMBERS = {float, int}


@dataclass(frozen=True, slots=True)
class VectorPart(Part):
    """The numbers of a list, without those that never varied.

    A number whose scaled size is beyond `far` becomes 0, as a missing one.

    Attributes:
        size: How many numbers the list has.
        kept: Which of them have a column; mean, std and far are those of these.
        mean: Subtracted from each.
        std: What each is divided by.
        far: The size of a scaled value that is no longer believed.
    """

    kind: ClassVar[str] = "vector"

    size: int
    kept: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    far: tuple[float, ...]

    def __post_init__(self) -> None:
        places = self.kept
        require(places == tuple(sorted(set(places))), "places in ascending order")
        require(all(0 <= place < self.size for place in places), "places within its size")
        sizes = {len(places), len(self.mean), len(self.std), len(self.far)}
        require(len(sizes) == 1, "as many scales as places")
        require(all(map(is_scale, self.mean, self.std, self.far)), "usable scales")

    def _names(self) -> Iterable[str]:
        return (f"[{place}]" for place in self.kept)

    def writer(self, first: int) -> Write:
        """Return the function that writes values into columns from number `first` on."""
        size, num = self.size, len(self.kept)
        kept = None if num == size else np.array(self.kept, np.intp)
        mean, std, far = (np.array(part) for part in (self.mean, self.std, self.far))
        missing = first + num if self.missing else None

        def write(value: Any, out: array[float], base: int) -> int:
            numbers = _numbers(value, size)
            if numbers is None:
                return WRONG
            with np.errstate(over="ignore"):
                scaled = ((numbers if kept is None else numbers[kept]) - mean) / std
            believed = np.abs(scaled) <= far
            bounded = np.where(believed, np.minimum(np.maximum(scaled, -BOUND), BOUND), 0.0)
            out[base + first : base + first + num] = array("f", bounded.astype("f").tobytes())
            if missing is not None:
                out[base + missing] = 0.0
            if not believed.all():
                return EXTREME
            return OK if _NUMBERS.issuperset(map(type, value)) else CONVERTED

        return write


def _numbers(value: Any, size: int) -> NDArray[np.float64] | None:
    """Return a list as numbers (size,), fast where it is one of plain numbers."""
    if type(value) is list and len(value) == size and _NUMBERS.issuperset(map(type, value)):
        try:
            found = np.array(value, np.float64)
        except OverflowError:
            return None
        return found if math.isfinite(float(np.abs(found).max())) else None
    converted = as_vector(value, size)
    return None if converted is None else np.array(converted, np.float64)
