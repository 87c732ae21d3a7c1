"""Which columns of two encodings stand for the same value: `interests=audio` and `tags=audio`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.schema.encoding import Encoding
from bandexa_core.schema.parts.categorical import CategoriesPart, CategoryPart


class SharedColumns(NamedTuple):
    """The values that a field of contexts and one of actions both have.

    Attributes:
        x, a: The column of each of these values on either side, (J,) each.
    """

    x: NDArray[np.intp]
    a: NDArray[np.intp]


def shared_columns(x: Encoding, a: Encoding) -> list[SharedColumns]:
    """Return each pair of fields with values in common, most values first.

    Only values with columns of their own count: buckets say nothing of what is in them, and what
    was hashed for the log is not comparable across fields.
    """
    found = []
    for of_x in _values(x):
        for of_a in _values(a):
            both = [value for value in of_x if value in of_a]
            if both:
                places = [[side[value] for value in both] for side in (of_x, of_a)]
                found.append(SharedColumns(*(np.array(row, np.intp) for row in places)))
    return sorted(found, key=lambda pair: -len(pair.x))


def _values(encoding: Encoding) -> list[Mapping[str, int]]:
    """Return the columns of the values of each field that has a vocabulary."""
    found: list[Mapping[str, int]] = []
    first = 0
    for part in encoding.parts:
        if isinstance(part, CategoryPart | CategoriesPart):
            found.append({value: first + at for at, value in enumerate(part.values)})
        first += len(part.columns)
    return found
