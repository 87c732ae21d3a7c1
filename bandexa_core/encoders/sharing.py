"""Whether a context and an action have values in common, as few numbers.

Where a visitor's interests and an offer's tags are of the same words, what a word is hardly
matters: that both have it does. Products of columns have to learn that for each word anew; one
number for the pair of fields learns it from all of them.

Legend: N rows, K actions, J values that both sides have, P pairs of fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.schema.shared import SharedColumns

Array64 = NDArray[np.float64]

MOST_PAIRS, MOST_VALUES = 8, 256
_LOOKED_AT = 512  # contexts, and actions, by which a pair is centred and scaled
_LEAST_DEVIATION = 1e-6  # of a pair that varies: sums that are all equal differ by rounding


class SharedValues(NamedTuple):
    """Numbers for pairs of fields.

    Attributes:
        x, a: The columns of each value, (J,).
        pair: The pair that it belongs to, (J,).
        mean, scale: How the sum of a pair's products is centred and scaled, (P,).
    """

    x: NDArray[np.intp]
    a: NDArray[np.intp]
    pair: NDArray[np.intp]
    mean: Array64
    scale: Array64

    @classmethod
    def fitted(cls, pairs: Sequence[SharedColumns], x_NX: Array64, a_KA: Array64) -> Self:
        """Return the numbers of pairs of fields, for contexts with any of the actions.

        At most `MOST_PAIRS` pairs of `MOST_VALUES` values together; a pair that never varies has
        none.
        """
        x_NX, a_KA = x_NX[:_LOOKED_AT], a_KA[:_LOOKED_AT]
        of_x: list[NDArray[np.intp]] = []
        of_a: list[NDArray[np.intp]] = []
        frames: list[tuple[float, float]] = []
        for columns in pairs:
            num_values = sum(len(each) for each in of_x) + len(columns.x)
            if len(frames) == MOST_PAIRS or num_values > MOST_VALUES:
                continue
            sums = x_NX[:, columns.x] @ a_KA[:, columns.a].T
            deviation = float(sums.std())
            if not deviation > _LEAST_DEVIATION:
                continue
            of_x.append(columns.x)
            of_a.append(columns.a)
            frames.append((float(sums.mean()), 1.0 / deviation))
        none = [np.zeros(0, np.intp)]
        x, a = np.concatenate(none + of_x), np.concatenate(none + of_a)
        pair = np.repeat(np.arange(len(of_x)), [len(each) for each in of_x])
        mean, scale = np.array(frames, np.float64).reshape(-1, 2).T
        return cls(x, a, pair, mean, scale)

    def of(self, x_NX: Array64, a_NA: Array64) -> Array64:
        """Return the numbers of rows, (N, P)."""
        of_pair = self.pair[:, None] == np.arange(len(self.scale))
        sums: Array64 = (x_NX[:, self.x] * a_NA[:, self.a]) @ of_pair.astype(np.float64)
        return (sums - self.mean) * self.scale
